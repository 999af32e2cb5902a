"""The commands that ask a running registry, as people and scripts run them: processes of their own, a real server."""

import asyncio
import json
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from typer.main import get_command

from luna_grpc import cli_output
from luna_grpc.cli import app
from luna_grpc.serve import Running, running
from luna_grpc.v1 import registry_pb2 as pb
from pki import Pki
from support import Luna, Stub, clean_environment, luna, settings_for_tests

ROOT = Path(__file__).parent.parent
CLI = (ROOT / "docs" / "cli.md").read_text()
ID = "orders:localhost:8080"
HOSTILE = "a\x1b[31mb\nc"


class Ended(NamedTuple):
    """What a command left."""

    code: int | None
    out: str
    error: str


async def start(*words: str, **env: str) -> Process:
    """Run a command."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "luna_grpc", *words, stdout=PIPE, stderr=PIPE, env={**clean_environment(), **env}
    )


async def run(*words: str, server: Running | None = None, **env: str) -> Ended:
    """Run a command to its end, against a server."""
    if server is not None:
        env.setdefault("LUNA_ADDRESS", f"127.0.0.1:{server.grpc_port}")
    process = await start(*words, **env)
    out, error = await asyncio.wait_for(process.communicate(), 60)
    assert b"Traceback" not in error
    return Ended(process.returncode, out.decode(), error.decode())


async def register(stub: Stub, instance_id: str, **fields: object) -> None:
    """Register an instance."""
    await stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id=instance_id, **fields)))  # type: ignore[arg-type]


async def test_services_as_a_table(server: Running, stub: Stub) -> None:
    """One line each, without colours or control codes off a terminal, whatever the instances say."""
    await register(stub, ID, description=HOSTILE, version="1.2")
    await register(stub, "orders:localhost:8081", status=pb.STATUS_DOWN)
    await register(stub, "stock:localhost:9000")
    done = await run("services", server=server)
    assert (done.code, done.error) == (0, "")
    assert [line.split() for line in done.out.splitlines()] == [
        ["NAME", "STATUS", "INSTANCES", "UP"],
        ["orders", "UP", "1/2"],
        ["stock", "UP", "1/1"],
    ]
    wide = await run("services", "-o", "wide", server=server)
    assert r"a\x1b[31mb\nc" in wide.out
    assert "\x1b" not in wide.out
    assert len(wide.out.splitlines()) == 3


async def test_the_instances_of_a_service(server: Running, stub: Stub) -> None:
    """With what operators look for; a service that there is not is refused."""
    await register(stub, ID, metadata={"zone": HOSTILE}, balancer_options=pb.BalancerOptions(weight=7))
    await register(stub, "orders-eu:localhost:8080")
    done = await run("services", "orders", "-o", "wide", server=server)
    header, line = done.out.splitlines()
    assert header.split("  ")[0] == "ID"
    assert re.match(rf"{ID}  OK      REPORTED  \d+s ago", line)
    assert r"zone=a\x1b[31mb\nc" in line
    refused = await run("services", "order", server=server)
    assert (refused.code, refused.out) == (1, "")
    assert refused.error == "luna: there is no service 'order'; luna services lists those that there are\n"


async def test_json_is_what_other_grpc_tools_write(server: Running, stub: Stub) -> None:
    """Of all services, one service and one instance."""
    await register(stub, ID, description=HOSTILE)
    [service] = json.loads((await run("services", "-o", "json", server=server)).out)
    assert (service["name"], service["instancesUp"], service["status"]) == ("orders", 1, "SERVICE_STATUS_UP")
    assert service == json.loads((await run("services", "orders", "-o", "json", server=server)).out)
    [instance] = service["instances"]
    assert instance == json.loads((await run("instances", "get", ID, "-o", "json", server=server)).out)
    assert (instance["description"], instance["status"]) == (HOSTILE, "STATUS_OK")


async def test_services_that_go_over_pages(server: Running, stub: Stub) -> None:
    """A service with more instances than fit into a page comes as one, and so does what is behind it."""
    big = "x" * 1000
    for port in range(1, 2_200):
        await register(stub, f"big:localhost:{port}", description=big)
    await register(stub, "small:localhost:1")
    services = json.loads((await run("services", "-o", "json", server=server)).out)
    assert [(service["name"], len(service["instances"])) for service in services] == [("big", 2_199), ("small", 1)]


async def test_deregister(server: Running, stub: Stub) -> None:
    """It is gone; a second time it is refused."""
    await register(stub, ID)
    done = await run("deregister", ID, server=server)
    assert (done.code, done.out) == (0, f"{ID} is deregistered\n")
    assert server.registry.store.count() == 0
    again = await run("deregister", ID, server=server)
    assert (again.code, again.error) == (1, f"luna: {ID} is not registered\n")


async def test_check(server: Running) -> None:
    """0 while it serves, without a password; 1 when it does not, and when there is none."""
    assert await run("check", server=server, LUNA_AUTH_PASSWORD="wrong") == Ended(0, "serving\n", "")
    server.grpc.not_serving()
    assert (await run("check", server=server)).code == 1
    away = await run("check", "--address", "127.0.0.1:1")
    assert away.code == 1
    assert away.error.startswith("luna: no registry answers at 127.0.0.1:1")


@pytest.mark.parametrize(
    "command",
    [["services"], ["instances", "get", ID], ["deregister", ID], ["watch"]],
    ids=lambda command: command[0],
)
async def test_how_commands_fail(server: Running, command: list[str]) -> None:
    """No registry: 69; wrong credentials: 77; wrong flags: 2; one line each."""
    away = await run(*command, "--address", "127.0.0.1:1")
    assert away.code == 69
    assert re.fullmatch(r"luna: no registry answers at 127\.0\.0\.1:1, without TLS: .*\n", away.error)
    wrong = await run(*command, server=server, LUNA_AUTH_PASSWORD="wrong")
    assert (wrong.code, wrong.error.count("\n")) == (77, 1)
    assert (await run(*command, "--no-such-flag", server=server)).code == 2


async def test_the_port_of_the_other_door(server: Running) -> None:
    """Is told from a registry that is not there."""
    done = await run("services", "--address", f"127.0.0.1:{server.rest_port}")
    assert (done.code, "perhaps its REST door" in done.error) == (69, True)


async def test_tls(tmp_path: Path) -> None:
    """With the CA of the server's certificate; without TLS the message says so."""
    pki, ca = Pki(tmp_path), tmp_path / "ca.pem"
    pki.ca.cert_pem.write_to_path(ca)
    async with running(settings_for_tests(**pki.flags())) as server:
        assert (await run("services", "--tls-ca", str(ca), server=server)).code == 0
        assert (await run("services", "--tls-ca", str(tmp_path / "none"), server=server)).error == (
            f"luna: the file of TLS '{tmp_path / 'none'}' cannot be read: No such file or directory\n"
        )
        plain = await run("services", server=server)
        assert (plain.code, ", without TLS" in plain.error, "what is there has TLS" in plain.error) == (69, True, True)
        assert "name the file of its CA" in (await run("services", "--tls", server=server)).error


async def test_watch_tells_what_there_is_and_what_changes_over_a_restart() -> None:
    """As lines, at once; it goes on with the next registry at that address; Ctrl-C ends it without a word."""
    async with luna() as first:
        watching = await start("watch", "orders", LUNA_ADDRESS=first.grpc)
        assert watching.stdout is not None
        await _register(first, ID)
        assert (await _line(watching)).endswith(f" orders {ID} OK REPORTED")
        port = first.grpc.rpartition(":")[2]
        assert await first.stop() == 0
    async with luna("--grpc-port", port) as second:
        await _register(second, "orders:localhost:9")
        while not (await _line(watching)).endswith(" orders orders:localhost:9 OK REPORTED"):
            pass
    watching.send_signal(signal.SIGINT)
    _, error = await asyncio.wait_for(watching.communicate(), 30)
    assert watching.returncode == 130
    assert "Traceback" not in error.decode()


async def test_watch_as_json(server: Running, stub: Stub) -> None:
    """One event a line."""
    await register(stub, ID)
    watching = await start("watch", "-o", "json", LUNA_ADDRESS=f"127.0.0.1:{server.grpc_port}")
    event = json.loads(await _line(watching))
    assert (event["type"], event["instance"]["instanceId"]) == ("EVENT_TYPE_UPSERTED", ID)
    await stub.Deregister(pb.DeregisterRequest(instance_id=ID))
    assert json.loads(await _line(watching))["type"] == "EVENT_TYPE_REMOVED"
    watching.kill()
    await watching.communicate()


async def test_register_for_as_long_as_a_command_runs(server: Running) -> None:
    """UP meanwhile, with what the flags say; gone after it; the exit code is the command's."""
    store, flags = server.registry.store, ["--version", "1.4", "--weight", "7", "--metadata", "zone=eu", "--url", "https://a/"]
    command = [sys.executable, "-c", "import sys; print('ready', flush=True); sys.stdin.readline(); sys.exit(7)"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "luna_grpc", "register", ID, *flags, "--", *command, stdin=PIPE, stdout=PIPE,
        env={**clean_environment(), "LUNA_ADDRESS": f"127.0.0.1:{server.grpc_port}"},
    )  # fmt: skip
    assert await _line(process) == "ready"
    registration = store.get(ID)
    assert registration is not None
    info = registration.instance.info
    assert (registration.instance.up, info.version, info.weight, info.url, info.metadata) == (
        True,
        "1.4",
        7,
        "https://a/",
        {"zone": "eu"},
    )
    await asyncio.wait_for(process.communicate(b"\n"), 30)
    assert (process.returncode, store.get(ID)) == (7, None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
async def test_register_passes_signals_on(server: Running, number: signal.Signals) -> None:
    """And ends as the command does: here by the signal."""
    program = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); print('ready', flush=True); time.sleep(60)"
    process = await start("register", ID, "--", sys.executable, "-c", program, LUNA_ADDRESS=f"127.0.0.1:{server.grpc_port}")
    assert await _line(process) == "ready"
    process.send_signal(number)
    await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, server.registry.store.get(ID)) == (128 + number, None)


async def test_register_without_a_command(server: Running, stub: Stub) -> None:
    """Until a signal; or until another process takes the id over, which it says."""
    process = await start("register", ID, LUNA_ADDRESS=f"127.0.0.1:{server.grpc_port}")
    assert await _line(process) == f"{ID} is registered; Ctrl-C ends it"
    process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, server.registry.store.get(ID)) == (0, None)
    process = await start("register", ID, LUNA_ADDRESS=f"127.0.0.1:{server.grpc_port}")
    await _line(process)
    await stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id=ID), replace=True))
    _, error = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    [line] = error.decode().splitlines()  # said once
    assert line.startswith("luna: another process has registered this id: give each process an id of its own, or stop the other")
    assert server.registry.store.get(ID) is not None


async def test_register_that_cannot(server: Running) -> None:
    """No such command, one that is no program, no registry, a label that is none, an id that is none: each with its code."""
    ended = await run("register", ID, "--", "no-such-command", server=server)
    assert (ended.code, ended.error) == (127, "luna: there is no command no-such-command\n")
    assert (await run("register", ID, "--", str(ROOT / "README.md"), server=server)).code == 126
    assert server.registry.store.count() == 0
    assert (await run("register", "nonsense", server=server)).code == 1
    assert (await run("register", ID, "--metadata", "nonsense", server=server)).code == 2
    assert (await run("register", ID, server=server, LUNA_AUTH_PASSWORD="wrong")).code == 77
    assert (await run("register", ID, "--address", "127.0.0.1:1")).code == 69


async def test_config_show() -> None:
    """Each setting with its value and where it is from; passwords are not shown; what is wrong is said as luna serve does."""
    done = await run("config", "show", LUNA_PORT="8080", LUNA_AUTH_PASSWORD="secret-one", LUNA_HOST="")
    rows = {line.split()[0]: line.split()[1:] for line in done.out.splitlines()}
    assert rows["LUNA_PORT"] == ["--port", "8080", "environment"]
    assert rows["LUNA_HOST"] == ["--host", "127.0.0.1", "default"]
    assert rows["LUNA_AUTH_PASSWORD"] == ["--auth-password", "**********", "environment"]
    assert "secret-one" not in done.out
    shown = json.loads((await run("config", "show", "-o", "json")).out)
    assert {setting["from"] for setting in shown} == {"default"}
    misspelt = await run("config", "show", LUNA_PROT="1")
    assert (misspelt.code, misspelt.error) == (0, "luna: LUNA_PROT is not a setting; did you mean LUNA_PORT?\n")
    wrong = await run("config", "show", LUNA_PORT="x")
    assert (wrong.code, wrong.error) == (2, "luna: --port / LUNA_PORT: 'x' is wrong: it must be a whole number\n")


def test_what_others_wrote_cannot_command_a_terminal() -> None:
    """Not by escapes, line breaks or the order of letters."""
    assert cli_output.plain("ok ä 語") == "ok ä 語"
    assert cli_output.plain("\x1b]0;x\x07\r\n\u202e\x9b") == r"\x1b]0;x\x07\r\n\u202e\x9b"


def commands(group: typer.core.TyperGroup, *path: str) -> dict[str, str]:
    """Return the help of every command below a group."""
    found: dict[str, str] = {}
    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            found |= commands(command, *path, name)
        else:
            found[" ".join((*path, name))] = command.help or ""
    return found


def test_every_command_has_an_example_and_stands_in_the_page() -> None:
    """An example that begins with the command itself."""
    group = get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    helps = commands(group)
    for name, text in helps.items():
        assert re.search(rf"Example: (\w+=\S+ )*luna {name}\b", text), name
    in_docs = re.findall(r"^\| `luna ([a-z ]+?)(?: [A-Z\[-].*?)?` \|", CLI, re.MULTILINE)
    assert set(in_docs) == set(helps)


async def _register(server: Luna, instance_id: str) -> None:
    channel, stub = server.stub()
    async with channel:
        await register(stub, instance_id)


async def _line(process: Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 30)).decode().rstrip("\n")
