"""The use cases: leases in time, stalls, warming up, heartbeat streams."""

import pytest

from luna_grpc.access import Role, User
from luna_grpc.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    LunaError,
    NotFoundError,
    NotRegisteredError,
    ResourceExhaustedError,
    SupersededError,
)
from luna_grpc.leases import LeasePolicy
from luna_grpc.memory import MemoryStore
from luna_grpc.model import Actor, Door, Info, OnDisconnect, ServiceStatus, Status, StatusReason
from luna_grpc.registry import MAX_HOLD, Beat, Registry
from luna_grpc.store import Registration
from luna_grpc.streams import HeartbeatStream
from support import FakeClock

GRPC = Actor(User("admin", Role.ADMIN), Door.GRPC, "test")
REST = Actor(User("admin", Role.ADMIN), Door.REST, "test")
ID = "orders:localhost:8080"


@pytest.fixture
def registry(clock: FakeClock) -> Registry:
    """Return an empty registry that is warm."""
    return Registry(MemoryStore(clock, evict_after=100), clock, LeasePolicy(ttl=30, warmup=0))


async def register(registry: Registry, instance_id: str = ID, actor: Actor = GRPC) -> Registration:
    """Register an instance that is OK, whoever held the id."""
    return await registry.register(Info.of(instance_id), Status.OK, replace=True, actor=actor)


async def end(stream: HeartbeatStream, *, broken: bool) -> None:
    """End a stream as the edge does."""
    for registration in stream.close(broken=broken):
        await stream.take_down(registration)


async def sweep(registry: Registry) -> None:
    """Sweep until nothing is due."""
    while (await registry.sweep()).swept.more:
        pass


async def live(registry: Registry, clock: FakeClock, seconds: float) -> None:
    """Let time pass the way it does for a server that is well: with a sweep every now and then."""
    for _ in range(round(seconds * 4)):
        clock.advance(0.25)
        await sweep(registry)


async def test_an_instance_is_down_when_its_lease_has_run_out(registry: Registry, clock: FakeClock) -> None:
    """Not before, and not by being looked at; its last heartbeat stays the one it sent."""
    registration = await register(registry)
    sent = registration.last_heartbeat
    await live(registry, clock, 29.75)
    assert registration.instance.up
    clock.advance(0.25)
    assert registry.get(ID).instance.up
    await sweep(registry)
    assert (registration.instance.status, registration.instance.reason) == (Status.DOWN, StatusReason.LEASE_EXPIRED)
    assert registration.last_heartbeat == sent


async def test_a_heartbeat_brings_back_what_was_reported(registry: Registry, clock: FakeClock) -> None:
    """A reported DOWN survives heartbeats without status, and an expiry."""
    registration = await register(registry)
    await registry.heartbeat(Beat(ID, status=Status.DOWN), actor=GRPC)
    await registry.heartbeat(Beat(ID), actor=GRPC)
    assert (registration.instance.status, registration.instance.reason) == (Status.DOWN, StatusReason.REPORTED)
    await live(registry, clock, 31)
    assert registry.get(ID).instance.reason is StatusReason.LEASE_EXPIRED
    await registry.heartbeat(Beat(ID), actor=GRPC)
    assert registry.get(ID).instance.reason is StatusReason.REPORTED
    await registry.heartbeat(Beat(ID, status=Status.OK), actor=GRPC)
    assert registration.instance.up


async def test_a_lease_renewed_through_rest_lasts_a_little_longer(registry: Registry, clock: FakeClock) -> None:
    """5 % of the TTL: legacy clients that beat exactly every TTL must not flap. A gRPC heartbeat does not shorten it."""
    registration = await register(registry, actor=REST)
    await live(registry, clock, 31.25)
    assert registration.instance.up
    await registry.heartbeat(Beat(ID), actor=REST)
    deadline = registration.deadline
    await registry.heartbeat(Beat(ID), actor=GRPC)
    assert registration.deadline == deadline == clock.now() + 31.5
    await live(registry, clock, 31.5)
    assert not registration.instance.up


async def test_a_registry_that_was_deaf_blames_nobody(registry: Registry, clock: FakeClock) -> None:
    """After a pause every lease gets a full TTL in which the registry listens."""
    registration = await register(registry)
    await live(registry, clock, 10)
    clock.advance(90)
    await sweep(registry)
    assert registration.instance.up
    await live(registry, clock, 29.5)
    assert registration.instance.up
    await live(registry, clock, 0.5)
    assert not registration.instance.up


async def test_what_runs_before_the_first_sweep_after_a_pause_goes_right(registry: Registry, clock: FakeClock) -> None:
    """A heartbeat handled in between counts, and a live id is not given away."""
    registration = await register(registry)
    await sweep(registry)
    clock.advance(90)
    with pytest.raises(AlreadyExistsError):
        await registry.register(Info.of(ID), Status.OK, actor=GRPC)
    await registry.heartbeat(Beat(ID), actor=GRPC)
    await sweep(registry)
    await live(registry, clock, 29)
    assert registration.instance.up


async def test_every_stall_gives_a_full_ttl(registry: Registry, clock: FakeClock) -> None:
    """Also one that follows another: whoever could not get through the second time is not blamed either."""
    registration = await register(registry)
    await live(registry, clock, 1)
    clock.advance(5)
    for _ in range(3):
        await live(registry, clock, 9)
        await registry.heartbeat(Beat(ID), actor=GRPC)
    await live(registry, clock, 2.5)
    clock.advance(60)
    await live(registry, clock, 29)
    assert registration.instance.up
    await live(registry, clock, 2)
    assert not registration.instance.up


@pytest.mark.parametrize(("well", "stall"), [(8, 2), (0.25, 5), (0, 1)])
async def test_a_registry_that_stalls_again_and_again_still_finds_out(
    registry: Registry, clock: FakeClock, well: float, stall: float
) -> None:
    """The grace ends, even for one that does nothing but stall."""
    registration = await register(registry)
    listened = 0.0
    while registration.instance.up:
        await live(registry, clock, well)
        clock.advance(stall)
        await sweep(registry)
        listened += well + 1
        assert listened < 2 * MAX_HOLD * 30
    assert listened > 30


async def test_a_stall_does_not_end_the_warming_up(clock: FakeClock) -> None:
    """Those who are to come back could not."""
    registry = Registry(MemoryStore(clock, warming=True), clock, LeasePolicy(ttl=30, warmup=5))
    await live(registry, clock, 1)
    clock.advance(60)
    await live(registry, clock, 2.5)
    assert registry.warming
    await live(registry, clock, 1)
    assert not registry.warming


async def test_a_registry_that_was_deaf_blames_nobody_for_a_broken_stream(registry: Registry, clock: FakeClock) -> None:
    """Clients that got no answer have gone elsewhere, as they should; later breaks count again."""
    for wish in (OnDisconnect.MARK_DOWN, OnDisconnect.DEREGISTER):
        await register(registry)
        before, after, later = (HeartbeatStream(registry, GRPC) for _ in range(3))
        for stream in (before, after, later):
            stream.on_disconnect = wish
        assert before.renew([ID]) == []
        clock.advance(5)
        await end(before, broken=True)
        assert registry.get(ID).instance.up
        assert after.renew([ID]) == []
        await sweep(registry)
        await end(after, broken=True)
        assert registry.get(ID).instance.up
        await live(registry, clock, 28)
        assert later.renew([ID]) == []
        await live(registry, clock, 3)
        await end(later, broken=True)
        assert registry.store.get(ID) is None or not registry.get(ID).instance.up


async def test_an_instance_that_stays_away_is_removed(registry: Registry, clock: FakeClock) -> None:
    """Long after its lease has ended; until then it is listed as DOWN."""
    await register(registry)
    await live(registry, clock, 30 + 99)
    assert not registry.get(ID).instance.up
    await live(registry, clock, 2)
    with pytest.raises(NotFoundError):
        registry.get(ID)


async def test_an_instance_that_reports_down_is_not_removed(registry: Registry, clock: FakeClock) -> None:
    """It is alive: it says so."""
    await register(registry)
    for _ in range(20):
        await registry.heartbeat(Beat(ID, status=Status.DOWN), actor=GRPC)
        await live(registry, clock, 20)
    assert registry.get(ID).instance.reason is StatusReason.REPORTED


async def test_errors_name_what_is_wrong(registry: Registry) -> None:
    """Malformed ids are invalid, unknown ones are not found."""
    with pytest.raises(InvalidArgumentError):
        registry.get("nonsense")
    with pytest.raises(InvalidArgumentError):
        await registry.heartbeat(Beat("nonsense"), actor=GRPC)
    with pytest.raises(InvalidArgumentError):
        await registry.deregister("nonsense", actor=GRPC)
    with pytest.raises(NotFoundError):
        await registry.heartbeat(Beat(ID), actor=GRPC)
    with pytest.raises(NotFoundError):
        registry.service("orders")
    with pytest.raises(InvalidArgumentError) as caught:
        await registry.register(Info.of(ID), Status.OK, owner="x" * 129, actor=GRPC)
    assert caught.value.field == "owner"
    with pytest.raises(InvalidArgumentError):
        registry.services(prefix="x" * 129)
    with pytest.raises(InvalidArgumentError):
        registry.watch(map(str, range(1001)), "", print)


async def test_warming_up_ends_by_itself(clock: FakeClock) -> None:
    """With the sweep that comes after it."""
    registry = Registry(MemoryStore(clock, warming=True), clock, LeasePolicy(ttl=30, warmup=5))
    await live(registry, clock, 4.75)
    assert registry.warming
    await live(registry, clock, 0.25)
    assert not registry.warming


# Heartbeat streams


async def failures_of(stream: HeartbeatStream, ids: list[str]) -> list[tuple[str, LunaError]]:
    """Renew as the edge does; return what could not be renewed, and why."""
    failures: list[tuple[str, LunaError]] = []
    for instance_id in stream.renew(ids):
        try:
            await stream.beat(Beat(instance_id))
        except LunaError as error:
            failures.append((instance_id, error))
    return failures


async def say(stream: HeartbeatStream, generation: int, status: Status | None = None) -> None:
    """Send a heartbeat that names a generation, as the edge does."""
    stream.bind(ID, generation)
    await stream.beat(Beat(ID, generation, status))


async def test_a_stream_renews_many_and_reports_the_one_that_failed(registry: Registry, clock: FakeClock) -> None:
    """The failure of one concerns no other."""
    ids = [f"a:h:{number}" for number in range(1, 101)]
    registrations = [await register(registry, instance_id) for instance_id in ids[:-1]]
    stream = HeartbeatStream(registry, GRPC)
    for _ in range(2):  # the second time the ids are bound already
        clock.advance(0.5)
        failures = await failures_of(stream, ids)
        assert [(instance_id, type(error)) for instance_id, error in failures] == [("a:h:100", NotRegisteredError)]
        assert {registration.deadline for registration in registrations} == {clock.now() + 30}


async def test_a_stream_brings_back_what_had_expired(registry: Registry, clock: FakeClock) -> None:
    """A bare mention is a heartbeat like any other."""
    registration = await register(registry)
    stream = HeartbeatStream(registry, GRPC)
    assert await failures_of(stream, [ID]) == []
    await live(registry, clock, 31)
    assert not registration.instance.up
    assert await failures_of(stream, [ID]) == []
    assert registration.instance.up


async def test_a_replaced_worker_neither_renews_nor_takes_down_its_successor(registry: Registry, clock: FakeClock) -> None:
    """Whatever it still sends, and whenever its stream breaks."""
    old = await register(registry)
    stream = HeartbeatStream(registry, GRPC)
    stream.on_disconnect = OnDisconnect.DEREGISTER
    assert stream.renew([ID]) == []
    new = await register(registry)
    clock.advance(0.5)
    for _ in range(2):
        [(_, error)] = await failures_of(stream, [ID])
        assert isinstance(error, SupersededError)
        with pytest.raises(SupersededError):
            await stream.beat(Beat(ID))
        with pytest.raises(SupersededError):
            await say(stream, old.instance.generation, Status.DOWN)
    assert new.deadline < clock.now() + 30
    await end(stream, broken=True)
    assert registry.get(ID) is new
    assert new.instance.up


async def test_a_past_generation_named_first_stays_bound(registry: Registry) -> None:
    """A new stream of the old worker does not fall back to its successor; naming the current one binds anew."""
    old = await register(registry)
    new = await register(registry)
    stream = HeartbeatStream(registry, GRPC)
    with pytest.raises(SupersededError):
        await say(stream, old.instance.generation)
    [(_, error)] = await failures_of(stream, [ID])
    assert isinstance(error, SupersededError)
    await say(stream, new.instance.generation)
    assert await failures_of(stream, [ID]) == []


async def test_a_generation_that_was_named_stays_bound_whatever_became_of_it(registry: Registry) -> None:
    """The id was gone, or what was sent with it was wrong: its successor is not renewed by a bare mention."""
    old = await register(registry)
    await registry.deregister(ID, actor=GRPC)
    gone, wrong = HeartbeatStream(registry, GRPC), HeartbeatStream(registry, GRPC)
    with pytest.raises(NotFoundError):
        await say(gone, old.instance.generation)
    await register(registry)
    wrong.bind(ID, old.instance.generation)  # what the edge does before it reads the rest
    for stream in (gone, wrong):
        stream.on_disconnect = OnDisconnect.DEREGISTER
        [(_, error)] = await failures_of(stream, [ID])
        assert isinstance(error, SupersededError)
        await end(stream, broken=True)
    assert registry.get(ID).instance.up


async def test_a_heartbeat_is_for_the_generation_that_the_id_stood_for_when_it_was_said(registry: Registry) -> None:
    """Not for one that is named before the heartbeat is handled; and handling it does not take that back."""
    old = await register(registry)
    stream = HeartbeatStream(registry, GRPC)
    assert stream.renew([ID]) == []
    new = await register(registry)
    before = stream.bound(Beat(ID, status=Status.DOWN))
    stream.bind(ID, new.instance.generation)
    with pytest.raises(SupersededError):
        await stream.beat(before)
    assert (before.generation, new.instance.reported) == (old.instance.generation, Status.OK)
    assert await failures_of(stream, [ID]) == []


async def test_an_id_is_bound_at_its_first_mention_though_its_lease_has_ended(registry: Registry) -> None:
    """Whoever registers it before the heartbeat is handled is someone else."""
    old = await register(registry)
    await registry.disconnect([old], GRPC)
    stream = HeartbeatStream(registry, GRPC)
    assert stream.renew([ID]) == [ID]
    await register(registry)
    with pytest.raises(SupersededError):
        await stream.beat(stream.bound(Beat(ID)))


async def test_a_deregistered_id_stays_bound_to_its_generation(registry: Registry) -> None:
    """Whoever registers it again is someone else."""
    await register(registry)
    stream = HeartbeatStream(registry, GRPC)
    assert stream.renew([ID]) == []
    await registry.deregister(ID, actor=GRPC)
    [(_, error)] = await failures_of(stream, [ID])
    assert isinstance(error, NotFoundError)
    await register(registry)
    [(_, error)] = await failures_of(stream, [ID])
    assert isinstance(error, SupersededError)


@pytest.mark.parametrize(
    ("wish", "broken", "outcome"),
    [
        (OnDisconnect.KEEP, True, StatusReason.REPORTED),
        (OnDisconnect.MARK_DOWN, True, StatusReason.DISCONNECTED),
        (OnDisconnect.MARK_DOWN, False, StatusReason.REPORTED),
        (OnDisconnect.DEREGISTER, True, None),
        (OnDisconnect.DEREGISTER, False, StatusReason.REPORTED),
    ],
)
async def test_the_end_of_a_stream(
    registry: Registry,
    wish: OnDisconnect,
    broken: bool,
    outcome: StatusReason | None,
) -> None:
    """A break does what was asked for; a clean end does nothing."""
    await register(registry)
    stream = HeartbeatStream(registry, GRPC)
    stream.on_disconnect = wish
    assert stream.renew([ID]) == []
    await end(stream, broken=broken)
    if outcome is None:
        with pytest.raises(NotFoundError):
            registry.get(ID)
    else:
        assert registry.get(ID).instance.reason is outcome


async def test_a_break_spares_what_someone_else_renewed_since(registry: Registry) -> None:
    """Another stream, or a single heartbeat."""
    await register(registry, "a:h:1")
    await register(registry, "a:h:2")
    broken, other = HeartbeatStream(registry, GRPC), HeartbeatStream(registry, GRPC)
    broken.on_disconnect = OnDisconnect.MARK_DOWN
    broken.renew(["a:h:1", "a:h:2"])
    other.renew(["a:h:1"])
    await registry.heartbeat(Beat("a:h:2"), actor=REST)
    await end(broken, broken=True)
    assert registry.get("a:h:1").instance.up
    assert registry.get("a:h:2").instance.up


async def test_a_disconnected_instance_comes_back_with_a_heartbeat_or_anew(registry: Registry) -> None:
    """Its lease has ended, so registering needs no `replace`."""
    await register(registry)
    for _ in range(2):
        stream = HeartbeatStream(registry, GRPC)
        stream.on_disconnect = OnDisconnect.MARK_DOWN
        assert stream.renew([ID]) == []
        await end(stream, broken=True)
        assert not registry.get(ID).instance.up
        await registry.heartbeat(Beat(ID), actor=GRPC)
        assert registry.get(ID).instance.up
        await registry.disconnect([registry.get(ID)], GRPC)
        await registry.register(Info.of(ID), Status.OK, actor=GRPC)
        assert registry.get(ID).instance.up


async def test_a_stream_remembers_no_more_ids_than_it_may(registry: Registry) -> None:
    """Each further one fails by itself, in whatever way it is named; those that are known go on, and another stream begins anew."""
    for number in range(1, 5):
        await register(registry, f"a:h:{number}")
    last = registry.get("a:h:4").instance.generation
    stream = HeartbeatStream(registry, GRPC, most=3)
    assert await failures_of(stream, ["a:h:1", "a:h:2"]) == []
    stream.bind("a:h:3", 5)  # a generation that is not there: remembered too
    for beat in (Beat("a:h:4"), Beat("a:h:4", status=Status.DOWN), Beat("a:h:4", generation=last)):
        assert not stream.renewed(beat)
        with pytest.raises(ResourceExhaustedError, match=r"3 instances.*LUNA_MAX_INSTANCES_PER_STREAM"):
            await stream.beat(beat)
    [(instance_id, error)] = await failures_of(stream, ["a:h:1", "a:h:4", "a:h:2"])
    assert (instance_id, type(error)) == ("a:h:4", ResourceExhaustedError)
    assert len(stream._bound) + len(stream._named) == 3
    stream.bind("a:h:3", registry.get("a:h:3").instance.generation)
    assert await failures_of(stream, ["a:h:3"]) == []
    assert await failures_of(HeartbeatStream(registry, GRPC, most=3), ["a:h:4"]) == []


async def test_services_of_a_status_are_counted_without_walking_them(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store knows how many are UP; only a prefix makes it look at those of that prefix, and both agree."""
    for name, status in (("ap", Status.OK), ("aq", Status.DOWN), ("b", Status.OK), ("c", Status.DOWN), ("d", Status.DOWN)):
        await registry.register(Info.of(f"{name}:h:1"), status, actor=GRPC)
    prefixed = [registry.count_services(prefix="a", status=status) for status in (ServiceStatus.UP, ServiceStatus.DOWN)]
    walked = [len(list(registry.services(status=status))) for status in (ServiceStatus.UP, ServiceStatus.DOWN)]

    def walk(_: str, __: str) -> None:
        raise AssertionError

    monkeypatch.setattr(registry.store, "services", walk)
    counted = [registry.count_services(status=status) for status in (ServiceStatus.UP, ServiceStatus.DOWN)]
    assert (counted, walked, prefixed) == ([2, 3], [2, 3], [1, 1])
