"""When an instance or a service was up, worked out from the journal: spans of time without a gap, each with one state.

Nothing is kept for it. What the journal does not know is `UNKNOWN`: what was before its first entry, unless a later entry tells.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from luna_grpc.enums import Word
from luna_grpc.journal import Entry, Kind
from luna_grpc.model import Instance, Status, StatusReason


class State(Word):
    """How an instance or a service was for a time."""

    OK = "OK"
    DOWN = "DOWN"
    DRAINED = "drained"
    GONE = "gone"
    UNKNOWN = "unknown"


_BEFORE: Final = {Kind.REGISTERED: State.GONE, Kind.UP: State.DOWN, Kind.DOWN: State.OK, Kind.UNDRAINED: State.DRAINED}
"""How an instance was before an entry about it. Before a drain it may have been either."""


class Span(NamedTuple):
    """A time in which nothing changed; milliseconds since the epoch."""

    begin: int
    end: int
    state: State

    @property
    def length(self) -> int:
        """In milliseconds."""
        return self.end - self.begin


class Window(NamedTuple):
    """The time that is looked at, and since when the journal is complete; milliseconds since the epoch."""

    begin: int
    end: int
    known_since: int


def of_instance(entries: Sequence[Entry], now: Instance | None, window: Window) -> list[Span]:
    """Return how an instance was in a window that ends now; `entries` are those about it in its service, oldest first."""
    changes = [(entry.at, _after(entry)) for entry in entries]
    if entries:
        first = _before(entries[0])
    elif now is None:
        first = State.GONE
    else:
        first = _state(now.status, now.reason)
    known_since = window.known_since
    if now is not None and not entries and now.registered_at > known_since:
        known_since = now.registered_at
    return _spans([(known_since, first), *changes], window)


def of_service(entries: Sequence[Entry], up: int, others: int, window: Window) -> list[Span]:
    """Return how a service was in a window that ends now: OK while one instance was.

    `entries` are those of the service, oldest first. Now `up` instances are OK; of `others` there is no entry, so nothing has
    happened to them.
    """
    if not entries:
        return _spans([(window.known_since, _of(up, others))], window)
    there = _there_before(entries)
    first = entries[0]
    unsure = first.up == 0 and _before(first) is State.UNKNOWN
    changes = [(window.known_since, State.UNKNOWN if unsure else _of(first.up - _rise(first), len(there) + others))]
    for entry in entries:
        (there.add if entry.there else there.discard)(entry.instance_id)
        changes.append((entry.at, _of(entry.up, len(there) + others)))
    return _spans(changes, window)


def _of(up: int, total: int) -> State:
    return State.OK if up > 0 else State.DOWN if total > 0 else State.GONE


def _after(entry: Entry) -> State:
    if not entry.there:
        return State.GONE
    return _state(entry.status, entry.reason)


def _state(status: Status, reason: StatusReason) -> State:
    if status is Status.OK:
        return State.OK
    return State.DRAINED if reason is StatusReason.DRAINED else State.DOWN


def _before(entry: Entry) -> State:
    if not entry.there:  # it says how it was before it left
        return _state(entry.status, entry.reason)
    return _BEFORE.get(entry.kind, State.UNKNOWN)


def _rise(entry: Entry) -> int:
    """Return by how much an entry made the number of instances that are OK grow, as far as that can be known."""
    before, after = _before(entry), _after(entry)
    if before is State.UNKNOWN:
        return 0
    return (after is State.OK) - (before is State.OK)


def _there_before(entries: Iterable[Entry]) -> set[str]:
    """Return who was in a service before the first entry: whoever the entries know without having seen him come."""
    first_of = dict[str, Entry]()
    for entry in entries:
        first_of.setdefault(entry.instance_id, entry)
    return {instance_id for instance_id, entry in first_of.items() if entry.kind is not Kind.REGISTERED}


def _spans(changes: Iterable[tuple[int, State]], window: Window) -> list[Span]:
    """Make spans of changes; before the first of them nothing is known. Equal neighbours are one span."""
    spans = list[Span]()
    for begin, end, state in _pieces(changes, window):
        if spans and spans[-1].state is state:
            spans[-1] = spans[-1]._replace(end=end)
        elif begin < end:
            spans.append(Span(begin, end, state))
    return spans


def _pieces(changes: Iterable[tuple[int, State]], window: Window) -> Iterator[tuple[int, int, State]]:
    begin, state = window.begin, State.UNKNOWN
    for at, changed in changes:
        end = min(max(at, begin), window.end)  # a wall clock that was set back does not turn time round
        yield begin, end, state
        begin, state = end, changed
    yield begin, window.end, state


def coarse(spans: Iterable[Span], window: Window, slots: int) -> list[State]:
    """Return one state for each of some equal parts of a window: the worst that was in it."""
    worst = [State.GONE] * slots
    length = (window.end - window.begin) / slots
    for span in spans:
        first = int((span.begin - window.begin) / length)
        last = min(slots - 1, int((span.end - 1 - window.begin) / length))
        for slot in range(first, last + 1):
            worst[slot] = max(worst[slot], span.state, key=_WORSE.index)
    return worst


_WORSE: Final = (State.GONE, State.UNKNOWN, State.OK, State.DRAINED, State.DOWN)
