"""`Registration` against real servers: what other people see of an instance that uses it."""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families
from seen import ID, PATIENCE, TTL, instance, restarted, shows

from luna_grpc import client, users
from luna_grpc.access import Role
from luna_grpc.client import OnDisconnect, Registration, State, Status, telling, vitality
from luna_grpc.serve import running
from luna_grpc.v1 import registry_pb2 as pb
from pki import Pki
from proxy import standing_before
from support import Luna, luna, session, settings_for_tests, until


@pytest.fixture
async def server() -> AsyncIterator[Luna]:
    """Run a server with short leases in a process of its own."""
    async with luna("--lease-ttl", str(TTL)) as server:
        yield server


@asynccontextmanager
async def either(face: str, registration: Registration) -> AsyncIterator[Registration]:
    """Use a registration by `with` in a thread, or by `async with`."""
    if face == "asyncio":
        async with registration:
            yield registration
        return
    await asyncio.to_thread(registration.start)
    try:
        yield registration
    finally:
        await asyncio.to_thread(registration.stop)


@pytest.mark.parametrize("face", ["asyncio", "threads"])
async def test_an_instance_is_registered_within_the_block(server: Luna, face: str) -> None:
    """With all that is said of it, for longer than a lease lasts, and gone right after."""
    registration = Registration(
        ID, url="http://10.0.0.7/", name="shop", version="1.4", description="Sells", weight=3, metadata={"zone": "eu"},
        address=server.grpc,
    )  # fmt: skip
    assert registration.state is State.STOPPED
    async with either(face, registration):
        assert (registration.state, registration.error) == (State.REGISTERED, None)
        await asyncio.sleep(2.2 * TTL)
        found = await instance(server)
        assert (found["status"], found["statusReason"]) == ("OK", "REPORTED")
        assert (found["url"], found["name"], found["version"], found["description"]) == ("http://10.0.0.7/", "shop", "1.4", "Sells")
        assert (found["balancerOptions"], found["metadata"]) == ({"weight": 3}, {"zone": "eu"})
    assert await instance(server) == {}
    assert registration.state is State.STOPPED


async def test_changes_are_seen_at_once(server: Luna) -> None:
    """Well before the next heartbeat would be due."""
    async with Registration(ID, version="1", address=server.grpc) as registration:
        registration.set_status(Status.DOWN)
        await shows(server, "DOWN")
        assert (await instance(server))["statusReason"] == "REPORTED"
        registration.set_status(Status.OK)
        registration.set_info(version="2", metadata={"zone": "eu"})
        await shows(server, "OK")
        await until(lambda: _is(server, version="2", metadata={"zone": "eu"}))
        registration.set_info(url="nonsense")
        await until(lambda: isinstance(registration.error, client.InvalidArgumentError))
        assert registration.state is State.REGISTERED
        registration.set_info(url="http://10.0.0.8/")
        await until(lambda: _is(server, url="http://10.0.0.8/", version="2"))


async def _is(server: Luna, **fields: object) -> bool:
    found = await instance(server)
    return all(found.get(name) == value for name, value in fields.items())


async def test_a_registry_with_an_empty_memory_gets_it_back(server: Luna) -> None:
    """Killed and started anew, as it was last reported; the program hears of it by the state only."""
    async with Registration(ID, version="1", address=server.grpc) as registration:
        registration.set_info(version="2")
        await until(lambda: _is(server, version="2"))
        await server.stop(signal.SIGKILL)
        await until(lambda: registration.state is State.AWAY)
        registration.set_status(Status.DOWN)
        async with restarted(server) as again:
            await until(lambda: _is(again, version="2", status="DOWN", statusReason="REPORTED"))
            await until(lambda: registration.state is State.REGISTERED)


async def test_several_registrations_share_one_connection(server: Luna) -> None:
    """And leave without each other; the connection is closed with the last."""
    ids = [f"orders:localhost:{port}" for port in (1, 2, 3)]
    registrations = [Registration(instance_id, address=server.grpc) for instance_id in ids]
    await asyncio.gather(*(registration.start_async() for registration in registrations))
    assert await _streams(server) == 1
    await registrations[0].stop_async()
    await asyncio.sleep(1.5 * TTL)
    assert [(await instance(server, instance_id)).get("status") for instance_id in ids] == [None, "OK", "OK"]
    await asyncio.gather(*(registration.stop_async() for registration in registrations))
    await until(lambda: _has_no_streams(server))


async def _has_no_streams(server: Luna) -> bool:
    return await _streams(server) == 0


async def _streams(server: Luna) -> float:
    return await _metric(server, "luna_heartbeat_streams")


async def _metric(server: Luna, name: str, **labels: str) -> float:
    async with session(server.rest) as rest, rest.get("/metrics") as answer:
        families = text_string_to_metric_families(await answer.text())
    samples = [sample for family in families for sample in family.samples]
    [value] = [sample.value for sample in samples if sample.name == name and sample.labels == labels]
    return value


async def test_a_loop_that_is_blocked_does_not_lose_the_lease(server: Luna) -> None:
    """For two TTLs: the heartbeats have a thread of their own."""
    async with Registration(ID, address=server.grpc):
        time.sleep(2 * TTL)  # noqa: ASYNC251 - the point
        found = await instance(server)
        assert (found["status"], time.time() * 1000 - found["last_heartbeat"] < TTL * 1000) == ("OK", True)


async def test_a_loop_that_is_blocked_loses_the_lease_when_tied_to_it(server: Luna) -> None:
    """It is DOWN before it runs again, and comes back then."""
    async with Registration(ID, address=server.grpc, tied_to_loop=True) as registration:
        await asyncio.sleep(1.5 * TTL)
        assert (await instance(server))["status"] == "OK"
        time.sleep(2 * TTL)  # noqa: ASYNC251 - the point
        found = await instance(server)
        assert (found["status"], found["statusReason"]) == ("DOWN", "LEASE_EXPIRED")
        await shows(server, "OK")
        assert registration.state is State.REGISTERED


async def test_a_health_check_decides_the_status(server: Luna) -> None:
    """One that returns False, raises or hangs is reported as DOWN; others go on meanwhile."""
    answers: list[Callable[[], bool]] = [lambda: True]

    def health() -> bool:
        return answers[-1]()

    async with Registration(ID, address=server.grpc, health=health):
        await shows(server, "OK")
        for unwell in (lambda: False, lambda: bool(1 // 0), partial(_hangs, 3 * TTL)):
            answers.append(unwell)
            await shows(server, "DOWN")
            assert (await instance(server))["statusReason"] == "REPORTED"
            answers.append(lambda: True)
            await shows(server, "OK")


def _hangs(seconds: float) -> bool:
    time.sleep(seconds)
    return True


@pytest.mark.parametrize("face", ["asyncio", "threads"])
async def test_who_is_taken_over_stops_with_an_error(server: Luna, face: str) -> None:
    """And does not take the id back: the program is called, and may wait for it or ask."""
    lost: list[client.ClientError] = []
    async with either(face, Registration(ID, address=server.grpc, on_lost=lost.append)) as registration:
        waiting = asyncio.create_task(registration.until_lost())
        successor = await asyncio.create_subprocess_exec(sys.executable, "-c", SUCCESSOR, server.grpc)
        with pytest.raises(
            client.SupersededError,
            match="give each process an id of its own, or stop the other one",
        ):
            await asyncio.wait_for(waiting, PATIENCE)
        with pytest.raises(client.SupersededError):
            registration.raise_if_lost()
        with pytest.raises(client.StoppedError):
            registration.set_status(Status.DOWN)
        assert registration.state is State.LOST
        await until(lambda: lost)
        assert isinstance(lost[0], client.SupersededError)
        await asyncio.sleep(1.5 * TTL)
        assert (await instance(server))["version"] == "of the successor"
    assert (await instance(server))["status"] == "OK"
    successor.kill()
    await successor.wait()


SUCCESSOR = """
import sys, time
from luna_grpc.client import Registration
with Registration("orders:localhost:8080", version="of the successor", address=sys.argv[1]):
    time.sleep(60)
"""


async def test_wrong_credentials_are_an_error_at_once(server: Luna, caplog: pytest.LogCaptureFixture) -> None:
    """One attempt, whatever the time that it would wait for a registry; said once, by the exception."""
    lost: list[client.ClientError] = []
    registration = Registration(ID, address=server.grpc, password="wrong", wait=60, on_lost=lost.append)
    with pytest.raises(client.CredentialsError, match="LUNA_AUTH_PASSWORD"):
        await registration.start_async()
    assert registration.state is State.LOST
    await asyncio.sleep(0.5)
    assert await _metric(server, "luna_requests_refused_total", door="grpc", code="UNAUTHENTICATED") == 1
    assert (lost, warnings_in(caplog)) == ([], [])


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the SDK has logged that a program sees which has not set up its log."""
    return [each.getMessage() for each in caplog.records if each.name == "luna_grpc.client" and each.levelno >= logging.WARNING]


@pytest.mark.parametrize("way", ["on_lost", "until_lost", "log"])
async def test_the_end_of_a_registration_is_said_once(server: Luna, caplog: pytest.LogCaptureFixture, way: str) -> None:
    """By the way that the program has asked for; by the log when it has asked for none."""
    lost: list[client.ClientError] = []
    async with Registration(ID, address=server.grpc, on_lost=lost.append if way == "on_lost" else None) as registration:
        waiting = [asyncio.create_task(registration.until_lost())] if way == "until_lost" else []
        await asyncio.sleep(0)
        await taken_over(server)
        await until(lambda: registration.state is State.LOST)
        for each in waiting:
            with pytest.raises(client.SupersededError):
                await each
        await until(lambda: lost or way != "on_lost")
        await until(lambda: warnings_in(caplog) or way != "log")
    assert [type(error) for error in lost] == [client.SupersededError] * (way == "on_lost")
    assert len(warnings_in(caplog)) == (way == "log")
    with pytest.raises(client.SupersededError, match="an id of its own"):
        await registration.until_lost()


async def test_a_registry_that_is_not_there_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """By the exception when `start` waits for it; else by the log, however often it is tried."""
    for one in (Registration(ID, address="127.0.0.1:1", wait=0.5), client.ServiceResolver(address="127.0.0.1:1", wait=0.5)):
        with pytest.raises(client.UnavailableError, match="start one with luna serve"):
            await one.start_async()
    assert warnings_in(caplog) == []
    async with (
        Registration(ID, address="127.0.0.1:1", wait=0),
        client.ServiceResolver(address="127.0.0.1:1", wait=0),
    ):
        await asyncio.sleep(1.5)
    assert [message.partition(":")[0] for message in sorted(warnings_in(caplog))] == [
        "orders",
        "the list of services is not kept up to date",
    ]


async def test_what_the_registry_does_not_accept_is_an_error_at_once(server: Luna) -> None:
    """It names the field."""
    with pytest.raises(client.InvalidArgumentError, match="url"):
        await Registration(ID, url="nonsense", address=server.grpc).start_async()
    async with Registration(ID, address=server.grpc):
        with pytest.raises(client.AlreadyRegisteredError, match="by this process already"):
            await Registration(ID, address=server.grpc).start_async()


async def test_something_else_at_the_address_is_an_error_at_once() -> None:
    """Waiting for it to become a registry would hide a wrong setting."""
    other = grpc.aio.server()
    port = other.add_insecure_port("127.0.0.1:0")
    await other.start()
    with pytest.raises(client.NotALunaError, match="LUNA_ADDRESS"):
        await Registration(ID, address=f"127.0.0.1:{port}").start_async()
    await other.stop(0)


async def test_a_registry_that_is_not_there_is_waited_for(server: Luna) -> None:
    """For as long as the program wants; in the background when it does not want to wait."""
    await server.stop()
    with pytest.raises(client.UnavailableError, match=rf"no registry answers at {server.grpc}, .*wait=0"):
        await Registration(ID, address=server.grpc, wait=0.5).start_async()
    async with Registration(ID, address=server.grpc, wait=0) as registration:
        await until(lambda: isinstance(registration.error, client.UnavailableError))
        assert registration.state is State.STARTING
        async with restarted(server) as again:
            await shows(again, "OK")
            await until(lambda: registration.error is None)


async def test_a_registry_that_refuses_for_now_is_not_called_away() -> None:
    """One that is full may have room later; until then the program is told what it says."""
    async with running(settings_for_tests(max_instances=1)) as server:
        address = f"127.0.0.1:{server.grpc_port}"
        async with Registration(ID, address=address):
            with pytest.raises(client.LimitError, match="LUNA_MAX_INSTANCES"):
                await Registration("orders:localhost:1", address=address, wait=0.5).start_async()
            waiting = Registration("orders:localhost:2", address=address)
            starting = asyncio.create_task(waiting.start_async())
            await until(lambda: waiting.error)
        await starting
        await waiting.stop_async()


async def test_a_registration_that_comes_too_late_is_taken_back(server: Luna) -> None:
    """The registry makes it, and its answer is not there in time: nobody keeps it, so it must not be listed."""
    async with standing_before(server.grpc) as proxy:
        proxy.delay = 0.3
        with pytest.raises(client.UnavailableError, match="wait=0"):
            await Registration(ID, address=proxy.address, wait=0.7).start_async()
    assert await instance(server) == {}
    assert await _metric(server, "luna_deregistrations_total", door="grpc") == 1


async def test_a_drain_is_seen_before_the_end(server: Luna) -> None:
    """DOWN, still there, and only then gone."""
    registration = Registration(ID, address=server.grpc, drain=1.0)
    await registration.start_async()
    stopping = asyncio.create_task(registration.stop_async())
    await shows(server, "DOWN")
    assert (await instance(server))["statusReason"] == "REPORTED"
    assert not stopping.done()
    await stopping
    assert await instance(server) == {}


async def test_a_connection_that_breaks_marks_down_when_asked_for() -> None:
    """A process that is killed is DOWN long before its lease ends."""
    async with luna("--lease-ttl", "60") as server:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, server.grpc, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"registered\n"
        await asyncio.sleep(0.5)
        process.kill()
        await process.communicate()
        await shows(server, "DOWN")
        assert (await instance(server))["statusReason"] == "DISCONNECTED"


KILLED = f"""
import sys, time
from luna_grpc.client import OnDisconnect, Registration
with Registration("{ID}", address=sys.argv[1], on_disconnect=OnDisconnect.{OnDisconnect.MARK_DOWN.name}):
    print("registered", flush=True)
    time.sleep(60)
"""

PROGRAM = """
import asyncio, signal, sys, time
from luna_grpc.client import Registration
if sys.argv[2] == "handler":
    signal.signal(signal.SIGTERM, lambda *_: (print("its own handler", flush=True), sys.exit(7)))
registration = Registration("orders:localhost:8080", address=sys.argv[1], handle_sigterm=sys.argv[2] != "exit")
async def main():
    if sys.argv[2] == "loop":
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await registration.start_async()
    print("registered", flush=True)
    if sys.argv[2] == "exit":
        return
    if sys.argv[2] == "loop":
        await stopped.wait()
        print("its own handler", flush=True)
        sys.exit(7)
    time.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("program", "code", "says"),
    [
        ("default", -signal.SIGTERM, b""),
        ("handler", 7, b"its own handler\n"),
        ("loop", 7, b"its own handler\n"),
        ("exit", 0, b""),
    ],
)
async def test_a_program_that_ends_is_gone(server: Luna, program: str, code: int, says: bytes) -> None:
    """On SIGTERM, which then does what it would have done, and when it ends without a word to the registration."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, server.grpc, program, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"registered\n"
    if program != "exit":
        assert (await instance(server))["status"] == "OK"
        process.send_signal(signal.SIGTERM)
    said, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert (process.returncode, said) == (code, says)
    assert await instance(server) == {}


FORKING = """
import os, sys, time
from luna_grpc.client import ForkedError, Registration, Status
registration = Registration("orders:localhost:8080", address=sys.argv[1], handle_sigterm=True)
with registration:
    if os.fork() == 0:
        uses = registration.start, registration.stop, lambda: registration.set_status(Status.DOWN), lambda: registration.state
        for use in uses:
            try:
                use()
            except ForkedError as error:
                print("forked" if "make another one after the fork" in str(error) else error)
        with Registration("orders:localhost:8081", address=sys.argv[1]) as own:
            print(own.state, flush=True)
            time.sleep(float(sys.argv[2]))
    else:
        os.wait()
        print(registration.state, flush=True)
        sys.stdin.readline()
"""


async def test_a_forked_process_is_told_and_takes_nothing_away(server: Luna) -> None:
    """Its copy of the registration says what to do; it can have one of its own, and that of its parent lives on."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FORKING, server.grpc, str(2 * TTL), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"GRPC_VERBOSITY": "NONE"},
    )  # fmt: skip
    assert process.stdout is not None
    lines = [await asyncio.wait_for(process.stdout.readline(), PATIENCE) for _ in range(6)]
    assert lines == [b"forked\n"] * 4 + [b"REGISTERED\n"] * 2
    assert (await instance(server))["status"] == "OK"
    assert await instance(server, "orders:localhost:8081") == {}
    await asyncio.wait_for(process.communicate(b"\n"), PATIENCE)
    assert (process.returncode, await instance(server)) == (0, {})


async def taken_over(server: Luna) -> None:
    """Register the instance for someone else."""
    connection, stub = server.stub()
    async with connection:
        await stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id=ID), replace=True))


async def test_who_is_told_of_the_end_may_start_again(server: Luna) -> None:
    """The function has a thread of its own: that of the heartbeats goes on meanwhile."""
    again = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_lost(_: client.ClientError) -> None:
        registration.start()
        loop.call_soon_threadsafe(again.set)

    registration = Registration(ID, address=server.grpc, on_lost=on_lost)
    async with either("threads", registration):
        await taken_over(server)
        await asyncio.wait_for(again.wait(), PATIENCE)
        assert registration.state is State.REGISTERED


def _notes(asked: list[bool]) -> bool:
    asked.append(True)
    return True


async def test_what_watches_a_program_ends_with_the_registration(server: Luna, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even when the registry has refused it before anything was watched."""
    asked: list[bool] = []
    watch = vitality.watch

    def late(*args: Any) -> Any:
        deadline = time.monotonic() + PATIENCE
        while registration.state is not State.LOST and time.monotonic() < deadline:
            time.sleep(0.01)
        return watch(*args)

    monkeypatch.setattr(vitality, "watch", late)
    registration = Registration(ID, address=server.grpc, password="wrong", wait=0, health=partial(_notes, asked))
    await asyncio.to_thread(registration.start)
    await asyncio.sleep(2.5 * vitality.AT_FIRST)
    assert len(asked) <= 1


async def test_who_starts_again_at_once_is_not_disturbed_by_the_end(server: Luna, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of the heartbeats is still busy with the end of the first registration when the second has begun."""
    asked: list[bool] = []
    note = telling.note

    def begins_anew(instance_id: str, state: State, error: client.ClientError | None, *, is_told: bool) -> None:
        note(instance_id, state, error, is_told=is_told)
        if state is State.LOST:
            registration.start()
            again.append(True)

    again: list[bool] = []
    registration = Registration(ID, address=server.grpc, health=partial(_notes, asked), wait=0)
    registration.start()
    try:
        await shows(server, "OK")
        monkeypatch.setattr(telling, "note", begins_anew)
        await taken_over(server)
        await until(lambda: again and registration.state is State.REGISTERED)
        before = len(asked)
        await until(lambda: len(asked) > before + 3)
        await shows(server, "OK")
    finally:
        await registration.stop_async()


async def test_an_end_that_is_not_waited_for_is_an_end(server: Luna) -> None:
    """Nothing of it is left in the program."""
    before = signal.getsignal(signal.SIGTERM)
    registration = Registration(ID, address=server.grpc, drain=1.0, handle_sigterm=True)
    await registration.start_async()
    assert signal.getsignal(signal.SIGTERM) != before
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(registration.stop_async(), 0.1)
    assert signal.getsignal(signal.SIGTERM) == before
    await until(lambda: registration.state is State.STOPPED)
    assert await instance(server) == {}


FORKED_BEFORE = """
import os, signal, sys, time
from luna_grpc.client import Registration
registration = Registration("orders:localhost:8080", address=sys.argv[1], handle_sigterm=True)
child = os.fork()
if child == 0:
    registration.start()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


async def test_what_is_made_before_a_fork_and_started_after_it_leaves_on_sigterm(server: Luna) -> None:
    """As a web server's workers do that load the program before they are forked."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        FORKED_BEFORE,
        server.grpc,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"GRPC_VERBOSITY": "NONE"},
    )
    said, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert (said, await instance(server)) == (b"-15\n", {})


def test_what_cannot_be_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    """With what to do."""
    ports = "localhost", "localhost:port", "localhost:0", "localhost:65536", "localhost:٣"
    hosts = "http://localhost:1", ":1", "a..b:1", "-a:1", "a b:1", "::1:1", "[::1:1", "256.0.0.1:1"
    for address in ports + hosts:
        with pytest.raises(client.ConfigurationError, match="it must be host:port"):
            Registration(ID, address=address)
    for address in ("localhost:1", "my_registry:50051", "registry.internal.:65535", "[::1]:50051", "10.0.0.7:1"):
        Registration(ID, address=address)
    missing = str(tmp_path / "ca.pem")
    with pytest.raises(client.ConfigurationError, match=missing):
        Registration(ID, tls=client.Tls(ca=missing)).start()
    with pytest.raises(client.ConfigurationError, match="without a key"):
        Registration(ID, tls=client.Tls(cert=missing))
    with pytest.raises(client.ConfigurationError, match="needs an event loop"):
        Registration(ID, tied_to_loop=True).start()

    async def health() -> bool:
        return True

    with pytest.raises(client.ConfigurationError, match="plain function"):
        Registration(ID, health=health)  # type: ignore[arg-type]
    with pytest.raises(client.StoppedError, match="call start"):
        Registration(ID).set_status(Status.DOWN)


async def test_a_certificate_can_say_who_asks(tmp_path: Path) -> None:
    """Over TLS; without a certificate, or trusting another CA, nothing is registered."""
    pki = Pki(tmp_path)
    users.add(str(tmp_path / "users.toml"), "client.example", role=Role.WRITER, prefixes=(), password="a long one")
    shown = pki.client().pair
    assert shown is not None
    for name, content in {"ca": pki.ca.cert_pem.bytes(), "cert": shown.cert, "key": shown.key}.items():
        (tmp_path / f"{name}.pem").write_bytes(content)
    tls = client.Tls(*(str(tmp_path / f"{name}.pem") for name in ("ca", "cert", "key")))
    settings = settings_for_tests(users_file=str(tmp_path / "users.toml"), **pki.flags(clients=True))
    async with running(settings) as server:
        address = f"localhost:{server.grpc_port}"
        async with Registration(ID, address=address, tls=tls), client.ServiceResolver(address=address, tls=tls) as resolver:
            assert [known.instance_id for known in resolver.instances("orders")] == [ID]
        with pytest.raises(client.UnavailableError, match=r"no registry answers at localhost:\d+: .*LUNA_TLS_CLIENT_CERT"):
            await Registration(ID, address=address, tls=client.Tls(tls.ca), wait=1).start_async()
        with pytest.raises(client.NotALunaError, match="not trusted"):
            await Registration(ID, address=address, tls=client.Tls(tls.cert, tls.cert, tls.key)).start_async()
        assert server.registry.store.count() == 0


async def test_a_connection_that_has_fallen_silent_is_left(server: Luna) -> None:
    """What is sent goes nowhere and nothing comes back, as behind a firewall that forgot the connection: another one is opened."""
    async with standing_before(server.grpc) as proxy, Registration(ID, address=proxy.address) as registration:
        await asyncio.sleep(TTL)
        generation = (await instance(server))["registeredAt"]
        proxy.silence()
        silent = time.time() * 1000 + 200  # by then what was on its way has arrived

        async def is_back() -> bool:
            return bool((await instance(server))["last_heartbeat"] > silent)

        await until(is_back)
        await until(lambda: registration.state is State.REGISTERED)
        found = await instance(server)
        assert (found["registeredAt"], found["status"]) == (generation, "OK")


def test_options_of_the_wrong_type_are_told() -> None:
    """Before anything is sent, with what to say instead."""
    with pytest.raises(client.ConfigurationError, match="import Tls"):
        client.Registration("orders:localhost:8080", tls=True)  # type: ignore[arg-type]
    with pytest.raises(client.ConfigurationError, match="'zone' is not"):
        client.Registration("orders:localhost:8080", metadata={"zone": 1})  # type: ignore[dict-item]
    with pytest.raises(client.ConfigurationError, match=r"version must be a text, and 1\.4 is not"):
        client.Registration("orders:localhost:8080", version=1.4)  # type: ignore[arg-type]
    with pytest.raises(client.ConfigurationError, match="instance_id must be a text"):
        client.Registration(8080)  # type: ignore[arg-type]
    with pytest.raises(client.ConfigurationError, match="weight must be a whole number"):
        client.Registration("orders:localhost:8080", weight=-1)
    with pytest.raises(client.ConfigurationError, match="no Status 'ok': say one of OK, DOWN"):
        client.Registration("orders:localhost:8080", status="ok")  # type: ignore[arg-type]
    with pytest.raises(client.ConfigurationError, match="no OnDisconnect 'LEAVE': say one of KEEP, "):
        client.Registration("orders:localhost:8080", on_disconnect="LEAVE")  # type: ignore[arg-type]
