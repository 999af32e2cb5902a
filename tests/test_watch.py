"""Watching: nothing is lost, whatever happens to the watcher."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luna_grpc.access import Role, User
from luna_grpc.events import Change, Event, EventType
from luna_grpc.model import Actor, Door, Info, Instance, Status
from luna_grpc.watch import BATCH, QUEUE_CAPACITY, Batch, Feed, Watcher

ACTOR = Actor(User("admin", Role.ADMIN), Door.GRPC)
State = dict[tuple[str, str], Instance]


class World:
    """Instances that change, and their feed."""

    def __init__(self, *, capacity: int = 10_000, warming: bool = False) -> None:
        self.state: State = {}
        self.feed = Feed(self._present, capacity=capacity, warming=warming)
        self._generation = 0

    def _present(self, names: frozenset[str]) -> Iterator[Event]:
        for (name, _), instance in list(self.state.items()):
            if not names or name in names:
                yield Event(EventType.UPSERTED, self.state.get((name, instance.info.instance_id), instance), 0)

    def upsert(self, name: str, number: int) -> None:
        """Register or change an instance."""
        self._generation += 1
        info = Info.of(f"x:h:{number + 1}", name=name)
        instance = Instance(info, Status.OK, None, self._generation, 0)
        self.state[name, info.instance_id] = instance
        self.feed.publish(EventType.UPSERTED, instance, 0, ACTOR, Change.OTHER)

    def remove(self, name: str, number: int) -> None:
        """Remove an instance, if it is there."""
        instance = self.state.pop((name, f"x:h:{number + 1}"), None)
        if instance is not None:
            self.feed.publish(EventType.REMOVED, instance, 0, ACTOR, Change.DEREGISTERED)

    def change(self, random_: random.Random, names: str = "abc") -> None:
        """Do something."""
        action = self.upsert if random_.random() < 0.6 else self.remove
        action(random_.choice(names), random_.randrange(20))

    def seen_by(self, names: str) -> State:
        """Return what a watcher of these services is to know."""
        return {key: instance for key, instance in self.state.items() if not names or key[0] in names}


class Client:
    """Does what the proto asks of a watcher, and checks what the server promises."""

    def __init__(self, world: World, names: str = "") -> None:
        self.state: State = {}
        self.token = ""
        self.synced = 0
        self._world = world
        self._names = names
        self._unconfirmed: set[tuple[str, str]] | None = None
        self.watcher: Watcher | None = None
        self.awake = True

    def connect(self, *, token: str | None = None) -> Watcher:
        """Open the watch, from where it ended."""
        if self.watcher is not None:
            self.watcher.close()
        self._unconfirmed = None
        self.watcher = self._world.feed.watch(self._names, self.token if token is None else token, self._wake)
        return self.watcher

    def _wake(self) -> None:
        self.awake = True

    def read(self, most: int = 10_000) -> list[Batch]:
        """Take batches until there is none, or `most`."""
        batches: list[Batch] = []
        assert self.watcher is not None
        while len(batches) < most and (batch := self.watcher.take()) is not None:
            batches.append(batch)
            self._apply(batch)
        return batches

    def _apply(self, batch: Batch) -> None:
        assert len(batch.events) <= BATCH
        if batch.reset:
            self._unconfirmed = set(self.state)
        for event in batch.events:
            if self._unconfirmed is not None:
                self._unconfirmed.discard(event.key)
            if event.type is EventType.UPSERTED:
                self.state[event.key] = event.instance
            else:
                self.state.pop(event.key, None)
        if batch.synced:
            self.synced += 1
            for key in self._unconfirmed or ():
                self.state.pop(key, None)
            self._unconfirmed = None
        if batch.token:
            assert self._unconfirmed is None, "a token was given before the snapshot was complete"
            self.token = batch.token


def test_a_fresh_watcher_gets_the_present_then_changes() -> None:
    """`reset` first, then `synced` and a token, then events with tokens."""
    world = World()
    world.upsert("a", 1)
    client = Client(world)
    client.connect()
    first, second = client.read()
    assert (first.reset, first.synced, first.token, len(first.events)) == (True, False, "", 1)
    assert (second.reset, second.synced, second.events) == (False, True, [])
    assert second.token == world.feed.token()
    assert client.read() == []
    world.upsert("a", 2)
    [batch] = client.read()
    assert [event.instance.info.instance_id for event in batch.events] == ["x:h:3"]
    assert (batch.reset, batch.synced, batch.token) == (False, False, world.feed.token())


def test_resuming_replays_what_was_missed() -> None:
    """Without a snapshot, even when nothing was missed."""
    world = World()
    client = Client(world)
    client.connect()
    client.read()
    world.upsert("a", 1)
    client.connect()
    [batch] = client.read()
    assert (batch.reset, batch.synced, len(batch.events)) == (False, True, 1)
    client.connect()
    [batch] = client.read()
    assert (batch.reset, batch.synced, batch.events) == (False, True, [])


@pytest.mark.parametrize(
    "token", ["nonsense", "-", "0123456789abcdef-5-all", "{log}-x-all", "{log}-999-all", "{log}-1", "{log}-²-all"]
)
def test_a_token_that_cannot_be_continued_gets_a_snapshot(token: str) -> None:
    """From another life, from the future, or no token at all."""
    world = World()
    world.upsert("a", 1)
    client = Client(world)
    client.connect(token=token.format(log=world.feed.log_id))
    batches = client.read()
    assert batches[0].reset
    assert batches[-1].synced
    assert client.state == world.state


def test_a_token_is_good_for_its_names_only() -> None:
    """Whoever knew other services did not know these; whoever knew all did."""
    world = World()
    client = Client(world, "a")
    client.connect()
    client.read()
    everything = world.feed.token()
    world.upsert("b", 1)
    other = Client(world, "b")
    other.connect(token=client.token)
    assert other.read()[0].reset
    other.connect(token=everything)
    [batch] = other.read()
    assert not batch.reset
    assert other.state == world.seen_by("b")


def test_a_token_that_is_too_old_gets_a_snapshot() -> None:
    """The log is bounded."""
    world = World(capacity=10)
    client = Client(world)
    client.connect()
    client.read()
    for number in range(10):
        world.upsert("a", number)
    client.connect()
    assert not client.read()[0].reset
    for number in range(11):
        world.upsert("a", number)
    client.connect()
    assert client.read()[0].reset
    assert client.state == world.state


def test_events_of_one_instance_are_merged() -> None:
    """The latest counts; the order is that of the latest."""
    world = World()
    client = Client(world)
    client.connect()
    client.read()
    world.upsert("a", 1)
    world.upsert("a", 2)
    world.upsert("a", 1)
    [batch] = client.read()
    assert [event.revision for event in batch.events] == [2, 3]


def test_a_slow_watcher_catches_up_from_the_log_or_starts_over() -> None:
    """Its own queue is bounded."""
    world = World(capacity=2 * QUEUE_CAPACITY)
    client = Client(world)
    watcher = client.connect()
    client.read()
    for number in range(QUEUE_CAPACITY + 10):
        world.upsert("a", number)
        assert watcher.backlog <= QUEUE_CAPACITY
    batches = client.read()
    assert not any(batch.reset for batch in batches)
    assert client.state == world.state
    for number in range(2 * QUEUE_CAPACITY + 10):
        world.upsert("a", number)
    assert client.read()[0].reset
    assert client.state == world.state
    assert client.synced == 2


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_changes_that_wait_for_a_watcher_come_in_parts(seed: int) -> None:
    """None is lost when it leaves between two of them, whatever has changed twice meanwhile."""
    random_ = random.Random(seed)
    world = World()
    for number in range(4 * BATCH):
        world.upsert("a", number)
    client = Client(world)
    client.connect()
    client.read()
    for _ in range(4):
        for _ in range(random_.randrange(QUEUE_CAPACITY)):
            action = world.upsert if random_.random() < 0.7 else world.remove
            action("a", random_.randrange(4 * BATCH))
        client.read(most=random_.randrange(1, 4))
        if random_.random() < 0.5:
            client.connect()
    assert not [batch for batch in client.read() if batch.reset]
    assert client.state == world.state


def test_a_watcher_is_woken_once_and_only_for_its_services() -> None:
    """After it had nothing to take."""
    world = World()
    client = Client(world, "a")
    client.connect()
    client.read()
    client.awake = False
    world.upsert("b", 1)
    assert not client.awake
    world.upsert("a", 1)
    assert client.awake
    client.awake = False
    world.upsert("a", 2)
    assert not client.awake
    client.read()
    world.upsert("a", 3)
    assert client.awake


def test_the_token_of_a_quiet_watch_stays_fresh() -> None:
    """Else it would fall off the log although nothing was missed."""
    world = World(capacity=100)
    client = Client(world, "quiet")
    client.connect()
    client.read()
    for number in range(1000):
        world.upsert("busy", number % 7)
        if client.awake:
            client.awake = False
            client.read()
    client.connect()
    assert not client.read()[0].reset


def test_a_closed_watcher_is_forgotten() -> None:
    """Closing twice does no harm."""
    world = World()
    for names in ("", "ab"):
        watcher = world.feed.watch(names, "", lambda: None)
        assert world.feed.watchers() == [watcher]
        watcher.close()
        watcher.close()
        assert world.feed.watchers() == []
    assert world.feed._of_name == {}


def test_who_remembers_an_earlier_life_waits_until_the_registry_is_warm() -> None:
    """`synced`, and with it every removal, waits; additions do not. Fresh watchers are synced at once."""
    old, world = World(), World(warming=True)
    old.upsert("a", 1)
    old.upsert("a", 2)
    client = Client(old)
    client.connect()
    client.read()
    client._world = world
    client.connect()
    client.read()
    world.upsert("a", 1)
    client.read()
    assert (client.synced, len(client.state)) == (1, 2)
    fresh = Client(world)
    fresh.connect()
    fresh.read()
    assert (fresh.synced, fresh.state) == (1, world.state)
    client.awake = False
    world.feed.warmed()
    assert client.awake
    client.read()
    assert (client.synced, client.state) == (2, world.state)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), capacity=st.sampled_from([8, 40, 1000]), names=st.sampled_from(["", "a", "ab"]))
def test_a_watch_cut_and_resumed_100_times_ends_with_the_state_of_a_fresh_list(seed: int, capacity: int, names: str) -> None:
    """At random points, under random changes, reading more or less of what there is."""
    random_ = random.Random(seed)
    world = World(capacity=capacity)
    client = Client(world, names)
    for _ in range(100):
        client.connect()
        for _ in range(random_.randrange(4)):
            for _ in range(random_.choice([0, 1, 5, 50])):
                world.change(random_)
            client.read(most=random_.randrange(3))
    client.connect()
    client.read()
    assert client.state == world.seen_by(names)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_snapshot_taken_while_everything_changes_is_true_at_its_end(seed: int) -> None:
    """Instances leave, come and move to other services between its parts."""
    random_ = random.Random(seed)
    world = World(capacity=2000)
    for number in range(3 * BATCH):
        world.upsert(random_.choice("abc"), number)
    client = Client(world)
    client.connect()
    while client.synced == 0:
        for _ in range(random_.randrange(200)):
            world.change(random_)
        client.read(most=1)
    client.read()
    assert client.state == world.state


def test_the_log_is_bounded_by_its_texts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever becomes of the strings in it; who is cut off by that gets a snapshot."""
    monkeypatch.setattr("luna_grpc.watch.LOG_CHARACTERS", 1000)
    world = World()
    client = Client(world)
    client.connect()
    client.read()
    client.connect()
    for number in range(1000):
        world.upsert("a", number % 5)
        assert world.feed._log_characters <= 1000
    assert 0 < len(world.feed._log) < 100
    assert world.feed._log_characters == sum(event.size for event in world.feed._log)
    assert client.read()[0].reset
    assert client.state == world.state
