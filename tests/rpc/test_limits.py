"""What one gRPC client may take of the server, each limit through the real door."""

import asyncio
import gzip
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import hpack
import pytest
from aiohttp import ClientSession
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hyperframe.frame import Frame, HeadersFrame, RstStreamFrame, SettingsFrame

from luna_grpc.errors import ResourceExhaustedError
from luna_grpc.rpc import limits
from luna_grpc.rpc.limits import StreamCount, Turns
from luna_grpc.serve import Running, running
from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import Stub, basic, channel, settings_for_tests

ID = "orders:localhost:8080"
METADATA = (("authorization", basic()),)


@asynccontextmanager
async def limited(**flags: object) -> AsyncIterator[tuple[Running, Stub]]:
    """Run a server with limits, and connect to it."""
    async with running(settings_for_tests(**flags)) as server, connected(server) as stub:
        yield server, stub


@asynccontextmanager
async def connected(server: Running) -> AsyncIterator[Stub]:
    """Open a connection."""
    async with channel(f"127.0.0.1:{server.grpc_port}") as connection:
        yield registry_pb2_grpc.RegistryStub(connection)


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    """Return how a call fails, which is RESOURCE_EXHAUSTED."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return caught.value


def retry_after(error: grpc.aio.AioRpcError) -> int:
    """Return the seconds in the RetryInfo of an error's details; it has to be there."""
    [details] = [value for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin"]
    info = RetryInfo()
    assert Status.FromString(details).details[0].Unpack(info)
    return int(info.retry_delay.seconds)


async def open_stream(stub: Stub) -> Any:
    """Open a heartbeat stream, and wait until it is served."""
    stream = stub.StreamHeartbeats()
    await stream.write(pb.StreamHeartbeatsRequest())
    await stream.read()
    return stream


async def test_streams_of_one_connection() -> None:
    """Of both kinds together; another connection is not concerned, and one that ends makes room."""
    async with limited(max_streams_per_connection=3) as (server, stub), connected(server) as other:
        stream = await open_stream(stub)
        watch = aiter(stub.WatchServices(pb.WatchServicesRequest()))
        await anext(watch)
        await open_stream(stub)
        for refused in (stub.StreamHeartbeats().read(), anext(aiter(stub.WatchServices(pb.WatchServicesRequest())))):
            error = await refusal(refused)
            assert "3 streams are open on this connection" in str(error.details())
            assert "LUNA_MAX_STREAMS_PER_CONNECTION" in str(error.details())
            assert retry_after(error) == limits.FREE_AFTER
        await stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id=ID)))
        await open_stream(other)
        await stream.done_writing()
        assert await stream.read() is not grpc.aio.EOF
        assert await stream.read() is grpc.aio.EOF
        await open_stream(stub)


async def test_health_watches_count_too() -> None:
    """They need no credentials, so anyone could open them."""
    async with (
        running(settings_for_tests(max_streams_per_connection=2)) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as connection,
    ):
        stub = health_pb2_grpc.HealthStub(connection)
        watches = [aiter(stub.Watch(health_pb2.HealthCheckRequest())) for _ in range(2)]
        await asyncio.gather(*(anext(watch) for watch in watches))
        await refusal(anext(aiter(stub.Watch(health_pb2.HealthCheckRequest()))))
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING


async def test_streams_of_one_address() -> None:
    """However many connections it has."""
    async with limited(max_streams_per_address=2) as (server, stub), connected(server) as other:
        await open_stream(stub)
        stream = await open_stream(other)
        error = await refusal(stub.StreamHeartbeats().read())
        assert "2 streams from 127.0.0.1 are open" in str(error.details())
        assert "LUNA_MAX_STREAMS_PER_ADDRESS" in str(error.details())
        stream.cancel()
        async with asyncio.timeout(10):
            while len(server.grpc.service.heartbeat_streams) == 2:  # noqa: ASYNC110 - the server has no reason to tell
                await asyncio.sleep(0.01)
        await open_stream(stub)


def test_streams_are_counted_and_forgotten() -> None:
    """What is refused is not counted, what has ended leaves nothing; an IPv6 customer is one address whatever he calls himself."""
    count = StreamCount(2, 3)
    for peer in ("[2001:db8::1]:1", "[2001:db8::2]:2", "[2001:db8::2]:2"):
        count.add(peer)
    with pytest.raises(ResourceExhaustedError, match=r"2 streams .* connection"):
        count.add("[2001:db8::2]:2")
    with pytest.raises(ResourceExhaustedError, match=r"3 streams from 2001:db8::/64"):
        count.add("[2001:db8::3]:3")
    count.add("127.0.0.1:1")
    for peer in ("[2001:db8::1]:1", "[2001:db8::2]:2", "[2001:db8::2]:2", "127.0.0.1:1"):
        count.remove(peer)
    assert (count._connections, count._addresses) == ({}, {})


async def test_ids_of_one_stream() -> None:
    """Each further one fails by itself, and the stream goes on."""
    async with limited(max_instances_per_stream=2) as (_, stub):
        for port in (1, 2, 3):
            await stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id=f"a:h:{port}")))
        stream: Any = stub.StreamHeartbeats()
        await stream.write(pb.StreamHeartbeatsRequest(instance_ids=[f"a:h:{port}" for port in (1, 2, 3)], sequence=1))
        answer: Any = await stream.read()
        [failure] = answer.failures
        assert (answer.sequence, failure.instance_id, failure.code) == (1, "a:h:3", grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
        assert "open another stream" in failure.message
        await stream.write(pb.StreamHeartbeatsRequest(instance_ids=["a:h:2"], sequence=2))
        assert not (await stream.read()).failures


async def test_instances() -> None:
    """In all and of one service; with the seconds after which it may be worth trying again."""
    async with limited(max_instances=2, max_instances_per_service=1) as (_, stub):
        for name in ("a", "b"):
            await stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id=f"{name}:h:1")))
        error = await refusal(stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id="c:h:1"))))
        assert "LUNA_MAX_INSTANCES" in str(error.details())
        assert retry_after(error) > 0
        moving = pb.HeartbeatRequest(instance_id="b:h:1", instance=pb.Instance(name="a"))
        assert "LUNA_MAX_INSTANCES_PER_SERVICE" in str((await refusal(stub.Heartbeat(moving))).details())


async def test_the_size_of_a_page() -> None:
    """Who asks for more gets as many as there may be."""
    async with limited(max_page_size=2) as (_, stub):
        for name in "abc":
            await stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id=f"{name}:h:1")))
        for asked in (0, 2, 5):
            page = await stub.ListServices(pb.ListServicesRequest(page_size=asked))
            assert ([service.name for service in page.services], page.total_size) == (["a", "b"], 3)
            assert page.next_page_token


async def test_the_size_of_a_message() -> None:
    """Of a call and of a stream; the core refuses what is larger before anyone has to hold it."""
    async with limited(max_message=10_000) as (_, stub):
        large = pb.Instance(instance_id=ID, description="x" * 10_000)
        assert "larger than max" in str((await refusal(stub.Register(pb.RegisterRequest(instance=large)))).details())
        stream = await open_stream(stub)
        await stream.write(pb.StreamHeartbeatsRequest(instance_ids=[ID] * 1000))
        await refusal(stream.read())
        await stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id=ID)))


async def test_a_small_message_that_unpacks_to_a_large_one(server: Running) -> None:
    """It is not unpacked further than a plain one might be long."""
    bomb = b"\0" * 50_000_000
    assert len(gzip.compress(bomb, 1)) < 1_000_000
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{server.grpc_port}", options=[("grpc.max_send_message_length", -1)]
    ) as connection:
        call: Any = connection.unary_unary("/luna.registry.v1.Registry/Register")
        await refusal(call(bomb, metadata=METADATA, compression=grpc.Compression.Gzip))


async def test_the_size_of_metadata() -> None:
    """The core refuses what is larger."""
    async with (
        limited(max_header_size=2000) as (server, _),
        grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as connection,
    ):
        call: Any = connection.unary_unary("/luna.registry.v1.Registry/Register")
        await refusal(call(b"", metadata=(*METADATA, ("x-filler", "x" * 2000))))


async def test_connections() -> None:
    """One too many is closed, which clients take for UNAVAILABLE; those that are there go on, and one that ends makes room."""
    async with limited(max_connections=2) as (server, stub), connected(server) as second:
        for each in (stub, second):
            await each.ListServices(pb.ListServicesRequest())
        async with connected(server) as third:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await third.ListServices(pb.ListServicesRequest(), timeout=10)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await stub.ListServices(pb.ListServicesRequest())
    async with limited(max_connections=1) as (server, stub):
        await stub.ListServices(pb.ListServicesRequest())


async def test_a_connection_that_says_nothing_is_closed() -> None:
    """After the time that there is for headers; HTTP/2 begins with the client."""
    async with limited(header_timeout=0.2) as (server, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.grpc_port)
        async with asyncio.timeout(20):
            await reader.read()
        writer.close()


async def test_a_connection_without_calls_is_closed() -> None:
    """But not one with a stream, however silent."""
    async with limited(idle_timeout=0.3) as (server, stub):
        await open_stream(stub)
        async with line(server) as (reader, _), asyncio.timeout(20):
            while await reader.read(1000):
                pass
        assert len(server.grpc.service.heartbeat_streams) == 1


@asynccontextmanager
async def line(server: Running) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a connection that speaks HTTP/2, and says nothing more than that."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.grpc_port)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize())
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_calls_that_never_say_anything_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """They reach no handler, so HTTP/2 has to refuse them: the server takes some more than it allows streams, and no others."""
    monkeypatch.setattr(limits, "CALLS_BESIDE", 100)
    async with limited(max_streams_per_connection=10) as (server, stub), line(server) as (reader, writer):
        fields = [(":method", "POST"), (":scheme", "http"), (":path", "/luna.registry.v1.Registry/Register"), (":authority", "x"),
                  ("te", "trailers"), ("content-type", "application/grpc")]  # fmt: skip
        encoder = hpack.Encoder()
        for number in range(300):
            head = HeadersFrame(2 * number + 1, data=encoder.encode(fields), flags=["END_HEADERS"])
            writer.write(head.serialize())
        refused = 0
        async with asyncio.timeout(20):
            while refused < 300 - 10 - limits.CALLS_BESIDE:
                frame, length = Frame.parse_frame_header(memoryview(await reader.readexactly(9)))
                await reader.readexactly(length)
                refused += isinstance(frame, RstStreamFrame)
        await stub.ListServices(pb.ListServicesRequest())


async def test_calls_wait_only_while_they_come_thick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then all of them wait for a turn, in the end all have one, and those that were given up take none."""
    monkeypatch.setattr(limits, "THICK", 1e12)
    turns = Turns()
    assert all(turns.is_due() for _ in range(3 * limits.WINDOW))
    monkeypatch.setattr(limits, "THICK", 0)
    assert [turns.is_due() for _ in range(limits.WINDOW + 1)] == [True] * (limits.WINDOW - 1) + [False] * 2
    waiting = [asyncio.create_task(turns.wait("peer")) for _ in range(20)]
    await asyncio.sleep(0)
    waiting[3].cancel()
    outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 20)
    assert [type(outcome) for outcome in outcomes] == [type(None)] * 3 + [asyncio.CancelledError] + [type(None)] * 16
    assert (turns._waiting, turns._count) == ({}, 0)
    monkeypatch.setattr(limits, "THICK", 1e12)
    assert [turns.is_due() for _ in range(limits.WINDOW)][-1]


async def test_turns_go_round() -> None:
    """Who has one call waiting does not wait for all those of another."""
    turns = Turns()
    order: list[str] = []

    async def wait(peer: str) -> None:
        await turns.wait(peer)
        order.append(peer)

    await asyncio.wait_for(asyncio.gather(*(wait("much") for _ in range(3 * limits.AT_A_TURN)), wait("little")), 20)
    assert order.index("little") < limits.AT_A_TURN
    assert len(order) == 3 * limits.AT_A_TURN + 1


async def test_every_connection_has_a_call_in_each_turn() -> None:
    """However many they are: else those that ask rarely would wait longer and longer."""
    turns = Turns()
    order: list[str] = []

    async def wait(peer: str) -> None:
        await turns.wait(peer)
        order.append(peer)

    few = [f"few-{number}" for number in range(5 * limits.AT_A_TURN)]
    await asyncio.wait_for(asyncio.gather(*(wait("much") for _ in few), *map(wait, few)), 20)
    assert sorted(order[: len(few) + 1]) == sorted([*few, "much"])


async def test_who_is_alone_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """All calls of the only connection have their turn at once."""
    monkeypatch.setattr(limits, "ALONE_AFTER", 0.0)
    turns = Turns()
    waiting = [asyncio.create_task(turns.wait("one")) for _ in range(10 * limits.AT_A_TURN)]
    await asyncio.wait_for(waiting[0], 20)
    await asyncio.sleep(0)
    assert all(call.done() for call in waiting)


async def test_turns_come_while_calls_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that come without an end do not keep those that wait from their turn."""
    monkeypatch.setattr(limits, "LONGEST", 0.001)
    turns = Turns()
    more: list[asyncio.Task[None]] = []

    async def come() -> None:
        while True:
            more.append(asyncio.create_task(turns.wait("much")))
            await asyncio.sleep(0)

    coming = asyncio.create_task(come())
    await asyncio.wait_for(turns.wait("little"), 20)
    coming.cancel()
    await asyncio.gather(*more)


async def test_a_flood_of_calls_keeps_nobody_else_waiting_for_all_of_it(server: Running, stub: Stub) -> None:
    """Through the real door: while one connection has hundreds of calls under way, those of another pass them."""
    await stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id=ID)))
    beat = pb.HeartbeatRequest(instance_id=ID)
    answered = 0
    async with connected(server) as flood:

        async def call_on_and_on() -> None:
            nonlocal answered
            while True:
                await flood.Heartbeat(beat)
                answered += 1

        calls = [asyncio.create_task(call_on_and_on()) for _ in range(400)]
        passed = []
        for _ in range(30):
            await asyncio.sleep(0.01)
            before = answered
            await stub.Heartbeat(beat)
            passed.append(answered - before)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    assert sorted(passed)[len(passed) // 2] < 100


async def test_peers_are_spelled_alike(server: Running, stub: Stub, rest: ClientSession) -> None:
    """By both doors, as address:port."""
    seen: list[str] = []
    server.registry.store.feed.observe(lambda event: seen.append(event.actor.peer if event.actor else ""))
    await stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id=ID)))
    await rest.delete(f"/registry/v1/instances/{ID}")
    assert [re.fullmatch(r"127\.0\.0\.1:\d+", peer) is not None for peer in seen] == [True, True]
    assert limits.spelled("ipv6:%5B::1%5D:1234") == "[::1]:1234"
