"""The contract of `luna_grpc.store.Store`, as tests: a store's own test module derives a class from this one."""

from collections.abc import Awaitable, Callable

import pytest

from luna_grpc import drains
from luna_grpc.access import Role, User
from luna_grpc.capacity import Capacity, Room
from luna_grpc.errors import AlreadyExistsError, NotFoundError, ResourceExhaustedError, SupersededError
from luna_grpc.events import Change, Event, EventType
from luna_grpc.journal import Kind
from luna_grpc.model import ITSELF, Actor, Door, Info, ServiceStatus, Status, StatusReason
from luna_grpc.store import Holder, Registration, Store, Swept, Terms, Totals
from support import FakeClock

ALICE = Actor(User("alice", Role.ADMIN), Door.GRPC, "test")
TTL = 30.0
EVICT_AFTER = 100.0


class Recorder:
    """Keeps what a feed publishes."""

    def __init__(self, store: Store) -> None:
        self.events: list[Event] = []
        store.feed.observe(self.events.append)

    def kinds(self) -> list[tuple[EventType, str, str]]:
        """Return what happened since the last call: type, service, id."""
        kinds = [(event.type, event.instance.info.name, event.instance.info.instance_id) for event in self.events]
        self.events.clear()
        return kinds


def walked(store: Store) -> Totals:
    """Count what there is, one by one."""
    services = list(store.services())
    instances = [each.instance for service in services for each in service.registrations]
    up = sum(instance.up for instance in instances)
    return Totals(len(instances), up, len(services), sum(service.status is ServiceStatus.UP for service in services))


class OpenStream:
    """A heartbeat stream."""

    closed = False


class StoreContract:
    """Every store passes these tests; a derived class provides `store`, which evicts after `EVICT_AFTER`."""

    @pytest.fixture
    def recorder(self, store: Store) -> Recorder:
        """Watch what the store publishes."""
        return Recorder(store)

    @staticmethod
    def terms(now: float = 0.0, holder: Holder | None = None) -> Terms:
        """Return what a heartbeat at `now` grants."""
        return Terms(now + TTL, round(now * 1000), holder)

    async def register(
        self, store: Store, instance_id: str = "a:h:1", *, owner: str = "", replace: bool = False, now: float = 0.0, **said: str
    ) -> Registration:
        """Register an instance that is OK."""
        return await store.register(
            Info.of(instance_id, **said),  # type: ignore[arg-type]
            Status.OK,
            owner=owner,
            replace=replace,
            terms=self.terms(now),
            actor=ALICE,
        )

    async def change(
        self, store: Store, instance_id: str, *, reported: Status | None = None, now: float = 0.0, **said: str
    ) -> Registration:
        """Send a heartbeat that says something."""
        info = Info.of(instance_id, **said) if said else None  # type: ignore[arg-type]
        return await store.change(instance_id, generation=0, info=info, reported=reported, terms=self.terms(now), actor=ALICE)

    async def test_a_registered_instance_is_listed(self, store: Store, recorder: Recorder) -> None:
        """By id, in its service, in the list; and it is told with the one who did it."""
        registration = await self.register(store)
        assert store.get("a:h:1") is registration
        service = store.service("a")
        assert service is not None
        assert (list(service.registrations), service.up, service.status) == ([registration], 1, ServiceStatus.UP)
        assert [service.name for service in store.services()] == ["a"]
        assert store.count() == 1
        assert recorder.events[0].actor == ALICE
        assert recorder.kinds() == [(EventType.UPSERTED, "a", "a:h:1")]

    async def test_a_live_lease_keeps_its_id(self, store: Store, recorder: Recorder) -> None:
        """Registering again is refused and changes nothing."""
        first = await self.register(store)
        recorder.kinds()
        with pytest.raises(AlreadyExistsError):
            await self.register(store, description="other")
        assert store.get("a:h:1") is first
        assert recorder.kinds() == []

    async def test_replacing_takes_an_id_over(self, store: Store) -> None:
        """With a new generation; the one before is fenced off."""
        first = await self.register(store, owner="one")
        second = await self.register(store, owner="two", replace=True)
        assert second.instance.generation > first.instance.generation
        assert not first.live
        assert store.get("a:h:1") is second
        assert store.count() == 1

    async def test_the_same_owner_gets_its_registration_back(self, store: Store, recorder: Recorder) -> None:
        """With its generation, brought up to date; also when the lease had run out, also with `replace`."""
        first = await self.register(store, owner="one")
        recorder.kinds()
        assert await self.register(store, owner="one") is first
        assert recorder.kinds() == []
        await store.end([first], StatusReason.LEASE_EXPIRED, now=0, actor=ALICE)
        again = await self.register(store, owner="one", replace=True, description="new", now=40)
        assert again is first
        assert first.live
        assert (first.instance.info.description, first.instance.status, first.deadline) == ("new", Status.OK, 70)

    async def test_no_owner_is_nobody(self, store: Store) -> None:
        """Two registrations without an owner are not of the same one."""
        await self.register(store)
        with pytest.raises(AlreadyExistsError):
            await self.register(store)

    async def test_registering_over_an_ended_lease_succeeds(self, store: Store) -> None:
        """A crashed service that comes back is welcome."""
        first = await self.register(store, owner="one")
        await store.end([first], StatusReason.DISCONNECTED, now=0, actor=ALICE)
        second = await self.register(store, owner="two", now=5)
        assert second.instance.generation > first.instance.generation
        assert second.instance.status is Status.OK

    async def test_renewing_moves_the_deadline_and_tells_nobody(self, store: Store, recorder: Recorder) -> None:
        """A deadline never moves backwards: REST may have granted a longer one."""
        registration = await self.register(store)
        recorder.kinds()
        revision = store.feed.revision
        stream = OpenStream()
        store.renew([registration], Terms(35.0, 1000, stream))
        assert (registration.deadline, registration.last_heartbeat, registration.holder) == (35.0, 1000, stream)
        store.renew([registration], Terms(33.0, 2000))
        assert (registration.deadline, registration.last_heartbeat, registration.holder) == (35.0, 2000, None)
        assert store.feed.revision == revision
        assert recorder.kinds() == []

    async def test_a_change_is_told_and_counts_as_a_heartbeat(self, store: Store, recorder: Recorder) -> None:
        """Status and description can change; what is None stays."""
        registration = await self.register(store, description="first")
        generation = registration.instance.generation
        recorder.kinds()
        changed = await store.change(
            "a:h:1", generation=generation, info=None, reported=Status.DOWN, terms=self.terms(10), actor=ALICE
        )
        assert changed is registration
        assert (changed.instance.status, changed.instance.reason) == (Status.DOWN, StatusReason.REPORTED)
        assert (changed.instance.info.description, changed.deadline, changed.last_heartbeat) == ("first", 40, 10_000)
        assert recorder.kinds() == [(EventType.UPSERTED, "a", "a:h:1")]
        service = store.service("a")
        assert service is not None
        assert (service.up, service.status) == (0, ServiceStatus.DOWN)

    async def test_a_change_that_changes_nothing_is_not_told(self, store: Store, recorder: Recorder) -> None:
        """It renews."""
        registration = await self.register(store)
        recorder.kinds()
        await store.change("a:h:1", generation=0, info=Info.of("a:h:1"), reported=Status.OK, terms=self.terms(10), actor=ALICE)
        assert registration.deadline == 40
        assert recorder.kinds() == []

    async def test_a_changed_name_moves_the_instance(self, store: Store, recorder: Recorder) -> None:
        """REMOVED from the one service, UPSERTED in the other, which may be new; the old one may be gone."""
        await self.register(store)
        recorder.kinds()
        await store.change("a:h:1", generation=0, info=Info.of("a:h:1", name="b"), reported=None, terms=self.terms(), actor=ALICE)
        assert recorder.kinds() == [(EventType.REMOVED, "a", "a:h:1"), (EventType.UPSERTED, "b", "a:h:1")]
        assert store.service("a") is None
        assert [(service.name, service.up) for service in store.services()] == [("b", 1)]
        await self.register(store, replace=True, name="c")
        assert recorder.kinds() == [(EventType.REMOVED, "b", "a:h:1"), (EventType.UPSERTED, "c", "a:h:1")]

    async def test_the_past_changes_nothing(self, store: Store, recorder: Recorder) -> None:
        """Neither a change nor a deregistration that names another generation."""
        old = (await self.register(store)).instance.generation
        new = await self.register(store, replace=True)
        recorder.kinds()
        for generation in (old, new.instance.generation + 1):
            with pytest.raises(SupersededError):
                await store.change(
                    "a:h:1", generation=generation, info=None, reported=Status.DOWN, terms=self.terms(99), actor=ALICE
                )
            with pytest.raises(SupersededError):
                await store.deregister("a:h:1", generation=generation, actor=ALICE)
        assert (new.instance.status, new.deadline) == (Status.OK, 30)
        assert recorder.kinds() == []

    async def test_an_unknown_id_is_not_found(self, store: Store) -> None:
        """By every call that needs one."""
        assert store.get("a:h:1") is None
        assert store.service("a") is None
        with pytest.raises(NotFoundError):
            await store.change("a:h:1", generation=0, info=None, reported=None, terms=self.terms(), actor=ALICE)
        with pytest.raises(NotFoundError):
            await store.deregister("a:h:1", generation=0, actor=ALICE)

    async def test_a_deregistered_instance_is_gone(self, store: Store, recorder: Recorder) -> None:
        """With its service, when it was the last."""
        first = await self.register(store)
        recorder.kinds()
        await store.deregister("a:h:1", generation=first.instance.generation, actor=ALICE)
        assert not first.live
        assert (store.get("a:h:1"), store.service("a"), list(store.services()), store.count()) == (None, None, [], 0)
        assert recorder.kinds() == [(EventType.REMOVED, "a", "a:h:1")]
        again = await self.register(store)
        assert again.instance.generation > first.instance.generation

    async def test_ending_a_lease_is_told_once_and_a_change_brings_it_back(self, store: Store, recorder: Recorder) -> None:
        """With what was reported before."""
        registration = await self.register(store)
        recorder.kinds()
        await store.end([registration, registration], StatusReason.DISCONNECTED, now=0, actor=ALICE)
        assert recorder.kinds() == [(EventType.UPSERTED, "a", "a:h:1")]
        assert (registration.instance.status, registration.instance.reason) == (Status.DOWN, StatusReason.DISCONNECTED)
        assert not registration.live
        await store.change("a:h:1", generation=0, info=None, reported=None, terms=self.terms(50), actor=ALICE)
        assert (registration.live, registration.instance.status, registration.deadline) == (True, Status.OK, 80)
        assert recorder.kinds() == [(EventType.UPSERTED, "a", "a:h:1")]

    async def test_services_come_sorted_from_a_name_on(self, store: Store) -> None:
        """`after` is inclusive, `prefix` cuts both ends."""
        for name in ("pay", "orders", "pay.eu", "a", "z"):
            await self.register(store, f"{name}:h:1")
        assert [service.name for service in store.services()] == ["a", "orders", "pay", "pay.eu", "z"]
        assert [service.name for service in store.services(after="pay")] == ["pay", "pay.eu", "z"]
        assert [service.name for service in store.services(prefix="pay")] == ["pay", "pay.eu"]
        assert [service.name for service in store.services(after="pay.", prefix="pay")] == ["pay.eu"]
        assert list(store.services(after="zz")) == []
        assert [store.count_services(prefix) for prefix in ("", "pay", "pay.", "b", "z", "zz")] == [5, 2, 1, 0, 1, 0]

    async def test_the_first_registered_describes_the_service(self, store: Store) -> None:
        """As long as it stays, whatever happens to it."""
        first = await self.register(store, "a:h:1", description="first")
        await self.register(store, "a:h:2", description="second")
        await store.end([first], StatusReason.LEASE_EXPIRED, now=0, actor=ALICE)
        service = store.service("a")
        assert service is not None
        assert (service.description, service.up) == ("first", 1)
        await store.deregister("a:h:1", generation=0, actor=ALICE)
        service = store.service("a")
        assert service is not None
        assert service.description == "second"

    async def test_a_sweep_ends_what_has_run_out(self, store: Store, recorder: Recorder) -> None:
        """And only that, in slices, each once."""
        for number in range(1, 6):
            await self.register(store, f"a:h:{number}")
        fresh = store.get("a:h:3")
        assert fresh is not None
        store.renew([fresh], self.terms(5))
        recorder.kinds()
        assert (await store.sweep(29.9, 10)).expired == 0
        assert await store.sweep(30, 2) == Swept(2, 0, more=True)
        assert (await store.sweep(30, 10)).expired == 2
        assert await store.sweep(30, 10) == Swept(0, 0, more=False)
        assert len(recorder.kinds()) == 4
        assert fresh.live
        ended = store.get("a:h:1")
        assert ended is not None
        assert (ended.instance.status, ended.instance.reason) == (Status.DOWN, StatusReason.LEASE_EXPIRED)

    async def test_a_sweep_says_how_late_it_comes(self, store: Store) -> None:
        """For the lease that waited longest, counted from when it could have been declared."""
        for number, begun in ((1, 0.0), (2, 3.0), (3, 10.0)):
            await self.register(store, f"a:h:{number}", now=begun)
        assert (await store.sweep(35, 10)).late == 5
        assert (await store.sweep(36, 10)).late == 0
        store.hold(50)
        assert (await store.sweep(50.25, 10)).late == 0.25

    async def test_totals_are_what_a_walk_would_find(self, store: Store) -> None:
        """Whatever happens: registering, replacing, moving to another service, ending, coming back, leaving, eviction."""
        one, two = await self.register(store, "a:h:1"), await self.register(store, "a:h:2")
        steps: list[Callable[[], Awaitable[object]]] = [
            lambda: self.register(store, "b:h:1"),
            lambda: self.change(store, "a:h:1", reported=Status.DOWN),
            lambda: self.change(store, "a:h:1", reported=Status.DOWN),
            lambda: self.change(store, "a:h:2", name="b"),
            lambda: self.change(store, "a:h:1", name="c", reported=Status.OK),
            lambda: self.change(store, "a:h:1", name="b", reported=Status.DOWN),
            lambda: self.register(store, "a:h:1", replace=True),
            lambda: self.register(store, "a:h:1", replace=True, name="d"),
            lambda: store.end([one, two], StatusReason.DISCONNECTED, now=0, actor=ALICE),
            lambda: self.register(store, "a:h:2"),
            lambda: store.sweep(TTL, 10),
            lambda: self.change(store, "a:h:1", now=TTL),
            lambda: store.deregister("a:h:1", generation=0, actor=ALICE),
            lambda: store.sweep(TTL + EVICT_AFTER, 10),
        ]
        assert store.totals() == (2, 2, 1, 1)
        for number, step in enumerate(steps):
            await step()
            assert store.totals() == walked(store), number
        assert store.totals() == (0, 0, 0, 0)

    async def test_changes_of_status_are_counted_by_their_reason(self, store: Store) -> None:
        """Each once; what leaves the status as it was is none, and neither is a new registration."""
        registration = await self.register(store)
        await self.change(store, "a:h:1", description="other")
        assert set(store.status_changes().values()) == {0}
        await self.change(store, "a:h:1", reported=Status.DOWN)
        await self.change(store, "a:h:1", reported=Status.DOWN, name="b")
        await self.change(store, "a:h:1", reported=Status.OK, name="a")
        await store.end([registration], StatusReason.DISCONNECTED, now=0, actor=ALICE)
        await self.register(store)
        await store.sweep(TTL, 10)
        await self.change(store, "a:h:1", now=TTL)
        assert store.status_changes() == {
            (Status.OK, StatusReason.REPORTED): 3,
            (Status.DOWN, StatusReason.REPORTED): 1,
            (Status.DOWN, StatusReason.DISCONNECTED): 1,
            (Status.DOWN, StatusReason.LEASE_EXPIRED): 1,
            (Status.DOWN, StatusReason.DRAINED): 0,
        }

    async def test_an_event_says_what_is_new(self, store: Store, recorder: Recorder) -> None:
        """For the log."""
        await self.register(store)
        await self.change(store, "a:h:1", description="other")
        await self.change(store, "a:h:1", reported=Status.DOWN)
        await self.change(store, "a:h:1", reported=Status.DOWN, name="b")
        await self.register(store, replace=True, name="b")
        await store.sweep(TTL, 10)
        assert [event.change for event in recorder.events if event.type is EventType.UPSERTED] == [
            Change.REGISTERED, Change.OTHER, Change.STATUS, Change.REGISTERED, Change.REGISTERED, Change.STATUS,
        ]  # fmt: skip

    async def test_nothing_is_declared_while_held(self, store: Store) -> None:
        """Neither expiry nor eviction."""
        ended = await self.register(store, "a:h:1")
        await self.register(store, "a:h:2")
        await store.end([ended], StatusReason.DISCONNECTED, now=0, actor=ALICE)
        store.hold(1000)
        assert await store.sweep(999, 10) == Swept(0, 0, more=False)
        swept = await store.sweep(1000, 10)
        assert (swept.expired, swept.evicted) == (1, 1)

    async def test_the_ended_are_evicted_in_the_end(self, store: Store, recorder: Recorder) -> None:
        """With an event; those that came back are not."""
        gone, back = await self.register(store, "a:h:1"), await self.register(store, "a:h:2")
        await store.sweep(TTL, 10)
        assert not gone.live
        assert not back.live
        await store.change("a:h:2", generation=0, info=None, reported=None, terms=self.terms(40), actor=ALICE)
        recorder.kinds()
        assert (await store.sweep(TTL + EVICT_AFTER - 0.1, 10)).evicted == 0
        assert (await store.sweep(TTL + EVICT_AFTER, 10)).evicted == 1
        assert (store.get("a:h:1"), store.get("a:h:2")) == (None, back)
        assert (EventType.REMOVED, "a", "a:h:1") in recorder.kinds()

    @pytest.fixture
    def small(self, store: Store) -> Store:
        """Let the store take three instances, two of a service; a store that has its room elsewhere overrides this."""
        store._room = Room(Capacity(instances=3, per_service=2))  # type: ignore[attr-defined]
        return store

    async def test_a_full_store_takes_no_new_instance(self, small: Store, recorder: Recorder) -> None:
        """What is there may be registered again, replaced and renamed; one that leaves makes room."""
        for instance_id in ("a:h:1", "b:h:1", "c:h:1"):
            await self.register(small, instance_id, owner="one")
        recorder.kinds()
        with pytest.raises(ResourceExhaustedError, match=r"^3 instances .*LUNA_MAX_INSTANCES\b") as caught:
            await self.register(small, "d:h:1")
        assert caught.value.retry_after
        assert (small.count(), small.get("d:h:1"), recorder.kinds()) == (3, None, [])
        await self.register(small, "a:h:1", owner="one", description="again")
        await self.register(small, "a:h:1", owner="two", replace=True, name="other")
        ended = small.get("b:h:1")
        assert ended is not None
        await small.end([ended], StatusReason.DISCONNECTED, now=0, actor=ALICE)
        await self.register(small, "b:h:1")
        await small.deregister("c:h:1", generation=0, actor=ALICE)
        await self.register(small, "d:h:1")
        assert small.count() == 3

    async def test_a_full_service_takes_no_new_instance(self, small: Store) -> None:
        """Neither by a registration nor by a change of the name; what is in it may be replaced and changed."""
        moved = await self.register(small, "b:h:1")
        for instance_id in ("a:h:1", "a:h:2"):
            await self.register(small, instance_id, owner="one")
        with pytest.raises(ResourceExhaustedError, match=r"'a' has 2 instances.*LUNA_MAX_INSTANCES_PER_SERVICE") as caught:
            await self.change(small, "b:h:1", name="a")
        assert caught.value.retry_after
        with pytest.raises(ResourceExhaustedError, match="LUNA_MAX_INSTANCES_PER_SERVICE"):
            await self.register(small, "b:h:1", replace=True, name="a")
        assert (moved.live, moved.instance.info.name, small.count()) == (True, "b", 3)
        await self.register(small, "a:h:1", replace=True)
        await self.register(small, "a:h:2", owner="one", description="again")
        await self.change(small, "a:h:2", description="changed", name="a")
        await self.change(small, "a:h:1", name="c")
        await self.change(small, "b:h:1", name="a")
        assert [(each.name, len(each.registrations)) for each in small.services()] == [("a", 2), ("c", 1)]

    async def test_a_snapshot_holds_the_services_named(self, store: Store) -> None:
        """Or all of them."""
        for instance_id in ("a:h:1", "b:h:1", "b:h:2", "c:h:1"):
            await self.register(store, instance_id)
        assert [event.instance.info.instance_id for event in store.feed.present(frozenset())] == [
            "a:h:1", "b:h:1", "b:h:2", "c:h:1",
        ]  # fmt: skip
        assert [event.instance.info.instance_id for event in store.feed.present(frozenset({"b", "nosuch"}))] == [
            "b:h:1", "b:h:2",
        ]  # fmt: skip

    # Drains

    UNTIL = 1_800_000_600_000
    """Ten minutes after the beginning of the fake clock."""

    async def drained(self, store: Store, instance_id: str = "a:h:1") -> Registration:
        """Register an instance and drain it."""
        await self.register(store, instance_id)
        return await store.drain(instance_id, until=self.UNTIL, actor=ALICE)

    async def test_a_drained_instance_is_down_whatever_it_says(self, store: Store, recorder: Recorder) -> None:
        """A heartbeat does not end that, nor does a lease that ends; watchers are told, and who did it."""
        drained = await self.drained(store)
        assert (drained.instance.status, drained.instance.reason) == (Status.DOWN, StatusReason.DRAINED)
        assert store.totals() == walked(store) == Totals(1, 0, 1, 0)
        assert [(event.change, event.actor) for event in recorder.events] == [(Change.REGISTERED, ALICE), (Change.DRAINED, ALICE)]
        store.renew((drained,), self.terms(10))
        assert drained.deadline == 10 + TTL
        await self.change(store, "a:h:1", reported=Status.OK, now=20)
        await store.end([drained], StatusReason.LEASE_EXPIRED, now=60, actor=ALICE)
        assert drained.instance.reason is StatusReason.DRAINED
        await self.change(store, "a:h:1", reported=Status.OK, now=70)
        assert (drained.instance.status, drained.instance.drained_until) == (Status.DOWN, self.UNTIL)

    async def test_a_drain_outlives_registrations(self, store: Store) -> None:
        """By the same owner, by another one, and after it was deregistered: it is of the id."""
        await self.register(store, owner="one")
        await store.drain("a:h:1", until=self.UNTIL, actor=ALICE)
        for owner, replace in (("one", False), ("two", True)):
            again = await self.register(store, owner=owner, replace=replace)
            assert again.instance.reason is StatusReason.DRAINED
        await store.deregister("a:h:1", generation=0, actor=ALICE)
        assert dict(store.drains()) == {"a:h:1": self.UNTIL}
        assert (await self.register(store, name="other")).instance.drained_until == self.UNTIL
        assert store.totals() == walked(store) == Totals(1, 0, 1, 0)

    async def test_a_drain_ends_when_someone_says_so(self, store: Store, recorder: Recorder) -> None:
        """Then the instance is what it reports; to say it again changes nothing."""
        drained = await self.drained(store)
        recorder.kinds()
        for _ in range(2):
            assert await store.undrain("a:h:1", actor=ALICE) is drained
        assert (drained.instance.status, drained.instance.drained_until, dict(store.drains())) == (Status.OK, None, {})
        assert recorder.kinds() == [(EventType.UPSERTED, "a", "a:h:1")]
        assert store.totals() == walked(store)

    async def test_a_drain_ends_at_its_time(self, store: Store, clock: FakeClock, recorder: Recorder) -> None:
        """Of the wall clock; a sweep does it, and not before."""
        drained = await self.drained(store)
        later = await self.drained(store, "a:h:2")
        await store.drain("a:h:2", until=self.UNTIL + 1000, actor=ALICE)
        clock.epoch_ms = self.UNTIL - 1
        await store.sweep(0, 10)
        assert drained.instance.drained_until == self.UNTIL
        clock.epoch_ms = self.UNTIL
        await store.sweep(0, 10)
        assert (drained.instance.status, later.instance.status) == (Status.OK, Status.DOWN)
        assert (recorder.events[-1].change, recorder.events[-1].actor) == (Change.UNDRAINED, ITSELF)
        clock.epoch_ms = self.UNTIL + 1000
        await store.sweep(0, 10)
        assert (later.instance.status, dict(store.drains())) == (Status.OK, {})

    async def test_an_id_that_is_gone_can_be_undrained(self, store: Store) -> None:
        """One that is unknown can be neither drained nor undrained."""
        await self.drained(store)
        await store.deregister("a:h:1", generation=0, actor=ALICE)
        assert await store.undrain("a:h:1", actor=ALICE) is None
        for attempt in (store.drain("a:h:1", until=self.UNTIL, actor=ALICE), store.undrain("a:h:1", actor=ALICE)):
            with pytest.raises(NotFoundError, match="a:h:1"):
                await attempt

    async def test_only_so_many_are_drained(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        """One more is refused; one that is drained may get another end."""
        monkeypatch.setattr(drains, "MOST", 1)
        await self.drained(store)
        with pytest.raises(ResourceExhaustedError, match="undrain"):
            await self.drained(store, "a:h:2")
        assert (await store.drain("a:h:1", until=self.UNTIL + 1, actor=ALICE)).instance.drained_until == self.UNTIL + 1

    async def test_the_journal_says_what_happened(self, store: Store) -> None:
        """To whom, why, by whom, and how many of the service are OK since; new descriptions are not in it."""
        await self.register(store, "a:h:2")
        drained = await self.drained(store)
        await self.change(store, "a:h:1", description="new")
        await store.undrain("a:h:1", actor=ALICE)
        await self.change(store, "a:h:1", reported=Status.DOWN)
        await self.change(store, "a:h:1", reported=Status.OK)
        await store.end([drained], StatusReason.LEASE_EXPIRED, now=60, actor=ITSELF)
        await self.change(store, "a:h:1")
        await self.change(store, "a:h:1", name="b")
        await store.deregister("a:h:1", generation=0, actor=ALICE)
        assert [(entry.service, entry.kind, entry.reason, entry.up, entry.user) for entry in store.journal.after(1)] == [
            ("a", Kind.REGISTERED, StatusReason.REPORTED, 2, "alice"),
            ("a", Kind.DRAINED, StatusReason.DRAINED, 1, "alice"),
            ("a", Kind.UNDRAINED, StatusReason.REPORTED, 2, "alice"),
            ("a", Kind.DOWN, StatusReason.REPORTED, 1, "alice"),
            ("a", Kind.UP, StatusReason.REPORTED, 2, "alice"),
            ("a", Kind.DOWN, StatusReason.LEASE_EXPIRED, 1, ""),
            ("a", Kind.UP, StatusReason.REPORTED, 2, "alice"),
            ("a", Kind.MOVED, StatusReason.REPORTED, 1, "alice"),
            ("b", Kind.REGISTERED, StatusReason.REPORTED, 1, "alice"),
            ("b", Kind.DEREGISTERED, StatusReason.REPORTED, 0, "alice"),
        ]
