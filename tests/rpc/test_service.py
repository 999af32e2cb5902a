"""The gRPC contract, against a real server."""

import asyncio
from typing import Any

import grpc
import pytest

from luna_grpc.model import ITSELF, Info, Status
from luna_grpc.registry import Beat
from luna_grpc.rpc import heartbeats, listing, watches
from luna_grpc.serve import Running, running
from luna_grpc.streams import HeartbeatStream
from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import Stub, channel, field_violation, settings_for_tests

ID = "orders:localhost:8080"


def registration(instance_id: str = ID, *, replace: bool = False, owner: str = "", **said: Any) -> pb.RegisterRequest:
    """Return a request to register."""
    return pb.RegisterRequest(instance=pb.Instance(instance_id=instance_id, **said), replace=replace, owner=owner)


async def code(call: Any) -> grpc.StatusCode:
    """Return how a call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def violation(call: Any) -> str:
    """Return the field that an INVALID_ARGUMENT names, in its details."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return field_violation(caught.value)


async def test_register(stub: Stub, server: Running) -> None:
    """What is stored, with defaults filled in, and the terms of the lease."""
    answer = await stub.Register(
        registration(version="1", balancer_options=pb.BalancerOptions(weight=3), metadata={"zone": "eu"}, generation=5)
    )
    instance = server.registry.get(ID).instance
    assert answer.instance.generation == instance.generation > 5
    assert (answer.instance.name, answer.instance.url, answer.instance.status) == ("orders", "http://localhost:8080/", pb.STATUS_OK)
    assert (answer.instance.balancer_options.weight, answer.instance.metadata["zone"]) == (3, "eu")
    assert answer.instance.status_reason == pb.STATUS_REASON_REPORTED
    assert answer.instance.last_heartbeat.ToMilliseconds() == server.registry.get(ID).last_heartbeat
    assert answer.instance.registered_at == answer.instance.last_heartbeat
    assert not answer.instance.HasField("drained_until")
    assert answer.lease.ttl.ToTimedelta().total_seconds() == 30
    assert answer.lease.heartbeat_interval.ToTimedelta().total_seconds() == 10
    assert answer.lease.epoch == server.registry.store.epoch


async def test_drain_and_undrain(stub: Stub, server: Running) -> None:
    """For an hour, or for as long as is said; the end is told, and watchers of the list see it."""
    await stub.Register(registration())
    before = server.registry._clock.wall_ms()
    drained = (await stub.DrainInstance(pb.DrainInstanceRequest(instance_id=ID))).instance
    assert (drained.status, drained.status_reason) == (pb.STATUS_DOWN, pb.STATUS_REASON_DRAINED)
    assert 0 <= drained.drained_until.ToMilliseconds() - before - 3_600_000 < 60_000
    request = pb.DrainInstanceRequest(instance_id=ID)
    request.duration.FromMilliseconds(1500)
    shorter = (await stub.DrainInstance(request)).instance
    assert 0 <= shorter.drained_until.ToMilliseconds() - before - 1500 < 60_000
    assert (await stub.GetInstance(pb.GetInstanceRequest(instance_id=ID))).instance == shorter
    undrained = await stub.UndrainInstance(pb.UndrainInstanceRequest(instance_id=ID))
    assert (undrained.instance.status, undrained.instance.HasField("drained_until")) == (pb.STATUS_OK, False)
    await stub.DrainInstance(request)
    await stub.Deregister(pb.DeregisterRequest(instance_id=ID))
    assert not (await stub.UndrainInstance(pb.UndrainInstanceRequest(instance_id=ID))).HasField("instance")


async def test_what_cannot_be_drained(stub: Stub) -> None:
    """Each refusal names what is wrong."""
    await stub.Register(registration())
    for seconds in (0, -1, 31 * 86_400):
        request = pb.DrainInstanceRequest(instance_id=ID)
        request.duration.FromSeconds(seconds)
        assert await violation(stub.DrainInstance(request)) == "duration"
    assert await violation(stub.DrainInstance(pb.DrainInstanceRequest())) == "instance_id"
    assert await violation(stub.UndrainInstance(pb.UndrainInstanceRequest(instance_id="a"))) == "instance_id"
    assert await code(stub.DrainInstance(pb.DrainInstanceRequest(instance_id="a:h:1"))) is grpc.StatusCode.NOT_FOUND
    assert await code(stub.UndrainInstance(pb.UndrainInstanceRequest(instance_id="a:h:1"))) is grpc.StatusCode.NOT_FOUND


async def test_register_again(stub: Stub) -> None:
    """ALREADY_EXISTS over a live lease; `replace` takes over; the same owner gets its own back."""
    first = await stub.Register(registration(owner="one"))
    assert await code(stub.Register(registration())) is grpc.StatusCode.ALREADY_EXISTS
    assert await code(stub.Register(registration(owner="two"))) is grpc.StatusCode.ALREADY_EXISTS
    same = await stub.Register(registration(owner="one", description="new", status=pb.STATUS_DOWN))
    assert same.instance.generation == first.instance.generation
    assert (same.instance.description, same.instance.status) == ("new", pb.STATUS_DOWN)
    taken = await stub.Register(registration(owner="two", replace=True))
    assert taken.instance.generation > first.instance.generation


async def test_heartbeat(stub: Stub) -> None:
    """Renews; may change the status or everything; the status beside wins over the one inside."""
    generation = (await stub.Register(registration(version="1"))).instance.generation
    answer = await stub.Heartbeat(pb.HeartbeatRequest(instance_id=ID, generation=generation))
    assert answer.lease.ttl.seconds == 30
    await stub.Heartbeat(pb.HeartbeatRequest(instance_id=ID, status=pb.STATUS_DOWN))
    await stub.Heartbeat(pb.HeartbeatRequest(instance_id=ID, instance=pb.Instance(version="2")))
    instance = (await stub.GetInstance(pb.GetInstanceRequest(instance_id=ID))).instance
    assert (instance.status, instance.version) == (pb.STATUS_DOWN, "2")
    await stub.Heartbeat(pb.HeartbeatRequest(instance_id=ID, instance=pb.Instance(instance_id=ID, status=pb.STATUS_OK)))
    instance = (await stub.GetInstance(pb.GetInstanceRequest(instance_id=ID))).instance
    assert (instance.status, instance.version) == (pb.STATUS_OK, "")
    both = pb.HeartbeatRequest(instance_id=ID, status=pb.STATUS_DOWN, instance=pb.Instance(status=pb.STATUS_OK))
    await stub.Heartbeat(both)
    assert (await stub.GetInstance(pb.GetInstanceRequest(instance_id=ID))).instance.status == pb.STATUS_DOWN
    assert await code(stub.Heartbeat(pb.HeartbeatRequest(instance_id="a:b:1"))) is grpc.StatusCode.NOT_FOUND
    old = pb.HeartbeatRequest(instance_id=ID, generation=generation - 1)
    assert await code(stub.Heartbeat(old)) is grpc.StatusCode.FAILED_PRECONDITION


async def test_deregister(stub: Stub) -> None:
    """Gone at once; generations fence."""
    generation = (await stub.Register(registration())).instance.generation
    old = pb.DeregisterRequest(instance_id=ID, generation=generation - 1)
    assert await code(stub.Deregister(old)) is grpc.StatusCode.FAILED_PRECONDITION
    await stub.Deregister(pb.DeregisterRequest(instance_id=ID, generation=generation))
    assert await code(stub.GetInstance(pb.GetInstanceRequest(instance_id=ID))) is grpc.StatusCode.NOT_FOUND
    assert await code(stub.Deregister(pb.DeregisterRequest(instance_id=ID))) is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"instance_id": ""}, "instance.instance_id"),
        ({"instance_id": "nonsense"}, "instance.instance_id"),
        ({"url": "javascript:x"}, "instance.url"),
        ({"name": "json"}, "instance.name"),
        ({"version": "x" * 65}, "instance.version"),
        ({"description": "x" * 1025}, "instance.description"),
        ({"metadata": {"": "x"}}, "instance.metadata"),
        ({"status": 7}, "instance.status"),
    ],
)
async def test_a_bad_field_is_named(stub: Stub, said: dict[str, Any], field: str) -> None:
    """In the details, as a BadRequest; nothing is registered."""
    assert await violation(stub.Register(registration(**({"instance_id": ID} | said)))) == field
    assert (await stub.ListServices(pb.ListServicesRequest())).total_size == 0


async def test_bad_requests_are_named(stub: Stub) -> None:
    """The same for all rpcs."""
    assert await violation(stub.Register(pb.RegisterRequest())) == "instance"
    assert await violation(stub.Register(registration(owner="x" * 129))) == "owner"
    assert await violation(stub.Heartbeat(pb.HeartbeatRequest(instance_id="x"))) == "instance_id"
    assert await violation(stub.Heartbeat(pb.HeartbeatRequest(instance_id=ID, status=9))) == "status"  # type: ignore[arg-type]
    other = pb.HeartbeatRequest(instance_id=ID, instance=pb.Instance(instance_id="a:b:1"))
    assert await violation(stub.Heartbeat(other)) == "instance.instance_id"
    assert await violation(stub.Deregister(pb.DeregisterRequest())) == "instance_id"
    assert await violation(stub.GetInstance(pb.GetInstanceRequest(instance_id="x"))) == "instance_id"
    assert await violation(stub.ListServices(pb.ListServicesRequest(page_size=-1))) == "page_size"
    assert await violation(stub.ListServices(pb.ListServicesRequest(status=9))) == "status"  # type: ignore[arg-type]
    assert await violation(stub.ListServices(pb.ListServicesRequest(name_prefix="x" * 129))) == "name_prefix"
    for token in ("x", "ä", "AAAA", "!"):
        assert await violation(stub.ListServices(pb.ListServicesRequest(page_token=token))) == "page_token"
    watch = stub.WatchServices(pb.WatchServicesRequest(names=map(str, range(1001))))
    assert await violation(anext(aiter(watch))) == "names"
    stream = stub.StreamHeartbeats()
    await stream.write(pb.StreamHeartbeatsRequest(options=pb.StreamOptions(on_disconnect=9)))  # type: ignore[arg-type]
    await stream.read()  # the last answer
    assert await violation(stream.read()) == "options.on_disconnect"


async def fill(server: Running, services: int, instances: int = 1, **said: Any) -> None:
    """Register instances without going through a door."""
    for service in range(services):
        for number in range(1, instances + 1):
            status = Status.OK if service % 2 == 0 else Status.DOWN
            info = Info.of(f"s{service:03}:h:{number}", **said)
            await server.registry.register(info, status, actor=ITSELF)


async def pages(stub: Stub, **request: Any) -> list[pb.ListServicesResponse]:
    """Return all pages of a list."""
    found = [await stub.ListServices(pb.ListServicesRequest(**request))]
    while found[-1].next_page_token:
        found.append(await stub.ListServices(pb.ListServicesRequest(page_token=found[-1].next_page_token, **request)))
    return found


async def test_list_in_pages(stub: Stub, server: Running) -> None:
    """Sorted by name, nothing twice, nothing left out; filters hold on every page."""
    await fill(server, 250, 2)
    names = [f"s{number:03}" for number in range(250)]
    for size, count in ((0, 3), (100, 3), (7, 36), (5000, 1)):
        found = await pages(stub, page_size=size)
        assert [service.name for page in found for service in page.services] == names
        assert (len(found), {page.total_size for page in found}) == (count, {250})
        assert [bool(page.resume_token) for page in found] == [True] + [False] * (count - 1)
    [page] = await pages(stub, name_prefix="s01", status=pb.SERVICE_STATUS_DOWN)
    assert [service.name for service in page.services] == ["s011", "s013", "s015", "s017", "s019"]
    assert page.total_size == 5
    assert (page.services[0].instances_up, len(page.services[0].instances)) == (0, 2)


async def test_list_with_a_service_larger_than_a_page(stub: Stub, server: Running) -> None:
    """It goes on in the next page under the same name; no answer is over the limit."""
    await fill(server, 3, 1500, description="x" * 1000)
    found = await pages(stub)
    assert len(found) >= 3
    assert all(page.ByteSize() < listing.MAX_BYTES * 1.05 for page in found)
    seen = [(service.name, instance.instance_id) for page in found for service in page.services for instance in service.instances]
    assert len(seen) == len(set(seen)) == 4500
    assert {service.instances_up for page in found for service in page.services if service.name == "s000"} == {1500}


async def test_a_list_and_a_watch_from_its_token_miss_nothing(stub: Stub, server: Running) -> None:
    """The first page's token covers what happens while the others are fetched."""
    await fill(server, 3)
    first = await stub.ListServices(pb.ListServicesRequest(page_size=1))
    await stub.Register(registration("s000:late:1"))
    watch = stub.WatchServices(pb.WatchServicesRequest(resume_token=first.resume_token))
    answer = await anext(aiter(watch))
    assert [event.instance.instance_id for event in answer.events] == ["s000:late:1"]
    assert (answer.reset, answer.synced) == (False, True)


async def test_watch(stub: Stub) -> None:
    """A snapshot, then changes of the services asked for."""
    await stub.Register(registration())
    watch = aiter(stub.WatchServices(pb.WatchServicesRequest(names=["orders", "later"])))
    first, second = await anext(watch), await anext(watch)
    assert (first.reset, first.synced, first.resume_token) == (True, False, "")
    assert [(event.type, event.instance.instance_id) for event in first.events] == [(pb.EVENT_TYPE_UPSERTED, ID)]
    assert (second.reset, second.synced, bool(second.resume_token)) == (False, True, True)
    await stub.Register(registration("other:h:1"))
    await stub.Register(registration("later:h:1"))
    await stub.Deregister(pb.DeregisterRequest(instance_id=ID))
    events = [event for _ in range(2) for event in (await anext(watch)).events]
    assert [(event.type, event.instance.instance_id) for event in events] == [
        (pb.EVENT_TYPE_UPSERTED, "later:h:1"),
        (pb.EVENT_TYPE_REMOVED, ID),
    ]


async def test_a_large_snapshot_comes_in_messages_of_bounded_size(stub: Stub, server: Running) -> None:
    """`reset` with the first, `synced` and the token with the last."""
    await fill(server, 1, 300, description="x" * 1000, metadata={str(number): "y" * 1000 for number in range(10)})
    watch = aiter(stub.WatchServices(pb.WatchServicesRequest()))
    answers = [await anext(watch)]
    while not answers[-1].synced:
        answers.append(await anext(watch))
    assert len(answers) > 3
    assert all(answer.ByteSize() < watches.MAX_BYTES * 1.05 for answer in answers)
    assert [answer.reset for answer in answers] == [True] + [False] * (len(answers) - 1)
    assert sum(len(answer.events) for answer in answers) == 300


# Heartbeat streams


async def test_a_stream_answers_with_its_sequence_and_lease(stub: Stub, server: Running) -> None:
    """No answer before the first message; 0 and repeated sequences are fine; half-closing ends it with OK."""
    await stub.Register(registration())
    stream = stub.StreamHeartbeats()
    answers = aiter(stream)
    read = asyncio.ensure_future(anext(answers))
    for sequence in (7, 7, 0, 2**64 - 1):
        assert not read.done()
        await stream.write(pb.StreamHeartbeatsRequest(instance_ids=[ID], sequence=sequence))
        answer = await read
        assert (answer.sequence, list(answer.failures), answer.reconnect) == (sequence, [], False)
        assert answer.lease.epoch == server.registry.store.epoch
        read = asyncio.ensure_future(anext(answers))
    await stream.done_writing()
    assert (await read).sequence == 2**64 - 1
    assert [answer async for answer in answers] == []
    assert await stream.code() is grpc.StatusCode.OK


async def test_answers_are_cumulative(stub: Stub) -> None:
    """Far fewer than messages, and the last one covers all; each failure is reported."""
    ids = [f"a:h:{number}" for number in range(1, 201)]
    for instance_id in ids[:100]:
        await stub.Register(registration(instance_id))
    stream = stub.StreamHeartbeats()
    for number, instance_id in enumerate(ids, 1):
        await stream.write(pb.StreamHeartbeatsRequest(instance_ids=[instance_id], sequence=number))
    await stream.done_writing()
    answers = [answer async for answer in stream]
    assert len(answers) < 150
    assert answers[-1].sequence == 200
    assert sorted(answer.sequence for answer in answers) == [answer.sequence for answer in answers]
    failures = [(failure.instance_id, failure.code) for answer in answers for failure in answer.failures]
    assert sorted(failures) == sorted((instance_id, 5) for instance_id in ids[100:])


async def test_failures_are_reported_each_with_its_code(stub: Stub, server: Running) -> None:
    """Unknown id, superseded generation, bad info: none of them ends the stream, and the others are renewed."""
    generation = (await stub.Register(registration())).instance.generation
    before = server.registry.get(ID).deadline
    await stub.Register(registration("b:h:1"))
    stream = stub.StreamHeartbeats()
    await stream.write(
        pb.StreamHeartbeatsRequest(
            instance_ids=[ID, "unknown:h:1", "nonsense"],
            heartbeats=[
                pb.HeartbeatRequest(instance_id="b:h:1", generation=generation),
                pb.HeartbeatRequest(instance_id="c:h:1", instance=pb.Instance(url="x")),
                pb.HeartbeatRequest(instance_id="d:h:1", status=9),  # type: ignore[arg-type]
            ],
        )
    )
    answer = await stream.read()
    assert isinstance(answer, pb.StreamHeartbeatsResponse)
    assert {failure.instance_id: failure.code for failure in answer.failures} == {
        "unknown:h:1": 5,
        "nonsense": 3,
        "b:h:1": 9,
        "c:h:1": 3,
        "d:h:1": 3,
    }
    assert all(failure.message for failure in answer.failures)
    assert server.registry.get(ID).deadline > before


async def test_one_stream_many_instances_and_many_streams_one_instance(stub: Stub, server: Running) -> None:
    """1,000 instances in messages of 100, with one unknown among them; a second stream renews one of them too."""
    ids = [f"a:h:{number}" for number in range(1, 1000)]
    for instance_id in ids:
        await server.registry.register(Info.of(instance_id), Status.OK, actor=ITSELF)
    ids.append("a:h:1000")
    before = {instance_id: server.registry.get(instance_id).deadline for instance_id in ids[:-1]}
    one, two = stub.StreamHeartbeats(), stub.StreamHeartbeats()
    failures = []
    for start in range(0, 1000, 100):
        await one.write(pb.StreamHeartbeatsRequest(instance_ids=ids[start : start + 100], sequence=start))
        await two.write(pb.StreamHeartbeatsRequest(instance_ids=["a:h:7"]))
    await one.done_writing()
    async for answer in one:
        failures += [(failure.instance_id, failure.code) for failure in answer.failures]
    assert failures == [("a:h:1000", 5)]
    assert all(server.registry.get(instance_id).deadline > deadline for instance_id, deadline in before.items())
    await two.done_writing()
    assert {answer.sequence async for answer in two} == {0}


async def test_a_long_list_of_ids_is_handled_in_slices(stub: Stub, server: Running) -> None:
    """All of them."""
    await stub.Register(registration())
    stream = stub.StreamHeartbeats()
    await stream.write(pb.StreamHeartbeatsRequest(instance_ids=[ID] * 4999 + ["x:h:1"], sequence=3))
    answer = await stream.read()
    assert isinstance(answer, pb.StreamHeartbeatsResponse)
    assert (answer.sequence, [failure.instance_id for failure in answer.failures]) == (3, ["x:h:1"])
    assert server.registry.get(ID).holder is not None


async def test_a_flood_of_failures_comes_in_answers_of_bounded_size(stub: Stub) -> None:
    """The sequence is answered when all its failures have been told; a client that half-closes still gets them."""
    ids = [f"{'a' * 100}:h:{number}" for number in range(1, 25_001)]
    stream = stub.StreamHeartbeats()
    await stream.write(pb.StreamHeartbeatsRequest(instance_ids=ids, sequence=5))
    await stream.done_writing()
    answers = [answer async for answer in stream]
    assert all(answer.ByteSize() < heartbeats.MAX_BYTES * 1.05 for answer in answers)
    told = [answer for answer in answers if answer.failures]
    assert len(told) > 2
    assert {answer.sequence for answer in told[:-1]} == {0}
    assert answers[-1].sequence == 5
    assert sorted(failure.instance_id for answer in answers for failure in answer.failures) == sorted(ids)


async def test_failures_in_small_messages_are_bounded_too(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads no answers is not read any further."""
    monkeypatch.setattr(heartbeats, "MAX_FAILURES", 1000)

    class Deaf:
        """A client that sends on and on and takes no answer."""

        read_so_far = 0

        async def read(self) -> bytes:
            self.read_so_far += 1
            await asyncio.sleep(0)
            ids = [f"a{self.read_so_far}:h:{number}" for number in range(1, 101)]
            return pb.StreamHeartbeatsRequest(instance_ids=ids).SerializeToString()

        async def write(self, _: object) -> None:
            await asyncio.Event().wait()

        def peer(self) -> str:
            return "test"

    deaf: Any = Deaf()
    call = heartbeats.HeartbeatCall(
        HeartbeatStream(server.registry, ITSELF), server.grpc.service._terms, deaf, server.grpc.refusals
    )
    running = asyncio.create_task(call.run())
    for _ in range(500):
        await asyncio.sleep(0)
    assert 10 <= deaf.read_so_far <= 15  # what was read in the meantime is handled beside
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_bug_is_not_shown_to_clients(stub: Stub, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """INTERNAL, and the log has it; on the other door a 500."""

    def fail(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(server.registry, "get", fail)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetInstance(pb.GetInstanceRequest(instance_id=ID))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(caught.value)


async def test_an_ended_stream_leaves_nothing_behind(stub: Stub, server: Running) -> None:
    """Neither in the count of streams nor in what the registrations hold on to."""
    await stub.Register(registration())
    stream = stub.StreamHeartbeats()
    await stream.write(pb.StreamHeartbeatsRequest(instance_ids=[ID]))
    await stream.read()
    assert len(server.grpc.service.heartbeat_streams) == 1
    holder: Any = server.registry.get(ID).holder
    assert holder._bound
    stream.cancel()
    async with asyncio.timeout(5):
        while len(server.grpc.service.heartbeat_streams):  # noqa: ASYNC110 - the server has no reason to tell
            await asyncio.sleep(0.01)
    assert not holder._bound


async def test_limits_a_kind() -> None:
    """RESOURCE_EXHAUSTED for one stream too many; unary calls and the other kind go on."""
    async with (
        running(settings_for_tests(max_heartbeat_streams=1, max_watchers=1)) as server,
        channel(f"127.0.0.1:{server.grpc_port}") as open_channel,
    ):
        stub = registry_pb2_grpc.RegistryStub(open_channel)
        stream = stub.StreamHeartbeats()
        await stream.write(pb.StreamHeartbeatsRequest())
        await stream.read()
        assert await code(stub.StreamHeartbeats().read()) is grpc.StatusCode.RESOURCE_EXHAUSTED
        watch = aiter(stub.WatchServices(pb.WatchServicesRequest()))
        await anext(watch)
        second = aiter(stub.WatchServices(pb.WatchServicesRequest()))
        assert await code(anext(second)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(server.registry.store.feed.watchers()) == 1
        await stub.Register(registration())
        assert (await anext(watch)).synced


async def test_stopping_ends_streams_with_a_last_word() -> None:
    """`reconnect` on heartbeat streams, what is left to say on watches, then OK; no break is seen in it."""
    async with running(settings_for_tests()) as server:
        open_channel = channel(f"127.0.0.1:{server.grpc_port}")
        stub = registry_pb2_grpc.RegistryStub(open_channel)
        await stub.Register(registration())
        stream = stub.StreamHeartbeats()
        options = pb.StreamOptions(on_disconnect=pb.ON_DISCONNECT_DEREGISTER)
        await stream.write(pb.StreamHeartbeatsRequest(instance_ids=[ID], sequence=1, options=options))
        await stream.read()
        watch = aiter(stub.WatchServices(pb.WatchServicesRequest()))
        while not (await anext(watch)).synced:
            pass
        registry = server.registry
    answer = await stream.read()
    assert isinstance(answer, pb.StreamHeartbeatsResponse)
    assert answer.reconnect
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK
    assert [message async for message in watch] == []
    assert registry.get(ID).instance.up
    await open_channel.close()


async def test_an_old_stream_is_asked_to_go_elsewhere() -> None:
    """`reconnect`, then OK; nobody is taken down for it. A watch ends with its last token."""
    async with (
        running(settings_for_tests(max_connection_age=0.2)) as server,
        channel(f"127.0.0.1:{server.grpc_port}") as open_channel,
    ):
        stub = registry_pb2_grpc.RegistryStub(open_channel)
        await stub.Register(registration())
        stream = stub.StreamHeartbeats()
        options = pb.StreamOptions(on_disconnect=pb.ON_DISCONNECT_DEREGISTER)
        await stream.write(pb.StreamHeartbeatsRequest(instance_ids=[ID], options=options))
        watch = stub.WatchServices(pb.WatchServicesRequest())
        assert [message.resume_token async for message in watch][-1]
        assert [answer.reconnect async for answer in stream] == [False, True]
        assert (await stream.code(), await watch.code()) == (grpc.StatusCode.OK, grpc.StatusCode.OK)
        assert server.registry.get(ID).instance.up


async def test_the_two_doors_share_one_store(stub: Stub, server: Running, rest: Any) -> None:
    """Registered by gRPC, seen by REST, in the panel and in a watch opened before; and the other way round."""
    watch = aiter(stub.WatchServices(pb.WatchServicesRequest()))
    while not (await anext(watch)).synced:
        pass
    await stub.Register(registration(description="by gRPC"))
    assert (await anext(watch)).events[0].instance.description == "by gRPC"
    body = await (await rest.get(f"/registry/v1/instances/{ID}")).json()
    assert body["description"] == "by gRPC"
    for path in ("/registry/v1/services/", "/registry/v1/services/orders"):
        assert "orders" in await (await rest.get(path)).text()
    assert ID in await (await rest.get("/registry/v1/services/orders")).text()
    await rest.put(f"/registry/v1/instances/{ID}", json=body | {"version": "2", "status": "DOWN"})
    assert (await anext(watch)).events[0].instance.version == "2"
    [service] = (await stub.ListServices(pb.ListServicesRequest())).services
    assert (service.status, service.instances[0].version) == (pb.SERVICE_STATUS_DOWN, "2")
    await rest.delete(f"/registry/v1/instances/{ID}")
    assert (await anext(watch)).events[0].type == pb.EVENT_TYPE_REMOVED
    with pytest.raises(Exception, match="not registered"):
        await server.registry.heartbeat(Beat(ID), actor=ITSELF)
