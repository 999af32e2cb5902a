"""The store whose changes are on disk first: what a restart brings back, and what happens while the disk is slow or fails."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from luna_grpc import durable as module
from luna_grpc import statefile, stateformat
from luna_grpc.capacity import Capacity, Room
from luna_grpc.durable import DurableStore
from luna_grpc.errors import AlreadyExistsError, LunaError, NotFoundError, ResourceExhaustedError, SupersededError, UnavailableError
from luna_grpc.events import EventType
from luna_grpc.journal import Kind
from luna_grpc.memory import MemoryStore
from luna_grpc.model import Info, Status, StatusReason
from luna_grpc.statefile import StateFile
from luna_grpc.stateformat import Kept, keep
from luna_grpc.store import Registration
from statefiles import (
    ALICE,
    EVICT_AFTER,
    LOG,
    TTL,
    but_for_heartbeats,
    change,
    copied,
    deregister,
    durable,
    known,
    missing,
    no_room,
    other,
    register,
    restored,
    settle,
    slow_disk,
    terms,
)
from store_contract import Recorder, StoreContract
from support import FakeClock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the file is to be."""
    return tmp_path / "state.db"


@pytest.fixture
async def store(path: Path, clock: FakeClock) -> AsyncIterator[DurableStore]:
    """Return a store with a new file."""
    async with durable(path, clock) as store:
        yield store


@pytest.fixture
def recorder(store: DurableStore) -> Recorder:
    """Watch what the store publishes."""
    return Recorder(store)


class TestDurableStore(StoreContract):
    """Passes the contract of every store."""


# What a restart brings back


async def fill(store: DurableStore, clock: FakeClock) -> None:
    """Make some of everything: moved, replaced, owned, ended and changed instances, and some that are gone."""
    for number in range(1, 6):
        await register(store, clock, f"a:h:{number}", description=f"number {number}", owner="me" if number == 2 else "")
    await register(
        store, clock, "b:[::1]:1", name="ünï 😀", version="1.0", url="https://x/y?z", weight=7, metadata={"z": "1", "a": "ö"}
    )
    await register(store, clock, "c:h:1", reported=Status.DOWN)
    clock.advance(0.5)
    await change(store, clock, "a:h:1", description="changed", metadata={"k": "v"})
    await register(store, clock, "a:h:3", replace=True, owner="other", description="replaced")
    await change(store, clock, "a:h:2", name="moved")
    await change(store, clock, "a:h:2", name="a", description="moved back, so last")
    await deregister(store, "a:h:4")
    await change(store, clock, "a:h:5", reported=Status.DOWN)
    await store.end([found(store, "a:h:5")], StatusReason.DISCONNECTED, now=clock.now(), actor=ALICE)


def found(store: MemoryStore, instance_id: str) -> Registration:
    """Return a registration that is there."""
    registration = store.get(instance_id)
    assert registration is not None
    return registration


async def written(store: DurableStore) -> None:
    """Wait until the disk knows all that memory does."""
    while store._flusher is not None and not store._flusher.done():
        await store._flusher
    assert not store._owing


async def test_a_restart_brings_everything_back(path: Path, clock: FakeClock) -> None:
    """Instances with all they said, reported and ended, generations, owners, and the order in each service; the same epoch."""
    async with durable(path, clock) as store:
        await fill(store, clock)
        await written(store)
        before, epoch = known(store), store.epoch
        assert await restored(path, clock) == before
    async with durable(path, clock) as store:
        assert known(store) == before
        assert store.epoch == epoch
        assert store.feed.revision == 0
        assert store.count() == 6
    assert [each.instance.info.instance_id for each in before["a"]] == ["a:h:1", "a:h:3", "a:h:5", "a:h:2"]
    assert before["a"][0].instance.info.description == "changed"
    assert {each.owner for each in before["a"]} == {"", "me", "other"}


async def test_services_are_up_as_before(path: Path, clock: FakeClock) -> None:
    """How many instances are OK is counted anew."""
    async with durable(path, clock) as store:
        await fill(store, clock)
        before = [(service.name, service.up, service.description) for service in store.services()]
    async with durable(path, clock) as store:
        assert [(service.name, service.up, service.description) for service in store.services()] == before


async def test_a_drained_instance_stays_drained(path: Path, clock: FakeClock) -> None:
    """Also one that left meanwhile; after their time they are not."""
    until = clock.wall_ms() + 60_000
    async with durable(path, clock) as store:
        for instance_id in ("a:h:1", "a:h:2"):
            await register(store, clock, instance_id)
            await store.drain(instance_id, until=until, actor=ALICE)
        await deregister(store, "a:h:2")
        before = known(store)
        assert await restored(path, clock) == before
    async with durable(path, clock) as store:
        assert known(store) == before
        assert dict(store.drains()) == {"a:h:1": until, "a:h:2": until}
        assert (await register(store, clock, "a:h:2")).instance.reason is StatusReason.DRAINED
        await store.undrain("a:h:2", actor=ALICE)
        assert known(store) == await restored(path, clock)
    clock.epoch_ms = until
    async with durable(path, clock) as store:
        assert (found(store, "a:h:1").instance.status, dict(store.drains())) == (Status.OK, {})


async def test_a_drain_that_cannot_be_kept_is_refused(store: DurableStore, path: Path, clock: FakeClock) -> None:
    """And so is the end of one; nothing has changed then."""
    await register(store, clock, "a:h:1")
    await register(store, clock, "a:h:2")
    await store.drain("a:h:2", until=clock.wall_ms() + 60_000, actor=ALICE)
    before = known(store)
    with missing(path):
        with pytest.raises(UnavailableError):
            await store.drain("a:h:1", until=clock.wall_ms() + 60_000, actor=ALICE)
        with pytest.raises(UnavailableError):
            await store.undrain("a:h:2", actor=ALICE)
    assert (known(store), list(store.drains())) == (before, ["a:h:2"])


async def test_a_drain_that_ends_while_a_change_waits_has_ended(store: DurableStore, clock: FakeClock) -> None:
    """What was decided before does not bring it back."""
    until = clock.wall_ms() + 1000
    for instance_id in ("a:h:1", "a:h:2"):
        await register(store, clock, instance_id)
        await store.drain(instance_id, until=until, actor=ALICE)
    async with slow_disk(store.file):
        waiting = [
            asyncio.create_task(change(store, clock, "a:h:1", description="new")),
            asyncio.create_task(register(store, clock, "a:h:2", replace=True)),
        ]
        await settle()
        clock.epoch_ms = until
        await store.sweep(clock.now(), 10)
    await asyncio.gather(*waiting)
    assert [found(store, each).instance.drained_until for each in ("a:h:1", "a:h:2")] == [None, None]
    assert found(store, "a:h:1").instance.info.description == "new"


async def test_the_journal_is_kept(path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Soon after each change, and no more of it than there is room for."""
    monkeypatch.setattr(stateformat, "CAPACITY", 5)
    async with durable(path, clock) as store:
        await fill(store, clock)
        await store.drain("a:h:1", until=clock.wall_ms() + 60_000, actor=ALICE)
        await written(store)
        entries = list(store.journal.after(store.journal.number - 5))
        assert len(entries) == 5
        async with durable(copied(path), clock) as other:
            assert list(other.journal.after(0)) == entries
    async with durable(path, clock) as store:
        assert list(store.journal.after(0)) == entries
        assert store.journal.known_since == entries[0].at
        await change(store, clock, "a:h:1", name="other")
        assert store.journal.number == entries[-1].number + 2


async def test_what_is_being_written_when_it_stops_is_not_written_twice(path: Path, clock: FakeClock) -> None:
    """And what came after it is written as well."""
    async with durable(path, clock) as store:
        one, two = await register(store, clock, "a:h:1"), await register(store, clock, "a:h:2")
        await written(store)
        await store.end([one], StatusReason.LEASE_EXPIRED, now=clock.now(), actor=ALICE)
        async with slow_disk(store.file):
            await asyncio.sleep(2 * module.SOON)  # so that the first end is on its way
            await store.end([two], StatusReason.LEASE_EXPIRED, now=clock.now(), actor=ALICE)
            closing = asyncio.create_task(store.close())
            await settle()
        await closing
        number = store.journal.number
    async with durable(path, clock) as store:
        assert [found(store, each).instance.ended for each in ("a:h:1", "a:h:2")] == [StatusReason.LEASE_EXPIRED] * 2
        assert store.journal.number == number


async def test_a_file_of_the_first_format_is_read(path: Path, clock: FakeClock) -> None:
    """What it does not have is made."""
    async with durable(path, clock) as store:
        await register(store, clock)
        before = known(store)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("DROP TABLE drains; DROP TABLE journal; PRAGMA user_version = 1;")
    async with durable(path, clock) as store:
        assert known(store) == before
        await store.drain("a:h:1", until=clock.wall_ms() + 60_000, actor=ALICE)
    async with durable(path, clock) as store:
        assert found(store, "a:h:1").instance.reason is StatusReason.DRAINED
        assert [entry.kind for entry in store.journal.latest()] == [Kind.DRAINED]


async def test_every_lease_gets_a_full_ttl(path: Path, clock: FakeClock) -> None:
    """From the end of loading, however long the registry was away; then those who stay silent are DOWN."""
    async with durable(path, clock) as store:
        await register(store, clock, "a:h:1")
        await register(store, clock, "a:h:2")
    clock.advance(10 * TTL)
    async with durable(path, clock) as store:
        loaded_at = clock.now()
        clock.advance(0.5)
        store.renew([found(store, "a:h:2")], terms(clock))
        assert (await store.sweep(loaded_at + TTL - 0.01, 10)).expired == 0
        assert (await store.sweep(loaded_at + TTL, 10)).expired == 1
        assert found(store, "a:h:1").instance.ended is StatusReason.LEASE_EXPIRED


async def test_the_ended_are_evicted_when_their_time_has_come(path: Path, clock: FakeClock) -> None:
    """Counted from the end of their lease, in the order in which they ended, with the time while the registry was away."""
    async with durable(path, clock) as store:
        for instance_id in ("a:h:1", "a:h:2"):
            await register(store, clock, instance_id)
        await store.end([found(store, "a:h:2")], StatusReason.LEASE_EXPIRED, now=clock.now(), actor=ALICE)
        clock.advance(0.9)
        await store.end([found(store, "a:h:1")], StatusReason.DISCONNECTED, now=clock.now(), actor=ALICE)
    clock.advance(40)
    async with durable(path, clock) as store:
        now = clock.now()
        assert found(store, "a:h:1").instance.ended is StatusReason.DISCONNECTED
        assert (await store.sweep(now + EVICT_AFTER - 40.9 - 0.01, 10)).evicted == 0
        assert (await store.sweep(now + EVICT_AFTER - 40.9 + 0.01, 10)).evicted == 1
        assert (store.get("a:h:2"), store.count()) == (None, 1)
        assert (await store.sweep(now + EVICT_AFTER - 40 + 0.01, 10)).evicted == 1
        await written(store)
        assert await restored(path) == {}


async def test_nobody_is_evicted_right_after_a_start(path: Path, clock: FakeClock) -> None:
    """Whoever was away as long as the registry gets a TTL to come back."""
    async with durable(path, clock) as store:
        await store.end([await register(store, clock)], StatusReason.LEASE_EXPIRED, now=clock.now(), actor=ALICE)
    clock.advance(10 * EVICT_AFTER)
    async with durable(path, clock) as store:
        assert (await store.sweep(clock.now() + TTL - 0.01, 10)).evicted == 0
        assert (await store.sweep(clock.now() + TTL, 10)).evicted == 1


async def test_a_wall_clock_that_was_put_back_evicts_nobody_early(path: Path, clock: FakeClock) -> None:
    """An end in the future counts as just now."""
    async with durable(path, clock) as store:
        await store.end([await register(store, clock)], StatusReason.LEASE_EXPIRED, now=clock.now(), actor=ALICE)
    clock.epoch_ms -= 3_600_000
    async with durable(path, clock) as store:
        assert (await store.sweep(clock.now() + EVICT_AFTER - 0.01, 10)).evicted == 0
        assert (await store.sweep(clock.now() + EVICT_AFTER, 10)).evicted == 1


async def test_generations_are_never_given_away_again(path: Path, clock: FakeClock) -> None:
    """Not even those of instances that are gone, with a wall clock that was put back."""
    async with durable(path, clock) as store:
        await register(store, clock)
        generation = (await register(store, clock, replace=True)).instance.generation
        await deregister(store)
    clock.epoch_ms -= 3_600_000
    async with durable(path, clock) as store:
        assert (await register(store, clock)).instance.generation > generation


async def test_only_a_new_file_is_warming_up(path: Path, clock: FakeClock) -> None:
    """What was restored is the truth, even if it is nothing."""
    async with durable(path, clock) as store:
        assert store.feed.warming
    async with durable(path, clock) as store:
        assert not store.feed.warming


async def test_ended_leases_are_written_without_being_asked_for(store: DurableStore, path: Path, clock: FakeClock) -> None:
    """And so are those that come back by a heartbeat."""
    registration = await register(store, clock)
    await store.end([registration], StatusReason.LEASE_EXPIRED, now=clock.now(), actor=ALICE)
    await written(store)
    [kept] = (await restored(path))["a"]
    assert kept.instance.ended is StatusReason.LEASE_EXPIRED
    await change(store, clock)
    await written(store)
    [kept] = (await restored(path))["a"]
    assert kept.instance.ended is None


async def test_many_that_end_at_once_are_written_in_slices(
    store: DurableStore, path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, without a pause."""
    registrations = [await register(store, clock, f"a:h:{number}") for number in range(1, 51)]
    await written(store)
    before = store.file.transactions
    monkeypatch.setattr(module, "SLICE", 20)
    await store.end(registrations, StatusReason.LEASE_EXPIRED, now=clock.now(), actor=ALICE)
    await written(store)
    assert store.file.transactions - before == 3
    assert await restored(path, clock) == known(store)


async def test_heartbeats_are_not_written(store: DurableStore, clock: FakeClock) -> None:
    """Nor are changes that change nothing."""
    registration = await register(store, clock, owner="me")
    await written(store)
    before = store.file.transactions
    store.renew([registration], terms(clock))
    await change(store, clock)
    await change(store, clock, reported=Status.OK, description="")
    await register(store, clock, owner="me")
    assert store.file.transactions == before


Operation = tuple[str, str, str]
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["register", "replace", "own", "change", "rename", "report", "end", "deregister", "past", "sweep"]),
        st.sampled_from(["a:h:1", "a:h:2", "b:h:1"]),
        st.sampled_from(["a", "b"]),
    ),
    max_size=25,
)


async def perform(store: MemoryStore, clock: FakeClock, operation: str, instance_id: str, name: str) -> str:
    """Do something to an instance; return how it was refused."""
    registration = store.get(instance_id)
    try:
        match operation:
            case "register" | "replace" | "own":
                owner = "me" if operation == "own" else ""
                await register(store, clock, instance_id, name=name, owner=owner, replace=operation == "replace")
            case "change" | "rename" | "report":
                said: dict[str, Any] = {"rename": {"name": name}, "change": {"description": name}}.get(operation, {})
                await change(store, clock, instance_id, reported=Status.DOWN if operation == "report" else None, **said)
            case "end" if registration is not None:
                await store.end([registration], StatusReason.DISCONNECTED, now=clock.now(), actor=ALICE)
            case "deregister":
                await deregister(store, instance_id)
            case "past":
                await change(store, clock, instance_id, generation=1)
            case "sweep":
                await store.sweep(clock.now() + TTL, 10)
    except LunaError as error:
        return type(error).__name__
    return ""


@given(operations=OPERATIONS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_it_does_what_memory_does_and_remembers_it(
    tmp_path_factory: pytest.TempPathFactory, operations: list[Operation]
) -> None:
    """Any sequence of operations has the outcome that it has in memory, and a restart knows it."""
    path = tmp_path_factory.mktemp("any") / "state.db"
    clock, plain_clock = FakeClock(), FakeClock()
    plain = MemoryStore(plain_clock, evict_after=EVICT_AFTER)
    async with durable(path, clock) as store:
        for operation in operations:
            for each in (clock, plain_clock):
                each.advance(0.5)
                each.tick()
            assert await perform(store, clock, *operation) == await perform(plain, plain_clock, *operation)
            assert known(store) == known(plain)
    async with durable(path, clock) as store:
        assert but_for_heartbeats(known(store)) == but_for_heartbeats(known(plain))


@given(operations=OPERATIONS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_it_remembers_what_happened_all_at_once(
    tmp_path_factory: pytest.TempPathFactory, operations: list[Operation]
) -> None:
    """Operations that all wait for the disk together leave the same in memory and on disk."""
    path = tmp_path_factory.mktemp("any") / "state.db"
    clock = FakeClock()
    async with durable(path, clock) as store:
        await asyncio.gather(*(perform(store, clock, *operation) for operation in operations))
        await written(store)
        assert not any(registration.changing for registration in store._registrations.values())
        assert await restored(path, clock) == known(store)


# The order of things: disk, memory, watch, answer


async def test_a_change_is_on_disk_before_anyone_is_told(store: DurableStore, recorder: Recorder, clock: FakeClock) -> None:
    """While the disk has not answered, nothing is seen of it: not by id, not in a list, not by a watcher; nor is it answered."""
    there = await register(store, clock, "a:h:2")
    gone = await register(store, clock, "a:h:3")
    recorder.kinds()
    async with slow_disk(store.file):
        changes = [
            asyncio.create_task(register(store, clock, "a:h:1")),
            asyncio.create_task(change(store, clock, "a:h:2", reported=Status.DOWN)),
            asyncio.create_task(deregister(store, "a:h:3")),
        ]
        await settle()
        assert store.file.waiting == 4
        assert (store.get("a:h:1"), there.instance.status, store.get("a:h:3")) == (None, Status.OK, gone)
        assert recorder.kinds() == []
        assert not any(each.done() for each in changes)
    await asyncio.gather(*changes)
    assert store.get("a:h:1") is not None
    assert (there.instance.status, store.get("a:h:3")) == (Status.DOWN, None)
    assert recorder.kinds() == [
        (EventType.UPSERTED, "a", "a:h:1"), (EventType.UPSERTED, "a", "a:h:2"), (EventType.REMOVED, "a", "a:h:3"),
    ]  # fmt: skip


async def test_many_changes_share_a_transaction(store: DurableStore, clock: FakeClock) -> None:
    """All that came while the disk was busy."""
    before = store.file.transactions
    async with slow_disk(store.file):
        changes = [asyncio.create_task(register(store, clock, f"a:h:{number}")) for number in range(1, 301)]
        await settle()
    await asyncio.gather(*changes)
    assert store.count() == 300
    assert store.file.transactions - before == 2  # the slow one, and one for the rest


async def test_a_transaction_has_an_end(store: DurableStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much waits."""
    monkeypatch.setattr(statefile, "TRANSACTION", 100)
    before = store.file.transactions
    async with slow_disk(store.file):
        changes = [asyncio.create_task(register(store, clock, f"a:h:{number}")) for number in range(1, 301)]
        await settle()
    await asyncio.gather(*changes)
    assert store.file.transactions - before == 4


async def test_changes_of_one_id_are_made_in_turn(store: DurableStore, path: Path, clock: FakeClock) -> None:
    """Each sees what those before it have done, and a restart the last."""
    async with slow_disk(store.file):
        tasks: list[asyncio.Task[object]] = [
            asyncio.create_task(each)
            for each in (
                register(store, clock, description="first"),
                register(store, clock),
                change(store, clock, reported=Status.DOWN),
                register(store, clock, replace=True, description="second"),
                change(store, clock, generation=1),
                change(store, clock, description="third"),
                deregister(store),
                change(store, clock),
                register(store, clock, description="fourth"),
                change(store, clock, description="fifth"),
            )
        ]
        await settle()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in outcomes if isinstance(each, Exception)] == [AlreadyExistsError, SupersededError, NotFoundError]
    assert found(store, "a:h:1").instance.info.description == "fifth"
    assert not found(store, "a:h:1").changing
    assert await restored(path, clock) == known(store)


async def test_a_change_goes_on_when_who_asked_has_left(store: DurableStore, path: Path, clock: FakeClock) -> None:
    """In memory as on disk."""
    async with slow_disk(store.file):
        task = asyncio.create_task(register(store, clock))
        waiting = asyncio.create_task(change(store, clock, reported=Status.DOWN))
        await settle()
        for each in (task, waiting):
            each.cancel()
        await asyncio.gather(task, waiting, return_exceptions=True)
        assert task.cancelled()
        assert waiting.cancelled()
    while store._turns:
        await asyncio.wait(store._turns.values())
    assert found(store, "a:h:1").instance.reported is Status.DOWN
    assert await restored(path, clock) == known(store)


async def test_a_change_counts_as_a_heartbeat_before_the_disk_has_answered(store: DurableStore, clock: FakeClock) -> None:
    """And brings an ended lease back; what it changes has to wait."""
    live, ended = await register(store, clock, "a:h:1", owner="me"), await register(store, clock, "a:h:2")
    await store.end([ended], StatusReason.LEASE_EXPIRED, now=clock.now(), actor=ALICE)
    clock.advance(0.5)
    async with slow_disk(store.file):
        tasks = [
            asyncio.create_task(change(store, clock, "a:h:2", description="new")),
            asyncio.create_task(register(store, clock, "a:h:1", owner="me", description="new")),
        ]
        await settle()
        for each in (live, ended):
            assert (each.live, each.deadline, each.last_heartbeat) == (True, clock.now() + TTL, clock.wall_ms())
            assert (each.instance.info.description, each.instance.up, each.changing) == ("", True, True)
    await asyncio.gather(*tasks)
    assert (live.instance.info.description, ended.instance.info.description) == ("new", "new")
    assert not live.changing


async def test_a_new_lease_is_not_the_shorter_because_the_disk_was_slow(store: DurableStore, clock: FakeClock) -> None:
    """It counts from the moment at which it is granted."""
    async with slow_disk(store.file):
        tasks = [asyncio.create_task(register(store, clock, replace=True)) for _ in range(2)]
        await settle()
        for _ in range(40):
            clock.advance(1)
            clock.tick()
    await asyncio.gather(*tasks)
    assert found(store, "a:h:1").deadline == clock.now() + TTL


async def test_what_nobody_waits_for_does_not_undo_a_change(
    store: DurableStore, path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is under way is known to the disk before it is to memory, and that must not be written over it."""
    monkeypatch.setattr(module, "SOON", 0.0)
    registration = await register(store, clock)
    async with slow_disk(store.file):
        task = asyncio.create_task(change(store, clock, reported=Status.DOWN))
        await settle()
        await store.end([registration], StatusReason.LEASE_EXPIRED, now=clock.now(), actor=ALICE)
        await settle()
    await task
    await written(store)
    assert await restored(path, clock) == known(store)
    assert registration.instance.reported is Status.DOWN


async def test_a_lease_that_ended_meanwhile_is_not_brought_back(store: DurableStore, path: Path, clock: FakeClock) -> None:
    """What was said before it ended is kept, no more; a restart knows that as well."""
    registration = await register(store, clock)
    async with slow_disk(store.file):
        tasks = [
            asyncio.create_task(change(store, clock, reported=Status.DOWN)),
            asyncio.create_task(change(store, clock, description="new")),
        ]
        await settle()
        await store.end([registration], StatusReason.LEASE_EXPIRED, now=clock.now(), actor=ALICE)
    await asyncio.gather(*tasks)
    assert not registration.live
    assert (registration.instance.ended, registration.instance.reported) == (StatusReason.LEASE_EXPIRED, Status.DOWN)
    assert registration.instance.info.description == "new"
    await written(store)
    assert await restored(path, clock) == known(store)


async def test_nobody_is_evicted_while_another_takes_its_id_over(store: DurableStore, path: Path, clock: FakeClock) -> None:
    """So the new one has its place in the service, in memory and after a restart."""
    ended = await register(store, clock, "a:h:1")
    await register(store, clock, "a:h:2")
    await store.end([ended], StatusReason.LEASE_EXPIRED, now=clock.now(), actor=ALICE)
    async with slow_disk(store.file):
        task = asyncio.create_task(register(store, clock, "a:h:1"))
        await settle()
        assert (await store.sweep(clock.now() + EVICT_AFTER, 10)).evicted == 0
    await task
    await written(store)
    service = store.service("a")
    assert service is not None
    assert [each.instance.info.instance_id for each in service.registrations] == ["a:h:1", "a:h:2"]
    assert await restored(path, clock) == known(store)


async def test_nobody_is_evicted_while_it_changes(store: DurableStore, path: Path, clock: FakeClock) -> None:
    """But right after that."""
    one, two = await register(store, clock, "a:h:1"), await register(store, clock, "a:h:2")
    async with slow_disk(store.file):
        tasks = [
            asyncio.create_task(change(store, clock, "a:h:1", reported=Status.DOWN)),
            asyncio.create_task(deregister(store, "a:h:2")),
        ]
        await settle()
        await store.end([one, two], StatusReason.LEASE_EXPIRED, now=clock.now(), actor=ALICE)
        assert (await store.sweep(clock.now() + EVICT_AFTER, 10)).evicted == 0
    await asyncio.gather(*tasks)
    assert [store.get("a:h:1"), store.get("a:h:2")] == [one, None]
    assert (await store.sweep(clock.now() + EVICT_AFTER, 10)).evicted == 1
    await written(store)
    assert await restored(path, clock) == known(store) == {}


async def test_changes_under_way_are_bounded(store: DurableStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """More are refused at once, of one id or of many; they count as heartbeats all the same."""
    monkeypatch.setattr(module, "MAX_CHANGES", 3)
    registration = await register(store, clock)
    async with slow_disk(store.file):
        tasks = [asyncio.create_task(change(store, clock, description=f"number {number}")) for number in range(3)]
        await settle()
        clock.advance(0.5)
        for refused in (change(store, clock, reported=Status.DOWN), register(store, clock, "a:h:2"), deregister(store)):
            with pytest.raises(ResourceExhaustedError, match="3 changes wait") as caught:
                await refused
            assert caught.value.retry_after
        assert registration.deadline == clock.now() + TTL
    await asyncio.gather(*tasks)
    assert registration.instance.info.description == "number 2"
    await deregister(store)


# A disk that fails


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a disk that fails be tried again soon."""
    monkeypatch.setattr(module, "RETRY", 0.01)


Failing = Callable[[Path], AbstractContextManager[None]]


def log_of(failing: Failing) -> Failing:
    """Let something befall the log of a file and not the file itself."""
    return lambda path: failing(Path(f"{path}{LOG}"))


FAILURES = [
    pytest.param(missing, "removed or replaced", id="file missing"),
    pytest.param(other, "removed or replaced", id="file replaced"),
    pytest.param(log_of(missing), "removed or replaced", id="log missing"),
    pytest.param(log_of(other), "removed or replaced", id="log replaced"),
    pytest.param(no_room, "the disk does not take it", id="no room"),
]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("failing", "why"), FAILURES)
async def test_a_disk_that_fails(
    store: DurableStore,
    recorder: Recorder,
    path: Path,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    failing: Failing,
    why: str,
) -> None:
    """Changes are refused and not made, heartbeats go on, the log has an alarm; when the disk is well again, so is everything."""
    monkeypatch.setattr(module, "RETRY", 0.01)
    registration = await register(store, clock, "a:h:1", owner="me")
    ended = await register(store, clock, "a:h:2")
    recorder.kinds()
    before = await restored(path, clock)
    refused: list[Awaitable[object]] = [
        register(store, clock, "b:h:1"),
        register(store, clock, "a:h:1", replace=True),
        change(store, clock, "a:h:1", reported=Status.DOWN),
        change(store, clock, "a:h:1", name="b"),
        deregister(store, "a:h:1"),
    ]
    with capture_logs() as logs:
        with failing(path):
            clock.advance(0.5)
            for each in refused:
                with pytest.raises(UnavailableError, match=f"was not made.*{why}.*heartbeats go on") as caught:
                    await each
                assert caught.value.retry_after
            assert store.file.failing_since is not None
            assert recorder.kinds() == []
            assert registration.instance.up
            assert (registration.deadline, registration.last_heartbeat) == (clock.now() + TTL, clock.wall_ms())
            # What nobody waits for goes on in memory.
            await store.end([ended], StatusReason.LEASE_EXPIRED, now=clock.now(), actor=ALICE)
            assert await change(store, clock, "a:h:2") is ended
            assert ended.live
            await store.end([ended], StatusReason.LEASE_EXPIRED, now=clock.now(), actor=ALICE)
            await asyncio.sleep(0.05)
            assert store.file.failing_since is not None
        await written(store)
        assert store.file.failing_since is None
    assert [(line["log_level"], line["event"]) for line in logs] == [
        ("error", "state file cannot be written"), ("warning", "state file is written again"),
    ]  # fmt: skip
    assert why in logs[0]["reason"]
    after = but_for_heartbeats(await restored(path, clock))
    assert after == but_for_heartbeats(known(store)) != but_for_heartbeats(before)
    await deregister(store, "a:h:1")
    await register(store, clock, "b:h:1")
    assert await restored(path, clock) == known(store)


@pytest.mark.usefixtures("quick")
async def test_a_failing_disk_is_tried_again_without_anyone_asking(store: DurableStore, path: Path, clock: FakeClock) -> None:
    """So the alarm ends when the trouble does, and not before: the attempt has to reach the disk."""
    await register(store, clock)
    with no_room(path), capture_logs():
        with pytest.raises(UnavailableError):
            await deregister(store)
        await asyncio.sleep(0.1)
        assert store.file.failing_since is not None
    assert store._flusher is not None
    with capture_logs():
        await store._flusher
    assert store.file.failing_since is None


async def test_what_failed_is_not_there_after_a_restart(store: DurableStore, path: Path, clock: FakeClock) -> None:
    """A refused change is not half in the file."""
    await register(store, clock, "a:h:1")
    with no_room(path), capture_logs():
        outcomes = await asyncio.gather(
            *(register(store, clock, f"b:h:{number}") for number in range(1, 50)), return_exceptions=True
        )
    assert {type(each) for each in outcomes} == {UnavailableError}
    copy = copied(path)
    async with durable(copy, clock) as again:
        assert list(known(again)) == ["a"]


async def test_a_disk_that_does_not_answer_is_an_alarm(
    store: DurableStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once in the log, and as a figure; and it is told when it answers again."""
    assert store.file.lag == 0
    monkeypatch.setattr(statefile, "SILENCE", 0.0)
    with capture_logs() as logs:
        async with slow_disk(store.file):
            tasks = [asyncio.create_task(register(store, clock, f"a:h:{number}")) for number in (1, 2)]
            await settle()
            assert store.file.lag > 0
        await asyncio.gather(*tasks)
    assert store.file.lag == 0
    assert [(line["log_level"], line["event"]) for line in logs] == [
        ("error", "the disk of the state file does not answer"), ("warning", "the disk of the state file answers again"),
    ]  # fmt: skip


# The end


def files_in(directory: Path) -> list[Path]:
    """Return what is in a directory."""
    return sorted(directory.iterdir())


async def test_closing_writes_what_waits(path: Path, clock: FakeClock) -> None:
    """Changes under way, and what nobody waits for."""
    async with durable(path, clock) as store:
        registration = await register(store, clock, "a:h:1")
        task = asyncio.create_task(register(store, clock, "a:h:2"))
        await asyncio.sleep(0)
        await store.end([registration], StatusReason.DISCONNECTED, now=clock.now(), actor=ALICE)
    await task
    async with durable(path, clock) as again:
        assert known(again) == known(store)
        assert found(again, "a:h:1").instance.ended is StatusReason.DISCONNECTED
    assert [each.name for each in files_in(path.parent)] == [path.name]


async def test_closing_waits_for_a_change_that_came_late(path: Path, clock: FakeClock) -> None:
    """One that began while the store was closing, of an instance of which memory knows more than the disk."""
    store = DurableStore(clock, StateFile.open(str(path)), evict_after=EVICT_AFTER)
    first, second = await register(store, clock, "a:h:1"), await register(store, clock, "a:h:2")
    async with slow_disk(store.file):
        await store.end([first], StatusReason.LEASE_EXPIRED, now=clock.now(), actor=ALICE)
        closing = asyncio.create_task(store.close())
        await settle()
        late = asyncio.create_task(change(store, clock, "a:h:2", reported=Status.DOWN))
        await settle()
        await store.end([second], StatusReason.LEASE_EXPIRED, now=clock.now(), actor=ALICE)
    await asyncio.gather(closing, late)
    async with durable(path) as again:
        assert known(again) == known(store)


async def test_closing_does_not_wait_for_ever(path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that does not answer keeps no process from ending."""
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    async with durable(path, clock) as store:
        with capture_logs() as logs:
            async with slow_disk(store.file):
                task = asyncio.create_task(register(store, clock))
                await settle()
                await store.close()
        await task
        monkeypatch.undo()
    assert [line["event"] for line in logs] == ["state file not closed"]


async def test_loading_is_given_up_at_once(path: Path, clock: FakeClock) -> None:
    """Whoever asks a registry to stop while it starts does not wait until everything is read."""
    async with durable(path, clock) as store:
        instance = (await register(store, clock)).instance
        many = [instance._replace(info=Info.of(f"a:h:{number}")) for number in range(1, 5001)]
        await store.file.write(*(keep(Kept(each, "", 0)) for each in many))
    store = DurableStore(clock, statefile.StateFile.open(str(path)), evict_after=EVICT_AFTER)
    loading = asyncio.create_task(store.load(TTL))
    for _ in range(3):
        await store.file._loop.run_in_executor(None, lambda: None)  # behind what reads
    loading.cancel()
    await asyncio.wait([loading])
    await store.close()
    assert loading.cancelled()
    assert store.count() < 5000
    async with durable(path, clock) as store:
        assert store.count() == 5000


async def outcomes(work: list[Awaitable[object]]) -> list[type[object]]:
    """Return what becomes of changes that are made at the same time: None, or an error."""
    return [type(each) for each in await asyncio.gather(*work, return_exceptions=True) if isinstance(each, BaseException)]


async def test_room_is_kept_for_what_waits_for_the_disk(path: Path, clock: FakeClock) -> None:
    """However many register at the same time, no more are taken than may be: in all, and of one service."""
    async with durable(path, clock) as store:
        store._room = Room(Capacity(instances=10, per_service=4))
        async with slow_disk(store.file):
            tasks = [asyncio.ensure_future(register(store, clock, f"{name}:h:{n}")) for n in range(1, 7) for name in "abc"]
            await settle()
            assert sum(task.done() for task in tasks) == 18 - 10
        assert await outcomes([*tasks]) == [ResourceExhaustedError] * 8
        assert (store.count(), [len(each.registrations) for each in store.services()]) == (10, [4, 3, 3])
        assert (store._room._kept, store._room._kept_in) == (0, {})


async def test_room_is_kept_for_what_changes_its_service(path: Path, clock: FakeClock) -> None:
    """A change of the name that waits for the disk counts in the new service, and still in the old one."""
    async with durable(path, clock) as store:
        store._room = Room(Capacity(per_service=2))
        for instance_id in ("a:h:1", "b:h:1", "c:h:1", "c:h:2"):
            await register(store, clock, instance_id)
        async with slow_disk(store.file):
            tasks = [
                asyncio.ensure_future(change(store, clock, instance_id, name="a")) for instance_id in ("b:h:1", "c:h:1", "c:h:2")
            ]
            await settle()
            assert [task.done() for task in tasks] == [False, True, True]
        assert await outcomes([*tasks]) == [ResourceExhaustedError] * 2
        assert [(each.name, len(each.registrations)) for each in store.services()] == [("a", 2), ("c", 2)]


async def test_what_the_disk_refuses_takes_no_room(path: Path, clock: FakeClock) -> None:
    """Room that was kept is given back."""
    async with durable(path, clock) as store:
        store._room = Room(Capacity(instances=1))
        with capture_logs():
            with no_room(path), pytest.raises(UnavailableError):
                await register(store, clock, "a:h:1")
            await register(store, clock, "a:h:2")
        assert store.count() == 1


async def test_what_is_read_may_be_more_than_there_is_room_for(path: Path, clock: FakeClock) -> None:
    """A limit that was lowered removes nobody; it only takes nobody new."""
    async with durable(path, clock) as store:
        for number in range(1, 4):
            await register(store, clock, f"a:h:{number}")
    async with durable(path, clock) as store:
        store._room = Room(Capacity(instances=2))
        assert store.count() == 3
        with pytest.raises(ResourceExhaustedError):
            await register(store, clock, "a:h:4")
