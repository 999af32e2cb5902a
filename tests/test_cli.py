"""The commands that ask a running registry, as people and scripts run them: processes of their own, a real server."""

import asyncio
import json
import re
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from typer.main import get_command

from luna_grpc import cli_output, users
from luna_grpc.access import Role
from luna_grpc.cli import app
from luna_grpc.config import flag
from luna_grpc.serve import Running, running
from luna_grpc.v1 import registry_pb2 as pb
from pki import Pki, issued
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


@pytest.mark.parametrize(
    ("redirection", "code", "error"),
    [
        (">/dev/full", 1, "luna: what was found cannot be written: No space left on device\n"),
        (">&-", 0, ""),
    ],
)
async def test_an_output_that_takes_nothing(server: Running, stub: Stub, redirection: str, code: int, error: str) -> None:
    """One line when the disk is full; a closed one is nobody's."""
    await register(stub, ID)
    for command in ("services", "services -o json"):
        process = await asyncio.create_subprocess_shell(
            f"{sys.executable} -m luna_grpc {command} {redirection}",
            stderr=asyncio.subprocess.PIPE,
            env={**clean_environment(), "LUNA_ADDRESS": f"127.0.0.1:{server.grpc_port}"},
        )
        _, said = await asyncio.wait_for(process.communicate(), 60)
        assert (process.returncode, said.decode()) == (code, error)


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


async def test_all_instances(server: Running, stub: Stub) -> None:
    """Of all services, as a table and as JSON; none at all is an empty list."""
    assert (await run("instances", "list", "-o", "json", server=server)).out == "[]\n"
    await register(stub, ID, version="1.4")
    await register(stub, "stock:localhost:9000")
    table = await run("instances", "list", server=server)
    header, *lines = table.out.splitlines()
    assert header.split() == ["ID", "STATUS", "REASON", "LAST", "HEARTBEAT", "URL"]
    assert [line.split()[:3] for line in lines] == [[ID, "OK", "REPORTED"], ["stock:localhost:9000", "OK", "REPORTED"]]
    found = json.loads((await run("instances", "list", "-o", "json", server=server)).out)
    assert [(instance["instanceId"], instance["version"]) for instance in found] == [(ID, "1.4"), ("stock:localhost:9000", "")]
    assert found[0] == json.loads((await run("instances", "get", ID, "-o", "json", server=server)).out)


@pytest.mark.parametrize(("flags", "seconds"), [(["--for", "15m"], 900), (["--for", "2h"], 7200), ([], 3600)])
async def test_drain_and_undrain(server: Running, stub: Stub, flags: list[str], seconds: int) -> None:
    """DOWN for so long, an hour unless told, and says until when; then back as it reports itself."""
    await register(stub, ID)
    before = time.time()
    done = await run("instances", "drain", ID, *flags, server=server)
    after = time.time()
    said = re.fullmatch(rf"{ID} is drained until ([\d-]+ [\d:]+) \S+; luna instances undrain {ID} ends that\n", done.out)
    assert said, done
    until = datetime.fromisoformat(said[1]).astimezone().timestamp()
    assert before + seconds - 1 <= until <= after + seconds
    assert re.search(rf"^{ID} +DOWN +DRAINED ", (await run("services", "orders", server=server)).out, re.MULTILINE)
    assert await run("instances", "undrain", ID, server=server) == Ended(0, f"{ID} is not drained and is OK\n", "")
    assert re.search(rf"^{ID} +OK +REPORTED ", (await run("services", "orders", server=server)).out, re.MULTILINE)
    assert await run("instances", "undrain", ID, server=server) == Ended(0, f"{ID} is not drained and is OK\n", "")


async def test_a_drain_is_of_an_id(server: Running, stub: Stub) -> None:
    """It ends although the instance has gone meanwhile; an id that was never registered is not drained."""
    await register(stub, ID)
    assert (await run("instances", "drain", ID, server=server)).code == 0
    await stub.Deregister(pb.DeregisterRequest(instance_id=ID))
    assert await run("instances", "undrain", ID, server=server) == Ended(0, f"{ID} is not drained and is not registered\n", "")
    unknown = await run("instances", "drain", "nobody:localhost:1", server=server)
    assert (unknown.code, unknown.error) == (1, "luna: nobody:localhost:1 is not registered\n")


async def test_only_an_admin_drains(tmp_path: Path) -> None:
    """A writer is told that it may not."""
    file = str(tmp_path / "users.toml")
    users.add(file, "ci", role=Role.WRITER, prefixes=(), password="long enough")
    async with running(settings_for_tests(users_file=file, auth_password="secret")) as server:
        writer = {"LUNA_AUTH_USERNAME": "ci", "LUNA_AUTH_PASSWORD": "long enough"}
        for command in (["drain", ID], ["undrain", ID]):
            refused = await run("instances", *command, server=server, **writer)
            assert (refused.code, refused.out, "'ci' has the role writer; this takes the role admin" in refused.error) == (
                77,
                "",
                True,
            )
        assert (await run("instances", "list", server=server, **writer)).code == 0


async def test_check(server: Running) -> None:
    """0 while it serves, without a password; 1 when it does not, and when there is none."""
    assert await run("check", server=server, LUNA_AUTH_PASSWORD="wrong") == Ended(0, "serving\n", "")
    assert {"--auth-username", "--auth-password"} & set(flags_of("check")) == set()
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


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--address", "localhost"], ["--address / LUNA_ADDRESS: the address 'localhost' is wrong: it must be host:port"]),
        (["--address", "localhost:http"], ["--address / LUNA_ADDRESS: the address 'localhost:http' is wrong"]),
        (["--tls-ca", "nope"], ["--tls-ca / LUNA_TLS_CA: nope cannot be read: No such file or directory"]),
        (["--tls-ca", str(ROOT / "README.md")], ["--tls-ca / LUNA_TLS_CA: ", "README.md holds no certificate in PEM"]),
        (
            ["--tls-client-cert", "nope", "--tls-client-key", "nope"],
            ["--tls-client-cert / LUNA_TLS_CLIENT_CERT: nope cannot be read"],
        ),
        (["--tls-client-cert", __file__], ["--tls-client-key / LUNA_TLS_CLIENT_KEY: it is missing: --tls-client-cert is given"]),
        (["--tls-client-key", __file__], ["--tls-client-cert / LUNA_TLS_CLIENT_CERT: it is missing: --tls-client-key is given"]),
        (
            ["--tls-client-cert", __file__, "--tls-client-key", __file__],
            ["--tls-client-cert / LUNA_TLS_CLIENT_CERT: ", "are no certificate and its key in PEM"],
        ),
    ],
)
@pytest.mark.parametrize("command", [["services"], ["check"], ["register", ID]], ids=lambda command: command[0])
async def test_wrong_flags_of_a_connection(command: list[str], flags: list[str], words: list[str]) -> None:
    """2, with the flag and its variable, and what is wrong; before anything is sent."""
    done = await run(*command, *flags)
    assert (done.code, done.out) == (2, "")
    assert all(word in done.error for word in words), done.error


async def test_a_variable_that_is_wrong() -> None:
    """As the flag."""
    done = await run("services", LUNA_ADDRESS="localhost")
    assert (done.code, "--address / LUNA_ADDRESS: the address 'localhost' is wrong" in done.error) == (2, True)
    done = await run("services", LUNA_TLS="maybe")
    assert (done.code, done.error.endswith(" '--tls' (env var: 'LUNA_TLS'): it must be 1 or 0\n")) == (2, True)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["services", "-o", "yaml"], "'--output': 'yaml' is not one of 'table', 'wide', 'json'"),
        (["register", ID, "--weight", "heavy"], "'--weight': it must be a whole number"),
        (["register", ID, "--weight", "-1"], "'--weight': the least is 0"),
        (["register", ID, "--weight", "99999999999"], "'--weight': the most is 4294967295"),
        (["register", ID, "--metadata", "zone"], "--metadata: 'zone' is not key=value"),
        (["instances", "drain", ID, "--for", "5"], "'--for': '5' is not a time; write for example 90s, 15m, 2h or 7d"),
        (["instances", "drain", ID, "--for", "-5m"], "'--for': '-5m' is not a time; write for example 90s, 15m, 2h or 7d"),
        (
            ["instances", "drain", ID, "--for", "0s"],
            "'--for': duration is 0 s; a drain lasts at least 1 s and at most 2592000 s (30 days)",
        ),
        (["instances", "drain", ID, "--for", "31d"], "a drain lasts at least 1 s and at most 2592000 s (30 days)"),
    ],
)
async def test_wrong_values_of_flags(command: list[str], words: str) -> None:
    """2, in words for people, as luna serve says it."""
    done = await run(*command)
    assert (done.code, done.out, done.error.endswith(f"{words}\n")) == (2, "", True), done.error


async def test_a_key_with_a_password(tmp_path: Path) -> None:
    """Is refused without asking for it: nobody may be there to answer."""
    pair = issued(Pki(tmp_path).ca, password=b"secret")
    for name, content in {"ci.pem": pair.cert, "ci.key": pair.key}.items():
        Pki.write(tmp_path / name, content)
    done = await run("services", "--tls-client-cert", str(tmp_path / "ci.pem"), "--tls-client-key", str(tmp_path / "ci.key"))
    assert (done.code, "ci.key are no certificate and its key in PEM, without a password" in done.error) == (2, True)


async def test_a_limit_that_is_reached() -> None:
    """75: whoever tries again later may find room; the message names the limit."""
    async with running(settings_for_tests(max_instances=1, max_watchers=1)) as server:
        address = f"127.0.0.1:{server.grpc_port}"
        others = [await start("register", "a:localhost:1", LUNA_ADDRESS=address), await start("watch", LUNA_ADDRESS=address)]
        try:
            for process in others:
                await _said(process)
            full = await run("register", ID, server=server)
            assert (full.code, full.error.splitlines()[-1].startswith("luna: 1 instances are registered, the most")) == (75, True)
            refused = await run("watch", server=server)
            assert (refused.code, refused.error.endswith("that this server takes (LUNA_MAX_WATCHERS)\n")) == (75, True)
        finally:
            for process in others:
                process.kill()
                await process.communicate()


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
        plain = await run("services", server=server)
        assert (plain.code, ", without TLS" in plain.error, "what is there has TLS" in plain.error) == (69, True, True)
        assert "name the file of its CA" in (await run("services", "--tls", server=server)).error


async def test_a_certificate_to_show(tmp_path: Path) -> None:
    """By the flags that are called as its variables."""
    pki = Pki(tmp_path)
    shown = pki.client("ci.example").pair
    assert shown is not None
    for name, content in {"ca.pem": pki.ca.cert_pem.bytes(), "ci.pem": shown.cert, "ci.key": shown.key}.items():
        pki.write(tmp_path / name, content)
    ca, cert, key = (str(tmp_path / name) for name in ("ca.pem", "ci.pem", "ci.key"))
    async with running(settings_for_tests(**pki.flags(clients=True), auth_password="secret")) as server:
        flags = ["--tls-ca", ca, "--tls-client-cert", cert, "--tls-client-key", key]
        done = await run("services", *flags, "--auth-username", "admin", "--auth-password", "secret", server=server)
        assert (done.code, done.error) == (0, "")
        without = await run("services", "--tls-ca", ca, server=server)
        assert (without.code, "a client certificate: LUNA_TLS_CLIENT_CERT, --tls-client-cert" in without.error) == (69, True)


async def test_watch_tells_what_there_is_and_what_changes_over_a_restart() -> None:
    """As lines, at once; it goes on with the next registry at that address; Ctrl-C ends it. Stderr has how it is connected."""
    async with luna() as first:
        watching = await start("watch", "orders", LUNA_ADDRESS=first.grpc)
        assert watching.stdout is not None
        await _register(first, ID)
        assert (await _line(watching)).endswith(f" orders {ID} OK REPORTED")
        port = first.grpc.rpartition(":")[2]
        assert await _said(watching) == "luna: connected: what there is of orders, and then every change, until Ctrl-C"
        assert await first.stop() == 0
    assert re.fullmatch(r"luna: no registry answers at .*; trying again", await _said(watching))
    async with luna("--grpc-port", port) as second:
        assert (await _said(watching)).startswith("luna: connected")
        await _register(second, "orders:localhost:9")
        while not (await _line(watching)).endswith(" orders orders:localhost:9 OK REPORTED"):
            pass
    watching.send_signal(signal.SIGINT)
    _, error = await asyncio.wait_for(watching.communicate(), 30)
    assert watching.returncode == 130
    assert "Traceback" not in error.decode()


async def test_watch_as_json(server: Running, stub: Stub) -> None:
    """One event a line, and nothing else; on stderr that it waits, also when there is nothing yet."""
    watching = await start("watch", "-o", "json", LUNA_ADDRESS=f"127.0.0.1:{server.grpc_port}")
    assert await _said(watching) == "luna: connected: what there is of all services, and then every change, until Ctrl-C"
    await register(stub, ID)
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
        sys.executable, "-m", "luna_grpc", "register", ID, *flags, "--", *command, stdin=PIPE, stdout=PIPE, stderr=PIPE,
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
    out, error = await asyncio.wait_for(process.communicate(b"\n"), 30)
    assert (process.returncode, store.get(ID)) == (7, None)
    assert (out, error.decode()) == (b"", _registered(server) + "\n")  # on stdout is what the command says, and nothing else


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
async def test_register_passes_signals_on(server: Running, number: signal.Signals) -> None:
    """And ends as the command does: here by the signal."""
    program = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); print('ready', flush=True); time.sleep(60)"
    process = await start("register", ID, "--", sys.executable, "-c", program, LUNA_ADDRESS=f"127.0.0.1:{server.grpc_port}")
    assert await _line(process) == "ready"
    process.send_signal(number)
    await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, server.registry.store.get(ID)) == (128 + number, None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_register_while_the_registry_is_away(number: signal.Signals) -> None:
    """It does not wait for the registry, nor start the command."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        process = await start("register", ID, "--", "echo", "started", LUNA_ADDRESS=_address(door))
        (await _caller(door)).close()
    process.send_signal(number)
    out, error = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, out, b"Traceback" in error) == (128 + number, b"", False)


async def test_a_second_signal_ends_register_whatever_the_registry_does() -> None:
    """Here it takes the connection and says nothing, so that nobody knows whether it has the registration."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        process = await start("register", ID, LUNA_ADDRESS=_address(door))
        with await _caller(door):
            while process.returncode is None:
                process.terminate()
                await asyncio.sleep(0.1)
            _, error = await process.communicate()
    assert (process.returncode, error) == (-signal.SIGTERM, b"")


async def test_register_without_a_command(server: Running, stub: Stub) -> None:
    """Until a signal; or until another process takes the id over, which it says."""
    process = await start("register", ID, LUNA_ADDRESS=f"127.0.0.1:{server.grpc_port}")
    assert await _said(process) == _registered(server) + ", Ctrl-C ends it"
    process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, server.registry.store.get(ID)) == (0, None)
    process = await start("register", ID, LUNA_ADDRESS=f"127.0.0.1:{server.grpc_port}")
    await _said(process)
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
    wrong = await run("config", "show", LUNA_PORT="x", LUNA_GRPC_PORT="y")
    words = "luna: --port / LUNA_PORT: 'x' is wrong: it must be a whole number\n"
    assert (wrong.code, wrong.error) == (
        2,
        words + words.replace("port", "grpc-port").replace("PORT", "GRPC_PORT").replace("x", "y"),
    )


def test_what_others_wrote_cannot_command_a_terminal() -> None:
    """Not by escapes, line breaks or the order of letters."""
    assert cli_output.plain("ok ä 語") == "ok ä 語"
    assert cli_output.plain("\x1b]0;x\x07\r\n\u202e\x9b") == r"\x1b]0;x\x07\r\n\u202e\x9b"


def flags_of(command: str) -> list[str]:
    """Return the flags of a command."""
    return [name for parameter in commands(get_command(app))[command].params for name in parameter.opts]


def commands(group: object, *path: str) -> dict[str, typer.core.TyperCommand]:
    """Return every command below a group."""
    assert isinstance(group, typer.core.TyperGroup)
    found: dict[str, typer.core.TyperCommand] = {}
    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            found |= commands(command, *path, name)
        else:
            assert isinstance(command, typer.core.TyperCommand)
            found[" ".join((*path, name))] = command
    return found


def test_every_command_has_an_example_and_stands_in_the_page() -> None:
    """An example that begins with the command itself."""
    found = commands(get_command(app))
    for name, command in found.items():
        assert re.search(rf"Example: (\w+=\S+ )*luna {name}\b", command.help or ""), name
    in_docs = re.findall(r"^\| `luna ([a-z ]+?)(?: [A-Z\[-].*?)?` \|", CLI, re.MULTILINE)
    assert set(in_docs) == set(found)


@pytest.mark.parametrize("group", [[], ["instances"], ["user"], ["config"]])
async def test_what_a_command_does_fits_into_the_list(group: list[str]) -> None:
    """In the help of the group, whole; and no command is missing."""
    lines = (await run(*group, "--help")).out.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert len(lines) == len(
        {name.split()[len(group)] for name in commands(get_command(app)) if name.split()[: len(group)] == group}
    )
    assert all(line.endswith(".") and not line.endswith("...") for line in lines), lines


def test_a_flag_means_the_same_everywhere() -> None:
    """Those of a connection are called as their variables, as those of luna serve are."""
    in_docs = dict(re.findall(r"^\| `(LUNA_\w+)` \| `(--[\w-]+)` \|", CLI, re.MULTILINE))
    asking = {parameter.envvar: parameter.opts for parameter in commands(get_command(app))["services"].params if parameter.envvar}
    assert asking == {name: [name_of_flag] for name, name_of_flag in in_docs.items()}
    for name, name_of_flag in in_docs.items():
        assert name_of_flag == flag(name.removeprefix("LUNA_").lower())


async def _register(server: Luna, instance_id: str) -> None:
    channel, stub = server.stub()
    async with channel:
        await register(stub, instance_id)


def _address(door: socket.socket) -> str:
    return "127.0.0.1:{1}".format(*door.getsockname())


async def _caller(door: socket.socket) -> socket.socket:
    door.setblocking(False)
    return (await asyncio.wait_for(asyncio.get_running_loop().sock_accept(door), 30))[0]


def _registered(server: Running) -> str:
    return f"luna: {ID} is registered at 127.0.0.1:{server.grpc_port}: luna services orders shows it"


async def _line(process: Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 30)).decode().rstrip("\n")


async def _said(process: Process) -> str:
    assert process.stderr is not None
    return (await asyncio.wait_for(process.stderr.readline(), 30)).decode().rstrip("\n")
