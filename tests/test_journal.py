"""The journal: what is kept, and for how long."""

import pytest

from luna_grpc.access import Role, User
from luna_grpc.events import Change, Event, EventType
from luna_grpc.journal import Entry, Journal, Kind
from luna_grpc.model import Actor, Door, Info, Instance, Status, StatusReason

ALICE = Actor(User("alice", Role.ADMIN), Door.REST, "127.0.0.1:1")


def event(instance_id: str = "a:h:1", change: Change = Change.REGISTERED) -> Event:
    """Return what a feed tells."""
    return Event(EventType.UPSERTED, Instance(Info.of(instance_id), Status.OK, None, 1, 0), 0, actor=ALICE, change=change)


@pytest.fixture
def journal() -> Journal:
    """Return a journal of three entries at most, whose clock advances with each of them."""
    times = iter(range(100, 200))
    return Journal(lambda _: 1, lambda: next(times), capacity=3)


def test_an_entry_says_what_when_and_who(journal: Journal) -> None:
    """And numbers follow each other."""
    journal.note(event())
    assert list(journal.latest()) == [
        Entry(1, 101, "a:h:1", "a", Kind.REGISTERED, Status.OK, StatusReason.REPORTED, 1, "alice", "rest")
    ]


def test_what_nobody_needs_to_know_is_no_entry(journal: Journal) -> None:
    """Other changes of a description."""
    journal.note(event(change=Change.OTHER))
    assert (len(journal), journal.number) == (0, 0)


def test_the_oldest_make_room(journal: Journal) -> None:
    """In all and of their service; and it is known since when it is complete."""
    assert journal.known_since == 100
    for instance_id in ("a:h:1", "b:h:1", "b:h:2", "b:h:3", "b:h:4"):
        journal.note(event(instance_id))
    assert [entry.instance_id for entry in journal.latest()] == ["b:h:4", "b:h:3", "b:h:2"]
    assert ([entry.number for entry in journal.of_service("b")], journal.of_service("a")) == ([3, 4, 5], [])
    assert journal.known_since == 102


def test_entries_are_found(journal: Journal) -> None:
    """By number, by instance, and the last one of an instance."""
    for change in (Change.REGISTERED, Change.DRAINED, Change.DEREGISTERED):
        journal.note(event(change=change))
    assert [entry.number for entry in journal.after(0)] == [1, 2, 3]
    assert [entry.number for entry in journal.after(2)] == [3]
    assert list(journal.after(3)) == []
    assert [entry.kind for entry in journal.of_instance("a:h:1", "a")] == [Kind.REGISTERED, Kind.DRAINED, Kind.DEREGISTERED]
    last = journal.last_of("a:h:1")
    assert last is not None
    assert (last.kind, last.there) == (Kind.DEREGISTERED, False)
    assert journal.last_of("b:h:1") is None


def test_an_earlier_run_is_taken_on(journal: Journal) -> None:
    """Numbers go on behind it."""
    other = Journal(lambda _: 1, lambda: 7)
    for _ in range(5):
        other.note(event())
    journal.restore(other.after(0))
    journal.note(event())
    assert [entry.number for entry in journal.latest()] == [6, 5, 4]
