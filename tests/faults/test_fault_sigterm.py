"""SIGTERM under load: whatever the server took on is answered, streams end in order, and the process is soon gone.

How "took on" is told from the outside: each request of the load renames its instance to a name never used before, so a request that
reached its handler left that name in the server's log. A request without an answer must not be found there: then it ran into a
connection that was being closed, which every client retries.
"""

import asyncio
import json
import os
import queue
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import IO

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from harness import INSTANCES, Watch, eventually, look_up, measured, register, watching

from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import Luna, Stub, basic, channel, instance_json, luna, session

GRACE = 10.0
SOON = 3.0
"""Well within the grace period."""
PATIENCE = 15.0
"""Who waits for longer than the server may live, hangs."""
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass
class Load:
    """What clients ask for, and what becomes of it."""

    rest: str
    grpc: str
    outcomes: Counter[str] = field(default_factory=Counter)
    unanswered: list[str] = field(default_factory=list)
    """The names of requests that got no answer at all."""
    faults: list[str] = field(default_factory=list)
    _names: Iterator[int] = field(default_factory=count)

    def name(self) -> str:
        """Return a service name that no other request uses."""
        return f"name-{next(self._names)}"

    def lost(self, name: str, how: str) -> None:
        """Note a request without an answer."""
        self.outcomes[how] += 1
        self.unanswered.append(name)


def _put(instance_id: str, name: str) -> bytes:
    body = json.dumps(instance_json(instance_id, name=name)).encode()
    lines = [
        f"PUT {INSTANCES}{instance_id} HTTP/1.1",
        "Host: localhost",
        f"Authorization: {basic()}",
        f"Content-Length: {len(body)}",
    ]
    head = "\r\n".join([*lines, "", ""])
    return head.encode() + body


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Read a whole HTTP answer and return its status, and whether the server keeps the connection open.

    Raises:
        EOFError, ConnectionError: the connection ended before that.

    """
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    await reader.readexactly(length)
    return int(head.split()[1]), b"connection: close" not in head.lower()


async def _put_and_judge(load: Load, pipe: tuple[asyncio.StreamReader, asyncio.StreamWriter], instance_id: str) -> bool:
    """Send a PUT and note what becomes of it; return whether the connection is still good."""
    reader, writer = pipe
    name = load.name()
    writer.write(_put(instance_id, name))
    try:
        status, good = await asyncio.wait_for(_answer(reader), PATIENCE)
    except TimeoutError:
        load.faults.append(f"PUT {name} hangs")
    except (EOFError, ConnectionError) as error:
        begun = bool(error.partial) if isinstance(error, asyncio.IncompleteReadError) else bool(reader._buffer)  # type: ignore[attr-defined]
        if begun:
            load.faults.append(f"PUT {name} got half an answer")
        load.lost(name, "http: closed without an answer")
    else:
        load.outcomes[f"http: {status}"] += 1
        if status != 200:
            load.faults.append(f"PUT {name} got {status}")
        return good
    return False


async def _put_for_ever(load: Load, instance_id: str, *, keep_alive: bool) -> None:
    """PUT until the server is no longer there, over one connection as long as it lasts, or a new one for each request."""
    host, _, port = load.rest.removeprefix("http://").rpartition(":")
    while True:
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            return
        try:
            while await _put_and_judge(load, (reader, writer), instance_id) and keep_alive:
                pass
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def _heartbeat_for_ever(load: Load, instance_id: str) -> None:
    """Send unary heartbeats until the server is no longer there."""
    async with channel(load.grpc) as connection:
        stub = registry_pb2_grpc.RegistryStub(connection)
        while True:
            name = load.name()
            request = pb.HeartbeatRequest(instance_id=instance_id, instance=pb.Instance(name=name))
            try:
                await stub.Heartbeat(request, timeout=PATIENCE)
                load.outcomes["unary: OK"] += 1
            except grpc.aio.AioRpcError as error:
                load.lost(name, f"unary: {error.code().name}")
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    load.faults.append(f"a heartbeat ended with {error.code()} {error.details()}")
                return


def _stream(load: Load, instance_id: str, pause: float | None) -> None:
    """Send heartbeats over a stream, one in `pause` seconds or only one, until the server ends it; runs in a thread.

    By the synchronous client: the asyncio one reports INTERNAL of its own when a stream ends while it is sending.
    """
    over: queue.SimpleQueue[None] = queue.SimpleQueue()

    def messages() -> Iterator[pb.StreamHeartbeatsRequest]:
        for sequence in count(1):
            yield pb.StreamHeartbeatsRequest(instance_ids=[instance_id], sequence=sequence)
            with suppress(queue.Empty):
                over.get(timeout=pause)
                return

    with grpc.insecure_channel(load.grpc) as connection:
        call = registry_pb2_grpc.RegistryStub(connection).StreamHeartbeats(
            messages(), metadata=(("authorization", basic()),), timeout=60
        )
        reconnects: list[bool] = []
        with suppress(grpc.RpcError):
            reconnects.extend(answer.reconnect for answer in call)
        over.put(None)
        load.outcomes[f"stream: {call.code().name}"] += 1
        if call.code() is not grpc.StatusCode.OK:
            load.faults.append(f"a heartbeat stream ended with {call.code()} {call.details()}")
        if not reconnects or not reconnects[-1] or any(reconnects[:-1]):
            load.faults.append(f"of {len(reconnects)} answers not the last one and only it says reconnect: {reconnects[-3:]}")


async def _silent_stream(load: Load, stub: Stub) -> None:
    """Open a stream and never send anything."""
    call = stub.StreamHeartbeats(timeout=60)
    answers = [answer.reconnect async for answer in call]
    if answers != [True] or await call.code() is not grpc.StatusCode.OK:
        load.faults.append(f"a silent heartbeat stream got {answers} and ended with {await call.code()}")


@dataclass
class Health:
    """What a health watch was told, and when."""

    told: list[tuple[float, int]] = field(default_factory=list)
    code: grpc.StatusCode | None = None

    async def watch(self, connection: grpc.aio.Channel, service: str) -> None:
        call = health_pb2_grpc.HealthStub(connection).Watch(health_pb2.HealthCheckRequest(service=service), timeout=60)
        with suppress(grpc.aio.AioRpcError):
            async for answer in call:
                self.told.append((time.time(), answer.status))
        self.code = await call.code()


def _logged_names(log: IO[bytes]) -> set[str]:
    log.seek(0)
    return {event["service"] for event in map(json.loads, log) if event["event"] == "registered"}


async def _ended(tasks: list[asyncio.Task[None]], what: str) -> None:
    """Wait for clients that have nothing more to do."""
    done, pending = await asyncio.wait(tasks, timeout=PATIENCE + 5)
    for task in pending:
        task.cancel()
    assert not pending, f"{len(pending)} {what} hang"
    for task in done:
        await task


@asynccontextmanager
async def _server_and_log(*flags: str) -> AsyncIterator[tuple[Luna, IO[bytes]]]:
    with tempfile.TemporaryFile() as log:
        async with luna(*flags, stderr=log.fileno()) as server:
            yield server, log


async def _terminate_under_load(record: Callable[[str, object], None]) -> None:
    """Do it once; see the test."""
    rest_ids = [f"rest:localhost:{port}" for port in range(8000, 8008)]
    unary_ids = [f"unary:localhost:{port}" for port in range(8000, 8004)]
    stream_ids = [f"stream:localhost:{port}" for port in range(8000, 8006)]
    async with _server_and_log() as (server, log), channel(server.grpc) as connection:
        stub = registry_pb2_grpc.RegistryStub(connection)
        for instance_id in [*rest_ids, *unary_ids, *stream_ids]:
            await register(stub, instance_id)
        load = Load(server.rest, server.grpc)
        health = {service: Health() for service in ("", "luna.registry.v1.Registry")}
        async with watching(stub) as everything, watching(stub, "stream") as quiet:
            tasks = [asyncio.create_task(_put_for_ever(load, id_, keep_alive=number < 6)) for number, id_ in enumerate(rest_ids)]
            tasks += [asyncio.create_task(_heartbeat_for_ever(load, id_)) for id_ in unary_ids]
            tasks += [
                asyncio.create_task(asyncio.to_thread(_stream, load, id_, None if number % 3 == 0 else 0.005))
                for number, id_ in enumerate(stream_ids)
            ]
            tasks += [asyncio.create_task(_silent_stream(load, stub))]
            tasks += [asyncio.create_task(watch.watch(connection, service)) for service, watch in health.items()]
            await eventually(
                lambda: (
                    load.outcomes["http: 200"] > 200
                    and load.outcomes["unary: OK"] > 50
                    and all(service.told for service in health.values())
                ),
                10,
                "the load is running",
            )
            assert not [task for task in tasks if task.done()], load

            began = time.time()
            os.kill(server.pid, signal.SIGTERM)
            code = await asyncio.wait_for(server.process.wait(), GRACE + 10)
            took = time.time() - began
            await _ended(tasks, "clients")
            await _ended_ok([everything, quiet])

        names = _logged_names(log)
        measured(record, f"seconds from SIGTERM to exit, with {dict(load.outcomes)}", took)
        problems = [*load.faults]
        problems += [f"{name} reached its handler and got no answer" for name in load.unanswered if name in names]
        for service, watch in health.items():
            if [status for _, status in watch.told] != [SERVING, NOT_SERVING] or watch.code is not grpc.StatusCode.OK:
                problems.append(f"the health watch of {service!r} was told {watch.told} and ended with {watch.code}")
        if code != 0 or took > SOON:
            problems.append(f"exit code {code} after {took:.3f} s")
        assert problems == []


async def _ended_ok(watches: list[Watch]) -> None:
    for watch in watches:
        assert await eventually(lambda watch=watch: watch.code, 5, "the end of a watch") is grpc.StatusCode.OK  # type: ignore[misc]


async def test_sigterm_under_load(record_property: Callable[[str, object], None]) -> None:
    """Five times: no request that was taken on is left without its answer, streams and watches end in order, exit code 0 soon."""
    for _ in range(5):
        await _terminate_under_load(record_property)


async def test_not_serving_comes_first(record_property: Callable[[str, object], None]) -> None:
    """Health and /readyz say no for LUNA_SHUTDOWN_DELAY while everything is still answered; only then streams are ended."""
    delay = 0.6
    instance_id = "late:localhost:80"
    async with (
        _server_and_log("--shutdown-delay", str(delay)) as (server, _),
        channel(server.grpc) as connection,
        session(server.rest) as rest,
    ):
        stub = registry_pb2_grpc.RegistryStub(connection)
        await register(stub, instance_id)
        health = Health()
        health_watch = asyncio.create_task(health.watch(connection, ""))
        stream = stub.StreamHeartbeats()
        await stream.write(pb.StreamHeartbeatsRequest(instance_ids=[instance_id]))
        await stream.read()
        async with watching(stub) as watch:
            await eventually(lambda: health.told, 5, "the health watch")
            async with rest.get("/readyz") as answer:
                assert answer.status == 200
            began = time.time()
            os.kill(server.pid, signal.SIGTERM)
            [_, (not_serving_at, status)] = await eventually(lambda: health.told[1:] and health.told, 1, "the end of SERVING")
            assert status == NOT_SERVING
            assert not_serving_at - began < delay

            # Balancers hear of it only now, and go on sending for a while.
            async with rest.get("/readyz") as answer:
                assert answer.status == 503
            async with rest.get("/livez") as answer:
                assert answer.status == 200
            async with rest.put(INSTANCES + instance_id) as answer:
                assert answer.status == 200
            await stub.Heartbeat(pb.HeartbeatRequest(instance_id=instance_id, instance=pb.Instance(version="2")))
            await watch.sees(instance_id, lambda told: told.instance.version == "2", 1)
            assert (await look_up(stub, instance_id)).version == "2"
            await stream.write(pb.StreamHeartbeatsRequest(instance_ids=[instance_id], sequence=7))
            answered = await stream.read()
            assert isinstance(answered, pb.StreamHeartbeatsResponse)
            assert (answered.sequence, answered.reconnect) == (7, False)
            assert time.time() - began < delay, "this machine is too slow to tell"

            last = await stream.read()
            assert isinstance(last, pb.StreamHeartbeatsResponse)
            assert last.reconnect
            assert time.time() - not_serving_at >= delay - 0.05
            assert await stream.read() is grpc.aio.EOF
            assert await stream.code() is grpc.StatusCode.OK
            await _ended_ok([watch])
            await health_watch
            assert health.code is grpc.StatusCode.OK
            assert await asyncio.wait_for(server.process.wait(), GRACE) == 0
            measured(record_property, "seconds from SIGTERM to exit", time.time() - began)
            assert time.time() - began < delay + SOON


async def test_a_request_half_sent_is_answered(record_property: Callable[[str, object], None]) -> None:
    """A request whose head has arrived before SIGTERM and whose body ends after it is answered, and holds nothing up."""
    instance_id = "slow:localhost:80"
    async with luna() as server, session(server.rest) as rest:
        async with rest.post(INSTANCES + instance_id, json=instance_json(instance_id)) as answer:
            assert answer.status == 201
        host, _, port = server.rest.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            request = _put(instance_id, "slow")
            writer.write(request[:-20])
            # The handler is at work when another request, sent later, has been answered.
            async with rest.get("/livez") as answer:
                assert answer.status == 200
            began = time.time()
            os.kill(server.pid, signal.SIGTERM)
            await asyncio.sleep(0.2)
            writer.write(request[-20:])
            try:
                status, _ = await asyncio.wait_for(_answer(reader), PATIENCE)
            except EOFError:
                status = 0
            answered = time.time() - began
            assert await asyncio.wait_for(server.process.wait(), PATIENCE) == 0
            took = time.time() - began
            measured(record_property, "seconds from SIGTERM to exit", took)
            assert status == 200, (
                f"no answer; the connection was closed after {answered:.1f} s, the process ended after {took:.1f} s"
            )
            assert took < SOON
        finally:
            writer.close()


async def _ask_for_ever(address: str, waits: list[float]) -> None:
    """Ask over a new connection each time until none can be had; note for how long each took, answered or not."""
    host, _, port = address.removeprefix("http://").rpartition(":")
    while True:
        began = time.time()
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            return
        writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        with suppress(OSError):
            await reader.read()
        waits.append(time.time() - began)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def test_sigterm_amid_new_connections(record_property: Callable[[str, object], None]) -> None:
    """Connections that come in at the moment of SIGTERM are answered or closed at once, and hold nothing up."""
    for _ in range(6):
        async with luna("--shutdown-grace", str(SOON + 1)) as server:
            waits: list[float] = []
            tasks = [asyncio.create_task(_ask_for_ever(server.rest, waits)) for _ in range(100)]
            await eventually(lambda waits=waits: len(waits) > 300, 10, "the load is running")  # type: ignore[misc]
            began = time.time()
            os.kill(server.pid, signal.SIGTERM)
            assert await asyncio.wait_for(server.process.wait(), PATIENCE) == 0
            took = time.time() - began
            await _ended(tasks, "clients")
            measured(record_property, "seconds from SIGTERM to exit", took)
            assert took < SOON, f"the process ended after {took:.1f} s; the slowest connection after {max(waits):.1f} s"
            assert max(waits) < SOON
