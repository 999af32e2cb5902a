"""The state file of a real process: on the disk before the answer, on a disk that is full, and while it is read."""

import asyncio
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from aiohttp import ClientConnectionError, ClientSession
from grpc_health.v1 import health_pb2, health_pb2_grpc
from harness import INSTANCES, eventually, look_up, measured, register, soak, watching

from luna_grpc.model import Info, Instance, Status
from luna_grpc.statefile import StateFile
from luna_grpc.stateformat import Kept, keep
from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import Luna, Stub, channel, clean_environment, instance_json, luna, need, session

TTL = 2.0


# The order of things, as the kernel saw it

READING = frozenset({"read", "recvmsg", "recvfrom"})
SENDING = frozenset({"write", "writev", "sendmsg", "sendto"})
WRITING = frozenset({"pwrite64", "fdatasync", "fsync"})


async def changed_through_both_doors(server: Luna, number: int) -> list[tuple[str, str]]:
    """Make changes one after the other; return of each a word that its request holds, and one that its answer holds."""
    marks: list[tuple[str, str]] = []
    async with channel(server.grpc) as connection, session(server.rest) as rest:
        stub: Stub = registry_pb2_grpc.RegistryStub(connection)
        stream = stub.StreamHeartbeats()
        for n in range(1, number + 1):
            one, two = f"grpc{n}:h:1", f"rest{n}:h:1"
            answer = await stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id=one, description=f"g{n}-registered")))
            marks.append((f"g{n}-registered", f"g{n}-registered"))
            epoch = answer.lease.epoch
            changed = pb.Instance(description=f"g{n}-changed")
            await stub.Heartbeat(pb.HeartbeatRequest(instance_id=one, instance=changed))
            marks.append((f"g{n}-changed", epoch))
            changed = pb.Instance(description=f"g{n}-streamed")
            entry = pb.HeartbeatRequest(instance_id=one, instance=changed)
            await stream.write(pb.StreamHeartbeatsRequest(sequence=n, heartbeats=[entry]))
            answered = await stream.read()
            assert isinstance(answered, pb.StreamHeartbeatsResponse)
            assert answered.sequence == n
            marks.append((f"g{n}-streamed", epoch))
            for method, status, mark in (("POST", 201, f"r{n}-posted"), ("PUT", 200, f"r{n}-put"), ("DELETE", 200, "")):
                body = instance_json(two, description=mark) if mark else None
                async with rest.request(method, INSTANCES + two, json=body) as response:
                    assert response.status == status
                marks.append((mark or f"DELETE {INSTANCES}{two} ", f"HTTP/1.1 {status}"))
    return marks


class Call(NamedTuple):
    """A system call."""

    name: str
    file: str
    """The number of what it reads or writes."""
    text: str
    """What follows: the name of the file, what was read or written, the outcome."""


def calls_in(lines: Iterable[str]) -> list[Call]:
    """Read what strace wrote: the system calls of all threads in the order in which they were over; what is sent, when it began."""
    calls: list[Call] = []
    begun: dict[tuple[str, str], Call] = {}
    for line in lines:
        process = line.partition(" ")[0]
        if match := re.match(r"\d+ +(\w+)\((\d+)<(.*)", line, re.DOTALL):
            call = Call(*match.groups())
            if line.endswith("<unfinished ...>") and call.name not in SENDING:
                begun[process, call.name] = call
            else:
                calls.append(call)
        elif (match := re.match(r"\d+ +<\.\.\. (\w+) resumed>(.*)", line, re.DOTALL)) and (process, match[1]) in begun:
            before = begun.pop((process, match[1]))
            calls.append(before._replace(text=before.text + match[2]))
    return calls


def done_to_the_log(calls: list[Call], start: int, asked: str, answered: str) -> tuple[list[str], int]:
    """Return what was done to the state file's log between a request and its answer, and where the answer stands."""
    connection = ""
    done: list[str] = []
    for place, call in enumerate(calls[start:], start):
        if not connection:
            connection = call.file if call.name in READING and asked in call.text else ""
        elif call.file == connection and call.name in SENDING and answered in call.text:
            return done, place
        elif call.name in WRITING and "state.db-wal>" in call.text:
            done.append(call.name)
    raise AssertionError(f"{asked} and its answer {answered} are not there")


async def test_the_disk_has_a_change_before_it_is_answered(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Between each request and its answer: the log is written to and synchronised. A kill cannot show that; the kernel can."""
    need("strace")
    output = tmp_path / "strace"
    traced = ",".join(READING | SENDING | WRITING)
    tracing = ("strace", "-D", "-f", "-y", "-qq", "-s", "70000", "-e", f"trace={traced}", "-e", "signal=none", "-o", str(output))
    flags = ("--state-file", str(tmp_path / "state.db"), "--log-level", "warning")
    async with luna(*flags, within=tracing, patience=120) as server:
        marks = await changed_through_both_doors(server, soak(3, 30))
        await server.stop()
    await asyncio.sleep(0.5)  # strace writes its last lines after that
    calls = calls_in(output.read_text(errors="replace").splitlines())
    place = 0
    for asked, answered in marks:
        done, place = done_to_the_log(calls, place, asked, answered)
        assert "pwrite64" in done, f"{asked}: answered before it was written"
        assert done[-1] in {"fdatasync", "fsync"}, f"{asked}: answered before it was on the disk"
    measured(record_property, "changes whose fdatasync was seen before the answer", len(marks))


# A disk that is full


@asynccontextmanager
async def on_a_small_disk(tmp_path: Path, *flags: str, stderr: int) -> AsyncIterator[tuple[Luna, Callable[[], Any]]]:
    """Run a server whose state file is on a file system of 3 MB of its own; return what fills that, as a context."""
    mount = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"])]
    if shutil.which("unshare") is None or (await asyncio.to_thread(subprocess.run, [*mount, "true"], check=False)).returncode:
        pytest.skip("this user may not mount a file system in a namespace of its own")
    script = f'mount -t tmpfs -o size=3m tmpfs {tmp_path} && exec "$@"'
    within = (*mount, "sh", "-c", script, "sh")
    async with luna("--state-file", f"{tmp_path}/state.db", *flags, stderr=stderr, within=within) as server:
        filler = Path(f"/proc/{server.pid}/root{tmp_path}/filler")

        @contextmanager
        def full() -> Iterator[None]:
            with suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            yield
            filler.unlink()

        yield server, full


@asynccontextmanager
async def without_room(tmp_path: Path, *flags: str, stderr: int) -> AsyncIterator[tuple[Luna, Callable[[], Any]]]:
    """Run a server that can be kept from writing to any file."""
    async with luna("--state-file", f"{tmp_path}/state.db", *flags, stderr=stderr) as server:

        @contextmanager
        def full() -> Iterator[None]:
            before = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1, before[1]))
            yield
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, before)

        yield server, full


class Heartbeats:
    """Twenty instances that send heartbeats: half of them on a stream, half through REST, as a whole each time."""

    def __init__(self, stub: Stub, rest: ClientSession) -> None:
        self.streamed = [f"streamed:h:{n}" for n in range(1, 11)]
        self.put = [f"put:h:{n}" for n in range(1, 11)]
        self.trouble: list[str] = []
        self._stub = stub
        self._rest = rest

    async def begin(self) -> None:
        """Register them."""
        for instance_id in [*self.streamed, *self.put]:
            await register(self._stub, instance_id)

    async def go_on(self) -> None:
        """Send heartbeats until cancelled."""
        stream = self._stub.StreamHeartbeats()
        while True:
            await stream.write(pb.StreamHeartbeatsRequest(instance_ids=self.streamed))
            answer = await stream.read()
            assert isinstance(answer, pb.StreamHeartbeatsResponse)
            self.trouble += [failure.message for failure in answer.failures]
            for instance_id in self.put:
                async with self._rest.put(INSTANCES + instance_id) as response:
                    if response.status != 200:
                        self.trouble.append(await response.text())
            await asyncio.sleep(TTL / 8)


@pytest.mark.parametrize(("disk", "why"), [(on_a_small_disk, "the disk is full"), (without_room, "the disk does not take it")])
async def test_a_full_disk(disk: Any, why: str, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Changes are refused through both doors, in words; nobody who sends heartbeats goes DOWN; room again is all that it takes."""
    reading, writing = os.pipe()
    flags = ("--lease-ttl", str(TTL), "--log-level", "warning")
    async with AsyncExitStack() as stack:
        lines = await stack.enter_async_context(_lines(reading))
        server, full = await stack.enter_async_context(disk(tmp_path, *flags, stderr=writing))
        os.close(writing)
        rest = await stack.enter_async_context(session(server.rest))
        stub: Stub = registry_pb2_grpc.RegistryStub(await stack.enter_async_context(channel(server.grpc)))
        beats = Heartbeats(stub, rest)
        await beats.begin()
        watch = await stack.enter_async_context(watching(stub))
        beating = asyncio.create_task(beats.go_on())
        before = await look_up(stub, "put:h:1")
        with full():
            await _refused_everywhere(stub, rest, why)
            await asyncio.sleep(soak(2.5, 10) * TTL)
            await _refused_everywhere(stub, rest, why)
            async with rest.get("/readyz") as answer:
                assert answer.status == 200
        [alarm] = [line for line in lines if line["level"] == "error"]
        assert (alarm["event"], why in alarm["reason"]) == ("state file cannot be written", True)
        well_again = time.monotonic()
        await eventually(lambda: "state file is written again" in [line["event"] for line in lines], 10, "the end of the alarm")
        measured(record_property, "seconds until the alarm ended", time.monotonic() - well_again)
        await register(stub, "late:h:1")
        async with rest.delete(INSTANCES + "late:h:1") as answer:
            assert answer.status == 200
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        assert beating.cancelled()
        assert beats.trouble == []
        assert [told.id for told in watch.told if told.down] == []
        after = await look_up(stub, "put:h:1")
        assert (after.generation, after.status) == (before.generation, pb.STATUS_OK)
        assert after.last_heartbeat.ToMilliseconds() > before.last_heartbeat.ToMilliseconds()
        assert await server.stop() == 0


@asynccontextmanager
async def _lines(reading: int) -> AsyncIterator[list[dict[str, Any]]]:
    """Collect the log from a pipe: the limit that stops a process from writing to files does not concern it."""
    lines: list[dict[str, Any]] = []
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb")
    )

    async def collect() -> None:
        async for line in reader:
            lines.append(json.loads(line))  # noqa: PERF401 - each as it comes

    task = asyncio.create_task(collect())
    try:
        yield lines
    finally:
        task.cancel()
        transport.close()


async def _refused_everywhere(stub: Stub, rest: ClientSession, why: str) -> None:
    """Every kind of change, through both doors."""
    words = f"the change was not made, for the state file cannot be written: {why}"
    for call in (
        stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id="new:h:1"))),
        stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id="put:h:1"), replace=True)),
        stub.Heartbeat(pb.HeartbeatRequest(instance_id="put:h:1", status=pb.STATUS_DOWN)),
        stub.Deregister(pb.DeregisterRequest(instance_id="put:h:1")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert words in str(caught.value.details())
    for method, instance_id in (("POST", "new:h:1"), ("PUT", "put:h:1"), ("DELETE", "put:h:1")):
        body = instance_json(instance_id, status="DOWN") if method != "DELETE" else None
        async with rest.request(method, INSTANCES + instance_id, json=body) as answer:
            assert (answer.status, words in await answer.text()) == (503, True)
            assert int(answer.headers["Retry-After"]) > 0


# A start that takes a while

MANY = 100_000


@pytest.fixture(scope="module")
async def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a file with many instances, by the means of the store itself."""
    path = tmp_path_factory.mktemp("large") / "state.db"
    file = StateFile.open(str(path))
    for start in range(0, MANY, 1000):
        await file.write(*(keep(_kept(number), moved=True) for number in range(start, start + 1000)), generation=MANY + start)
    await file.close()
    return path


def _kept(number: int) -> Kept:
    service = f"service-{number % 1000}"
    metadata = {"zone": str(number % 3)}
    info = Info.of(f"{service}:host-{number}:8080", version="1.2.3", description=f"The {service}", metadata=metadata)
    return Kept(Instance(info, Status.OK, None, number + 1, 1_700_000_000_000), "", 1_700_000_000_000)


class Looks:
    """What someone sees who looks all the time, from before the start."""

    def __init__(self) -> None:
        self.ready: list[int] = []
        self.health: list[int] = []
        self.lists: list[int] = []
        """The status of a list through REST, and how many instances were in one that was given."""
        self.pages: list[grpc.StatusCode] = []
        self.delays: list[float] = []
        """Seconds until `/livez` was answered."""

    async def look(self, rest: ClientSession, stub: Stub, health: health_pb2_grpc.HealthStub) -> None:
        """Look once through each door, if they are open."""
        begun = time.monotonic()
        async with rest.get("/livez") as answer:
            assert answer.status == 200
        self.delays.append(time.monotonic() - begun)
        async with rest.get("/readyz") as answer:
            ready = answer.status
        async with rest.get("/registry/v1/services/json") as answer:
            listed = answer.status
            if listed == 200:
                assert sum(len(service["instances"]) for service in await answer.json()) == MANY
            else:
                assert "has not read its state file to the end" in await answer.text()
        self.ready.append(ready)
        self.lists.append(listed)
        try:
            self.health.append((await health.Check(health_pb2.HealthCheckRequest())).status)
            page = await stub.ListServices(pb.ListServicesRequest())
        except grpc.aio.AioRpcError as error:
            self.pages.append(error.code())
        else:
            assert page.total_size == 1000
            self.pages.append(grpc.StatusCode.OK)


async def test_nothing_is_said_before_everything_is_read(large: Path, record_property: Callable[[str, object], None]) -> None:
    """Not ready, not serving, no list through either door; then all of it at once. In the meantime the process is alive."""
    ports = _free_ports(2)
    looks = Looks()
    async with AsyncExitStack() as stack:
        rest = await stack.enter_async_context(session(f"http://127.0.0.1:{ports[0]}"))
        connection = await stack.enter_async_context(channel(f"127.0.0.1:{ports[1]}"))
        stub: Stub = registry_pb2_grpc.RegistryStub(connection)
        health = health_pb2_grpc.HealthStub(connection)
        flags = ("--state-file", str(large), "--port", str(ports[0]), "--grpc-port", str(ports[1]), "--log-level", "warning")
        starting = asyncio.create_task(stack.enter_async_context(luna(*flags, patience=120)))
        begun = 0.0
        while not starting.done():
            with suppress(ClientConnectionError):
                await looks.look(rest, stub, health)
                begun = begun or time.monotonic()
            await asyncio.sleep(0.01)
        measured(record_property, "seconds from the doors being open to ready, 100,000 instances", time.monotonic() - begun)
        server = await starting
        await looks.look(rest, stub, health)
        assert await server.stop() == 0
    measured(record_property, "seconds until /livez was answered meanwhile", *looks.delays)
    assert looks.lists.count(503) >= 3, "it was too quick to be seen"
    assert set(looks.lists) == {200, 503}
    assert sorted(looks.lists, reverse=True) == looks.lists
    assert sorted(looks.ready, reverse=True) == looks.ready
    # A look takes a while: what was asked at its end may be newer than what was asked at its beginning.
    assert abs(looks.ready.index(200) - looks.lists.index(200)) <= 1
    assert set(looks.pages) == {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.OK}
    # A look takes a while; what was read in the middle of one may be newer than its beginning.
    assert looks.pages.index(grpc.StatusCode.OK) in {looks.lists.index(200), looks.lists.index(200) - 1}
    assert set(looks.health) == {health_pb2.HealthCheckResponse.NOT_SERVING, health_pb2.HealthCheckResponse.SERVING}
    assert max(looks.delays) < 2


async def test_a_registry_that_is_stopped_while_it_reads_ends_at_once(large: Path) -> None:
    """With 0, and the file is as it was."""
    before = large.stat().st_size
    port = _free_ports(1)[0]
    flags = ("--state-file", str(large), "--port", str(port), "--grpc-port", "0", "--log-level", "warning")
    async with session(f"http://127.0.0.1:{port}") as rest:
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "luna_grpc", "serve", *flags, env=clean_environment())
        ready = None
        while ready is None:
            with suppress(ClientConnectionError):
                async with rest.get("/readyz") as answer:
                    ready = answer.status
            await asyncio.sleep(0.01)
        assert ready == 503
        begun = time.monotonic()
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0
        assert time.monotonic() - begun < 5
    assert large.stat().st_size == before
    assert [each.name for each in large.parent.iterdir()] == ["state.db"]


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports
