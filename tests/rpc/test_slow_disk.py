"""Both doors while the disk of the state file is slow or fails: heartbeats wait for nothing, answers say no more than is true."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from aiohttp import ClientSession
from structlog.testing import capture_logs

from luna_grpc.durable import DurableStore
from luna_grpc.model import Info, Status, StatusReason
from luna_grpc.registry import Beat
from luna_grpc.rpc import heartbeats
from luna_grpc.rpc.heartbeats import HeartbeatCall
from luna_grpc.serve import Running, running
from luna_grpc.store import Registration
from luna_grpc.v1 import registry_pb2 as pb
from statefiles import ALICE, missing, slow_disk
from support import Stub, instance_json, settings_for_tests

INSTANCES = "/registry/v1/instances/"
DOWN = pb.STATUS_DOWN
OK = pb.STATUS_OK


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the state file is."""
    return tmp_path / "state.db"


@pytest.fixture
async def server(path: Path) -> AsyncIterator[Running]:
    """Run both doors with a state file."""
    async with running(settings_for_tests(state_file=str(path))) as server:
        yield server


@pytest.fixture
def store(server: Running) -> DurableStore:
    """Return the server's store."""
    assert isinstance(server.registry.store, DurableStore)
    return server.registry.store


async def registered(server: Running, number: int = 3) -> list[Registration]:
    """Register instances `a:h:1` and so on, whose last heartbeats were long ago."""
    found = [
        await server.registry.register(Info.of(f"a:h:{port}"), Status.OK, owner="me", actor=ALICE) for port in range(1, number + 1)
    ]
    for registration in found:
        registration.last_heartbeat = 0
        registration.deadline = 0.0
    return found


def heard(registration: Registration) -> bool:
    """Whether a heartbeat of it has come since it was registered."""
    return bool(registration.last_heartbeat and registration.deadline)


async def until(server: Running, *registrations: Registration) -> None:
    """Wait until heartbeats of these have been heard; the sweeper would end the test, not this loop."""
    async with asyncio.timeout(10):
        while not all(map(heard, registrations)):  # noqa: ASYNC110 - it is not told to anyone
            await asyncio.sleep(0.001)
    assert not any(task.done() for task in server.essential)


def entry(instance_id: str, status: "pb.Status.ValueType") -> pb.HeartbeatRequest:
    """Return a heartbeat that reports a status."""
    return pb.HeartbeatRequest(instance_id=instance_id, status=status)


def call_of(server: Running) -> HeartbeatCall:
    """Return the one stream that is open."""
    [call] = server.grpc.service.heartbeat_streams._open
    assert isinstance(call, HeartbeatCall)
    return call


class Stream:
    """A heartbeat stream and its next answer."""

    def __init__(self, stub: Stub) -> None:
        self.call = stub.StreamHeartbeats()
        self.answer: asyncio.Task[pb.StreamHeartbeatsResponse] | None = None

    async def send(self, sequence: int, *heartbeats: pb.HeartbeatRequest, ids: tuple[str, ...] = (), **options: object) -> None:
        await self.call.write(
            pb.StreamHeartbeatsRequest(sequence=sequence, heartbeats=heartbeats, instance_ids=ids, **options)  # type: ignore[arg-type]
        )
        self.answer = self.answer or asyncio.create_task(self._read())

    async def next(self) -> pb.StreamHeartbeatsResponse:
        assert self.answer is not None
        answer = await asyncio.wait_for(self.answer, 10)
        self.answer = asyncio.create_task(self._read())
        return answer

    async def _read(self) -> pb.StreamHeartbeatsResponse:
        answer = await self.call.read()
        assert isinstance(answer, pb.StreamHeartbeatsResponse)
        return answer

    async def is_silent(self) -> bool:
        """Whether nothing is answered, for longer than an answer ever waits for others."""
        await asyncio.sleep(4 * heartbeats.LONG_REST)
        assert self.answer is not None
        return not self.answer.done()


@pytest.fixture
async def stream(stub: Stub) -> AsyncIterator[Stream]:
    """Open a heartbeat stream."""
    stream = Stream(stub)
    yield stream
    stream.call.cancel()
    if stream.answer is not None:
        await asyncio.gather(stream.answer, return_exceptions=True)


# Streams, while the disk is slow


async def test_heartbeats_of_a_message_do_not_wait_for_its_changes(server: Running, store: DurableStore, stream: Stream) -> None:
    """Nor do those after it; the message counts as handled when its changes are done, and those after it not before."""
    one, two, three = await registered(server)
    async with slow_disk(store.file):
        await stream.send(1, entry("a:h:1", DOWN), entry("a:h:2", OK), ids=("a:h:3",))
        await until(server, one, two, three)
        for each in (two, three):
            each.last_heartbeat = 0
        await stream.send(2, ids=("a:h:2", "a:h:3"))
        await until(server, two, three)
        assert one.instance.up
        assert await stream.is_silent()
    answer = await stream.next()
    assert (answer.sequence, list(answer.failures)) == (2, [])
    assert one.instance.reported is Status.DOWN


async def test_every_change_of_a_large_message_is_a_heartbeat_at_once(server: Running, store: DurableStore, stream: Stream) -> None:
    """However many go before it."""
    registrations = await registered(server, 3 * heartbeats.SLICE)
    async with slow_disk(store.file):
        await stream.send(1, *(entry(each.instance.info.instance_id, DOWN) for each in registrations))
        await until(server, *registrations)
        assert await stream.is_silent()
    assert (await stream.next()).sequence == 1
    assert {each.instance.reported for each in registrations} == {Status.DOWN}
    assert store.file.transactions < 20 + len(registrations)


async def test_changes_are_made_in_the_order_in_which_they_came(server: Running, store: DurableStore, stream: Stream) -> None:
    """The last word counts: the later entry of a message, and the later message however large the one before it was."""
    [one] = await registered(server, 1)
    async with slow_disk(store.file):
        await stream.send(0, entry("a:h:1", DOWN), entry("a:h:1", OK))
        await until(server, one)
    await stream.next()
    assert one.instance.up
    registrations = await registered(server, 3 * heartbeats.SLICE)
    last = registrations[-1]
    last_id = last.instance.info.instance_id
    async with slow_disk(store.file):
        await stream.send(1, *(entry(each.instance.info.instance_id, DOWN) for each in registrations), entry(last_id, OK))
        await stream.send(2, entry(last_id, DOWN), entry("a:h:1", OK))
        await stream.send(3, entry(last_id, OK), ids=("a:h:1",))
        await until(server, last)
    while (await stream.next()).sequence < 3:
        pass
    assert last.instance.reported is Status.OK
    assert registrations[0].instance.reported is Status.OK
    assert registrations[1].instance.reported is Status.DOWN


async def test_failures_are_told_with_the_answer_that_covers_their_message(
    server: Running, store: DurableStore, stream: Stream
) -> None:
    """Not before, though they are known; one for each instance."""
    [one, two] = await registered(server, 2)
    async with slow_disk(store.file):
        await stream.send(1, entry("a:h:1", DOWN), ids=("no:h:1",))
        await stream.send(2, ids=("no:h:2",))
        await stream.send(3, ids=("no:h:2", "no:h:3", "a:h:2"))
        await until(server, one, two)
        assert await stream.is_silent()
    answer = await stream.next()
    assert answer.sequence == 3
    assert sorted(failure.instance_id for failure in answer.failures) == ["no:h:1", "no:h:2", "no:h:3"]
    assert {failure.code for failure in answer.failures} == {grpc.StatusCode.NOT_FOUND.value[0]}
    await stream.send(4, ids=("no:h:1",))
    answer = await stream.next()
    assert (answer.sequence, len(answer.failures)) == (4, 1)


async def test_messages_that_wait_take_no_memory(server: Running, store: DurableStore, stream: Stream) -> None:
    """A stream that goes on for hours while the disk does not answer."""
    one, two = await registered(server, 2)
    async with slow_disk(store.file):
        await stream.send(1, entry("a:h:1", DOWN))
        await until(server, one)
        for sequence in range(2, 202):
            await stream.send(sequence, ids=("a:h:2", f"no:h:{sequence % 3 + 1}"))
        await until(server, two)
        call = call_of(server)
        async with asyncio.timeout(10):
            while call._unfinished[-1].sequence < 201:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.001)
        assert len(call._unfinished) < 5
        assert sum(each.count for each in call._unfinished) == 201
        assert 3 <= call._untold < 6
    answer = await stream.next()
    assert (answer.sequence, len(answer.failures)) == (201, 3)
    assert call._untold == 0
    assert not call._changes


async def test_too_many_changes_are_refused_and_count_as_heartbeats(
    server: Running, store: DurableStore, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are under way are made."""
    monkeypatch.setattr(heartbeats, "MAX_CHANGES", 2)
    registrations = await registered(server, 3)
    async with slow_disk(store.file):
        await stream.send(1, *(entry(each.instance.info.instance_id, DOWN) for each in registrations))
        await until(server, *registrations)
    answer = await stream.next()
    [failure] = answer.failures
    assert (answer.sequence, failure.instance_id) == (1, "a:h:3")
    assert failure.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert [each.instance.reported for each in registrations] == [Status.DOWN, Status.DOWN, Status.OK]


async def test_a_half_closed_stream_is_answered_when_its_changes_are_made(
    server: Running, store: DurableStore, stream: Stream
) -> None:
    """With a last answer that covers them."""
    [one] = await registered(server, 1)
    async with slow_disk(store.file):
        await stream.send(1, entry("a:h:1", DOWN))
        await stream.call.done_writing()
        await until(server, one)
        assert await stream.is_silent()
    assert (await stream.next()).sequence == 1
    assert one.instance.reported is Status.DOWN
    assert await stream.call.code() is grpc.StatusCode.OK


async def test_a_server_that_stops_does_not_wait_for_the_disk(server: Running, store: DurableStore, stream: Stream) -> None:
    """The stream is told to go elsewhere, and not that its change was made; the change goes on."""
    [one] = await registered(server, 1)
    async with slow_disk(store.file):
        await stream.send(1, entry("a:h:1", DOWN))
        await until(server, one)
        call_of(server).end()
        answer = await stream.next()
        assert (answer.reconnect, answer.sequence) == (True, 0)
        assert await stream.call.code() is grpc.StatusCode.OK
    while store._turns:
        await asyncio.wait(store._turns.values())
    assert one.instance.reported is Status.DOWN


async def test_a_stream_that_breaks_while_its_change_waits(server: Running, store: DurableStore, stream: Stream) -> None:
    """The change is made, then the instance is deregistered, and the stream holds nothing afterwards."""
    [one] = await registered(server, 1)
    async with slow_disk(store.file):
        await stream.send(1, entry("a:h:1", OK), options=pb.StreamOptions(on_disconnect=pb.ON_DISCONNECT_DEREGISTER))
        assert (await stream.next()).sequence == 1
        await stream.send(2, entry("a:h:1", DOWN))
        async with asyncio.timeout(10):
            while not one.changing:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.001)
        stream.call.cancel()
        await asyncio.sleep(0.05)
        assert store.get("a:h:1") is one
    async with asyncio.timeout(10):
        while store.get("a:h:1") is not None or len(server.grpc.service.heartbeat_streams):  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.001)


async def test_what_a_broken_stream_has_said_before_brings_nobody_back(
    server: Running, store: DurableStore, stream: Stream
) -> None:
    """Its instance was away and something else under way; when it comes to what the stream wanted, that has ended."""
    [one] = await registered(server, 1)
    async with slow_disk(store.file):
        other = asyncio.create_task(server.registry.heartbeat(Beat("a:h:1", status=Status.DOWN), actor=ALICE))
        async with asyncio.timeout(10):
            while not one.changing:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.001)
        await store.end([one], StatusReason.LEASE_EXPIRED, now=0.0, actor=ALICE)
        await stream.send(1, entry("a:h:1", OK))
        async with asyncio.timeout(10):
            while not call_of(server)._changes:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.001)
        stream.call.cancel()
        async with asyncio.timeout(10):
            while len(server.grpc.service.heartbeat_streams):  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.001)
    await asyncio.wait_for(other, 10)
    async with asyncio.timeout(10):
        while one.changing:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.001)
    assert (one.live, one.instance.reason) == (False, StatusReason.LEASE_EXPIRED)


# Streams, while the disk fails


async def test_a_change_that_cannot_be_kept_is_a_failure(server: Running, path: Path, stream: Stream) -> None:
    """Of that instance only, with what is wrong; it counts as a heartbeat, and the stream goes on."""
    one, two, _ = await registered(server)
    with missing(path), capture_logs():
        await stream.send(1, entry("a:h:1", DOWN), ids=("a:h:2",))
        answer = await stream.next()
    [failure] = answer.failures
    assert (answer.sequence, failure.instance_id, failure.code) == (1, "a:h:1", grpc.StatusCode.UNAVAILABLE.value[0])
    assert "the change was not made, for the state file cannot be written" in failure.message
    assert heard(one)
    assert heard(two)
    assert one.instance.up
    await stream.send(2, entry("a:h:1", DOWN))
    answer = await stream.next()
    assert (answer.sequence, len(answer.failures)) == (2, 0)
    assert one.instance.reported is Status.DOWN


@pytest.mark.parametrize("option", [pb.ON_DISCONNECT_DEREGISTER, pb.ON_DISCONNECT_MARK_DOWN])
async def test_a_stream_that_breaks_while_the_disk_fails(
    server: Running, path: Path, stream: Stream, option: "pb.OnDisconnect.ValueType"
) -> None:
    """Its instances are DOWN at once, even if they cannot be removed; they are not shown as OK by any means."""
    [one] = await registered(server, 1)
    await stream.send(1, ids=("a:h:1",), options=pb.StreamOptions(on_disconnect=option))
    await stream.next()
    with missing(path), capture_logs():
        stream.call.cancel()
        async with asyncio.timeout(10):
            while one.live:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.001)
    assert server.registry.get("a:h:1").instance.reason is StatusReason.DISCONNECTED


# REST


def body(status: str = "OK", **changes: object) -> dict[str, object]:
    """Return what a client says of `a:h:1`, whole, as the old ones do at each heartbeat."""
    return instance_json("a:h:1", status=status, **changes)


async def test_rest_while_the_disk_fails(server: Running, path: Path, rest: ClientSession) -> None:
    """503 for changes, with when to try again; a PUT counts as a heartbeat all the same; plain heartbeats are answered as ever."""
    async with rest.post(INSTANCES + "a:h:1", json=body()) as answer:
        assert answer.status == 201
    registration = server.registry.get("a:h:1")
    with missing(path), capture_logs():
        for call in (
            rest.put(INSTANCES + "a:h:1", json=body("DOWN")),
            rest.post(INSTANCES + "b:h:1", json=instance_json("b:h:1")),
            rest.delete(INSTANCES + "a:h:1"),
        ):
            registration.last_heartbeat = 0
            registration.deadline = 0.0
            async with call as answer:
                assert answer.status == 503
                assert int(answer.headers["Retry-After"]) > 0
                problem = await answer.json()
                assert problem["code"] == "UNAVAILABLE"
                assert "the change was not made, for the state file cannot be written" in problem["error"]
            assert heard(registration) == (answer.method == "PUT")
        for _ in range(2):  # the second is answered from the first
            registration.last_heartbeat = 0
            async with rest.put(INSTANCES + "a:h:1", json=body()) as answer:
                assert (answer.status, (await answer.json())["status"]) == (200, "OK")
            assert heard(registration)
        async with rest.put(INSTANCES + "a:h:1") as answer:
            assert answer.status == 200
    assert server.registry.store.count() == 1
    async with rest.put(INSTANCES + "a:h:1", json=body("DOWN")) as answer:
        assert (answer.status, (await answer.json())["status"]) == (200, "DOWN")


async def test_an_ended_lease_comes_back_while_the_disk_fails(server: Running, path: Path, rest: ClientSession) -> None:
    """By a heartbeat that says nothing new, or one that cannot be kept: an instance that lives is not shown as DOWN."""
    async with rest.post(INSTANCES + "a:h:1", json=body()) as answer:
        assert answer.status == 201
    registration = server.registry.get("a:h:1")
    with missing(path), capture_logs():
        for said, status in ((body(), 200), (body(description="new"), 503)):
            await server.registry.disconnect([registration], ALICE)
            async with rest.put(INSTANCES + "a:h:1", json=said) as answer:
                assert answer.status == status
            assert registration.instance.up
    assert registration.instance.info.description == "The a service"


async def test_a_heartbeat_that_says_what_was_true_before_a_change_is_not_answered_by_heart(
    server: Running, store: DurableStore, rest: ClientSession
) -> None:
    """The change is under way and comes first; then this one takes it back."""
    async with rest.post(INSTANCES + "a:h:1", json=body()) as answer:
        assert answer.status == 201
    async with rest.put(INSTANCES + "a:h:1", json=body()) as answer:
        assert answer.status == 200
    registration = server.registry.get("a:h:1")
    assert registration.echo is not None
    async with slow_disk(store.file):
        change = asyncio.ensure_future(rest.put(INSTANCES + "a:h:1", json=body("DOWN")).__aenter__())
        async with asyncio.timeout(10):
            while not registration.changing:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.001)
        back = asyncio.ensure_future(rest.put(INSTANCES + "a:h:1", json=body()).__aenter__())
        await asyncio.sleep(0.05)
        assert not change.done()
        assert not back.done()
    assert (await (await change).json())["status"] == "DOWN"
    assert (await (await back).json())["status"] == "OK"
    assert registration.instance.reported is Status.OK


async def test_nobody_is_answered_before_the_file_is_read(server: Running, rest: ClientSession, stub: Stub) -> None:
    """Neither door: not with a list, not with a page, not with a watch or a stream, and nothing is taken in."""
    await registered(server)
    server.registry.loading = True
    for path in ("services/json", "services/", "services/a", "instances/a:h:1"):
        async with rest.get(f"/registry/v1/{path}") as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            assert "has not read its state file to the end" in await answer.text()
    for method in (rest.put, rest.post, rest.delete):
        async with method(INSTANCES + "a:h:1", json=body()) as answer:
            assert answer.status == 503
    for call in (
        stub.ListServices(pb.ListServicesRequest()),
        stub.GetInstance(pb.GetInstanceRequest(instance_id="a:h:1")),
        stub.Heartbeat(pb.HeartbeatRequest(instance_id="a:h:1")),
        stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id="a:h:9"))),
        anext(aiter(stub.WatchServices(pb.WatchServicesRequest()))),
        stub.StreamHeartbeats().read(),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "has not read its state file to the end" in str(caught.value.details())
