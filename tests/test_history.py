"""How it was: spans of time made of the journal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luna_grpc.access import Role, User
from luna_grpc.events import Change, Event, EventType
from luna_grpc.history import Span, State, Window, coarse, of_instance, of_service
from luna_grpc.journal import Entry, Journal, Kind
from luna_grpc.model import Actor, Door, Info, Instance, Status, StatusReason

OK, DOWN, DRAINED, GONE, UNKNOWN = State
WINDOW = Window(1000, 2000, 1200)
ALICE = Actor(User("alice", Role.ADMIN), Door.REST)
KINDS_UP = {Kind.REGISTERED, Kind.UP, Kind.UNDRAINED}


def entry(at: int, kind: Kind, *, instance_id: str = "a:h:1", up: int | None = None, status: Status | None = None) -> Entry:
    """Return an entry about an instance that is OK after it unless it is about the contrary."""
    status = status or (Status.OK if kind in KINDS_UP | {Kind.DEREGISTERED} else Status.DOWN)
    up = (1 if kind in KINDS_UP else 0) if up is None else up
    reason = StatusReason.DRAINED if kind is Kind.DRAINED else StatusReason.REPORTED
    return Entry(1, at, instance_id, "a", kind, status, reason, up, "", "internal")


def present(*, ok: bool = True, registered_at: int = 0) -> Instance:
    """Return the instance as it is now."""
    return Instance(Info.of("a:h:1"), Status.OK if ok else Status.DOWN, None, 1, registered_at)


def spans(*said: tuple[int, int, State]) -> list[Span]:
    """Return spans."""
    return [Span(*each) for each in said]


@pytest.mark.parametrize(
    ("entries", "now", "expected"),
    [
        ([], present(), spans((1000, 1200, UNKNOWN), (1200, 2000, OK))),
        ([], present(ok=False), spans((1000, 1200, UNKNOWN), (1200, 2000, DOWN))),
        ([], present(registered_at=1500), spans((1000, 1500, UNKNOWN), (1500, 2000, OK))),
        ([], None, spans((1000, 1200, UNKNOWN), (1200, 2000, GONE))),
        (
            [entry(1400, Kind.REGISTERED)],
            present(registered_at=1400),
            spans((1000, 1200, UNKNOWN), (1200, 1400, GONE), (1400, 2000, OK)),
        ),
        (
            [entry(1400, Kind.DOWN), entry(1500, Kind.UP)],
            present(),
            spans((1000, 1200, UNKNOWN), (1200, 1400, OK), (1400, 1500, DOWN), (1500, 2000, OK)),
        ),
        ([entry(1400, Kind.UP)], present(), spans((1000, 1200, UNKNOWN), (1200, 1400, DOWN), (1400, 2000, OK))),
        ([entry(1400, Kind.DRAINED)], present(ok=False), spans((1000, 1400, UNKNOWN), (1400, 2000, DRAINED))),
        ([entry(1400, Kind.UNDRAINED)], present(), spans((1000, 1200, UNKNOWN), (1200, 1400, DRAINED), (1400, 2000, OK))),
        ([entry(1400, Kind.DEREGISTERED)], None, spans((1000, 1200, UNKNOWN), (1200, 1400, OK), (1400, 2000, GONE))),
        ([entry(500, Kind.REGISTERED), entry(700, Kind.DOWN)], present(ok=False), spans((1000, 2000, DOWN))),
    ],
    ids=["up", "down", "came after the journal", "nobody", "came", "fell", "rose", "drained", "undrained", "left", "before"],
)
def test_an_instance(entries: list[Entry], now: Instance | None, expected: list[Span]) -> None:
    """Before the journal nothing is known; before the first entry what follows from it."""
    window = WINDOW if not entries or entries[0].at > 1000 else WINDOW._replace(known_since=entries[0].at)
    assert of_instance(entries, now, window) == expected


@pytest.mark.parametrize(
    ("entries", "up", "others", "expected"),
    [
        ([], 1, 1, spans((1000, 1200, UNKNOWN), (1200, 2000, OK))),
        ([], 0, 2, spans((1000, 1200, UNKNOWN), (1200, 2000, DOWN))),
        ([], 0, 0, spans((1000, 1200, UNKNOWN), (1200, 2000, GONE))),
        (
            [entry(1300, Kind.REGISTERED), entry(1400, Kind.REGISTERED, instance_id="a:h:2", up=2)],
            2,
            0,
            spans((1000, 1200, UNKNOWN), (1200, 1300, GONE), (1300, 2000, OK)),
        ),
        (
            [entry(1300, Kind.DOWN, up=1), entry(1400, Kind.DOWN, instance_id="a:h:2", up=0)],
            0,
            0,
            spans((1000, 1200, UNKNOWN), (1200, 1400, OK), (1400, 2000, DOWN)),
        ),
        (
            [entry(1300, Kind.DEREGISTERED, up=0)],
            0,
            0,
            spans((1000, 1200, UNKNOWN), (1200, 1300, OK), (1300, 2000, GONE)),
        ),
        (
            [entry(1300, Kind.DEREGISTERED, up=0)],
            0,
            1,
            spans((1000, 1200, UNKNOWN), (1200, 1300, OK), (1300, 2000, DOWN)),
        ),
    ],
    ids=["up", "down", "nobody", "came", "fell", "left", "left one that is down"],
)
def test_a_service(entries: list[Entry], up: int, others: int, expected: list[Span]) -> None:
    """It is up while one of its instances is, and gone when it has none."""
    assert of_service(entries, up, others, WINDOW) == expected


def test_a_clock_that_is_set_back_turns_no_time_round() -> None:
    """What happened before what was noted earlier takes no time."""
    entries = [entry(1500, Kind.DOWN), entry(1300, Kind.UP)]
    assert of_instance(entries, present(), WINDOW) == spans((1000, 1200, UNKNOWN), (1200, 2000, OK))


def test_slots_show_the_worst() -> None:
    """However short it was."""
    parts = spans((1000, 1250, UNKNOWN), (1250, 1500, GONE), (1500, 1999, OK), (1999, 2000, DOWN))
    assert coarse(parts, WINDOW, 4) == [UNKNOWN, GONE, OK, DOWN]
    assert coarse(parts, WINDOW, 2) == [UNKNOWN, DOWN]


# Whatever happens: what is worked out afterwards is what was the case

STEPS = st.lists(
    st.tuples(st.sampled_from(["come", "leave", "up", "down", "drain", "undrain", "wait"]), st.integers(1, 3), st.integers(1, 50)),
    max_size=40,
)


class World:
    """Instances of one service, their journal, and how all of it was at each moment."""

    def __init__(self, capacity: int) -> None:
        self.time = 0
        self.there: dict[str, Instance] = {}
        self.journal = Journal(lambda _: self.up, lambda: self.time, capacity)
        self.was: list[tuple[dict[str, State], int]] = []

    @property
    def up(self) -> int:
        return sum(instance.up for instance in self.there.values())

    def wait(self, ticks: int) -> None:
        """Let time pass, and remember how it was meanwhile."""
        self.was += [({instance_id: state(instance) for instance_id, instance in self.there.items()}, self.up)] * ticks
        self.time += ticks

    def change(self, instance_id: str, now: Instance, change: Change) -> None:
        self.there[instance_id] = now
        self.tell(now, change)

    def tell(self, now: Instance, change: Change) -> None:
        self.journal.note(Event(EventType.UPSERTED, now, 0, actor=ALICE, change=change))

    def step(self, what: str, number: int) -> None:
        """Do what the registry would do; nothing, where it would do nothing."""
        instance_id = f"a:h:{number}"
        was = self.there.get(instance_id)
        if was is None:
            if what == "come":
                self.change(instance_id, Instance(Info.of(instance_id), Status.OK, None, 1, self.time), Change.REGISTERED)
            return
        if what == "leave":
            del self.there[instance_id]
            self.tell(was, Change.DEREGISTERED)
        elif what in {"up", "down"}:
            now = was._replace(reported=Status.OK if what == "up" else Status.DOWN)
            if now.up != was.up:
                self.change(instance_id, now, Change.STATUS)
            else:
                self.there[instance_id] = now
        elif what == "drain":
            self.change(instance_id, was._replace(drained_until=1), Change.DRAINED)
        elif what == "undrain" and was.drained_until:
            self.change(instance_id, was._replace(drained_until=None), Change.UNDRAINED)


def each_moment(found: list[Span]) -> list[State]:
    """Return the state at each moment; the spans have no gap and no neighbour alike."""
    states: list[State] = []
    for before, span in zip([None, *found], found, strict=False):
        assert span.begin == len(states) < span.end
        assert before is None or before.state is not span.state
        states += [span.state] * span.length
    return states


@given(STEPS, st.one_of(st.integers(1, 6), st.just(100)))
def test_what_is_worked_out_is_what_was(steps: list[tuple[str, int, int]], capacity: int) -> None:
    """Of each instance and of the service, at each moment, as far as the journal reaches back; before, never the contrary."""
    world = World(capacity)
    for what, number, ticks in steps:
        world.step(what, number)
        world.wait(ticks)
    if not world.time:
        return
    window = Window(0, world.time, world.journal.known_since)
    for number in (1, 2, 3):
        instance_id = f"a:h:{number}"
        found = of_instance(world.journal.of_instance(instance_id, "a"), world.there.get(instance_id), window)
        compare(found, [was.get(instance_id, GONE) for was, _ in world.was], complete=capacity == 100)
    entries = world.journal.of_service("a")
    others = len(world.there.keys() - {each.instance_id for each in entries})
    found = of_service(entries, world.up, others, window)
    compare(found, [OK if up else DOWN if was else GONE for was, up in world.was], complete=capacity == 100)


def state(instance: Instance) -> State:
    """Return the state of an instance that is there."""
    return DRAINED if instance.drained_until else OK if instance.up else DOWN


def compare(found: list[Span], was: list[State], *, complete: bool) -> None:
    """A journal that is complete knows everything."""
    found_states = each_moment(found)
    assert len(found_states) == len(was)
    for one, other in zip(found_states, was, strict=True):
        assert one is other or (one is UNKNOWN and not complete)
