"""All clients at once, and clients that do not read."""

import asyncio
import json
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from harness import measured
from peer import Peer

from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import Stub, channel, luna


async def _outcome(call: Awaitable[object]) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


def _large(number: int) -> pb.RegisterRequest:
    metadata = {f"key-{key}": "x" * 900 for key in range(5)}
    return pb.RegisterRequest(instance=pb.Instance(instance_id=f"large:localhost:{number}", metadata=metadata))


async def test_all_clients_register_at_once() -> None:
    """As after a restart: 5,000 calls in one moment over 10 connections, and each of them is answered."""
    async with luna("--log-level", "warning") as server:
        channels = [channel(server.grpc) for _ in range(10)]
        stubs = [registry_pb2_grpc.RegistryStub(connection) for connection in channels]
        requests = [pb.RegisterRequest(instance=pb.Instance(instance_id=f"burst:localhost:{number + 1}")) for number in range(5000)]
        outcomes = await asyncio.gather(
            *(_outcome(stubs[number % 10].Register(request)) for number, request in enumerate(requests))
        )
        assert Counter(outcomes) == {"OK": 5000}
        for connection in channels:
            await connection.close()


async def _deaf_watch(stub: Stub) -> object:
    watch = stub.WatchServices(pb.WatchServicesRequest())
    await watch.read()
    return watch


async def _deaf_stream(stub: Stub) -> object:
    stream = stub.StreamHeartbeats()
    for _ in range(300):
        await stream.write(pb.StreamHeartbeatsRequest(instance_ids=[f"unknown:localhost:{port}" for port in range(1, 300)]))
    return stream


async def test_who_does_not_read_holds_nothing_up(record_property: Callable[[str, object], None]) -> None:
    """A watch and a heartbeat stream whose buffers are full: the server stops when its grace is over, without an error."""
    with tempfile.TemporaryFile() as errors:
        async with (
            luna("--shutdown-grace", "3", "--log-level", "warning", stderr=errors.fileno()) as server,
            channel(server.grpc) as connection,
            channel(server.grpc) as deaf,
        ):
            stub = registry_pb2_grpc.RegistryStub(connection)
            await asyncio.gather(*(stub.Register(_large(number)) for number in range(1, 2001)))
            calls = [await open_(registry_pb2_grpc.RegistryStub(deaf)) for open_ in (_deaf_watch, _deaf_stream)]
            began = time.monotonic()
            assert await server.stop(signal.SIGTERM) == 0
            took = time.monotonic() - began
            measured(record_property, "seconds from SIGTERM to exit", took)
            assert took < 3 + 3
            for call in calls:
                call.cancel()  # type: ignore[attr-defined]
        errors.seek(0)
        assert [json.loads(line) for line in errors] == []


async def test_a_health_watch_that_takes_no_answer_blocks_no_one() -> None:
    """It needs no credentials; others go on being told, and the server stops."""
    async with luna("--shutdown-grace", "2") as server, grpc.aio.insecure_channel(server.grpc) as connection:
        deaf = await Peer.to(server.grpc, window=0)
        deaf.open("/grpc.health.v1.Health/Watch", b"", credentials=False, half_close=True)
        deaf.flush()
        health = health_pb2_grpc.HealthStub(connection)
        for _ in range(20):
            watch = aiter(health.Watch(health_pb2.HealthCheckRequest(), timeout=5))
            assert (await anext(watch)).status == health_pb2.HealthCheckResponse.SERVING
        assert await server.stop() == 0
        assert (await anext(watch)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        deaf.close()


async def test_rubbish_does_not_fill_the_log() -> None:
    """Bytes that are no HTTP are answered with 400, and are no error of ours."""
    with tempfile.TemporaryFile() as errors:
        async with luna("--log-level", "info", stderr=errors.fileno()) as server:
            host, _, port = server.rest.removeprefix("http://").rpartition(":")
            for rubbish in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(rubbish + b"\r\n\r\n")
                assert b" 400 " in await reader.readline()
                writer.close()
                await writer.wait_closed()
            await server.stop()
        errors.seek(0)
        assert [json.loads(line)["event"] for line in errors] == ["stopping"]
