"""What happened of late: the last changes, kept for people.

Every change of who is there and who may be used is an entry; new descriptions and heartbeats are none. The latest `CAPACITY`
entries are kept, of all services together: some 7 MB, and 16 MB with names and ids as long as they may be.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from luna_grpc.enums import Word
from luna_grpc.events import Change, Event
from luna_grpc.model import Status, StatusReason

CAPACITY: Final = 20_000
"""The most entries."""


class Kind(Word):
    """What happened."""

    REGISTERED = "registered"
    UP = "up"
    DOWN = "down"
    DRAINED = "drained"
    UNDRAINED = "undrained"
    DEREGISTERED = "deregistered"
    EVICTED = "evicted"
    MOVED = "moved"


LEAVING: Final = frozenset({Kind.DEREGISTERED, Kind.EVICTED, Kind.MOVED})
"""After these an instance is not in its service any more."""
_KINDS: Final = {
    Change.REGISTERED: Kind.REGISTERED,
    Change.DRAINED: Kind.DRAINED,
    Change.UNDRAINED: Kind.UNDRAINED,
    Change.DEREGISTERED: Kind.DEREGISTERED,
    Change.EVICTED: Kind.EVICTED,
    Change.MOVED: Kind.MOVED,
}
_STATUS: Final = Change.STATUS
_OTHER: Final = Change.OTHER
_UP: Final = Kind.UP
_DOWN: Final = Kind.DOWN


class Entry(NamedTuple):
    """One change of one instance."""

    number: int
    """Grows by one with each entry."""
    at: int
    """Milliseconds since the epoch."""
    instance_id: str
    service: str
    kind: Kind
    status: Status
    """After the change; of one that left, before it."""
    reason: StatusReason
    up: int
    """How many instances of the service were OK after the change."""
    user: str
    """Who did it; empty: the registry itself, or someone without a name."""
    door: str
    """Where it came in: `grpc`, `rest` or `internal`."""

    @property
    def there(self) -> bool:
        """Whether the instance is in its service after the change."""
        return self.kind not in LEAVING


class Journal:
    """The latest entries; `up` tells how many instances of a service are OK, `wall_ms` what time it is."""

    def __init__(self, up: Callable[[str], int], wall_ms: Callable[[], int], capacity: int = CAPACITY) -> None:
        self._up = up
        self._wall_ms = wall_ms
        self._capacity = capacity
        self._entries: deque[Entry] = deque()
        self.number = 0
        """Of the latest entry."""
        self.known_since = wall_ms()
        """Milliseconds since the epoch: of what was before, there may be no entry."""

    def __len__(self) -> int:
        """Return how many entries there are."""
        return len(self._entries)

    def note(self, event: Event) -> None:
        """Keep a change; an observer of the feed."""
        change = event.change
        if change is _OTHER or event.actor is None:
            return
        instance = event.instance
        name = instance.info.name
        kind = (_UP if instance.up else _DOWN) if change is _STATUS else _KINDS[change]
        self._append(
            Entry(
                self.number + 1, self._wall_ms(), instance.info.instance_id, name, kind, instance.status, instance.reason,
                self._up(name), event.actor.user.name, event.actor.door.value,
            )
        )  # fmt: skip

    def restore(self, entries: Iterable[Entry]) -> None:
        """Take on entries of an earlier run, oldest first, before anything is noted."""
        for entry in entries:
            if not self.number:
                self.known_since = entry.at
            self._append(entry)

    def after(self, number: int) -> Iterator[Entry]:
        """Yield the entries after the one of a number, oldest first."""
        return islice(self._entries, max(0, number - (self.number - len(self._entries))), None)

    def latest(self) -> Iterator[Entry]:
        """Yield all entries, latest first. Not to be carried across a suspension."""
        return reversed(self._entries)

    # To walk all entries takes a millisecond, and only pages ask: an index would cost every change more than that saves.

    def of_service(self, name: str) -> list[Entry]:
        """Return the entries of a service, oldest first."""
        return [entry for entry in self._entries if entry.service == name]

    def of_instance(self, instance_id: str, name: str) -> list[Entry]:
        """Return the entries of an instance in a service, oldest first."""
        return [entry for entry in self._entries if entry.instance_id == instance_id and entry.service == name]

    def last_of(self, instance_id: str) -> Entry | None:
        """Return the latest entry of an instance, whatever service it was in."""
        return next((entry for entry in reversed(self._entries) if entry.instance_id == instance_id), None)

    def _append(self, entry: Entry) -> None:
        self.number = entry.number
        self._entries.append(entry)
        if len(self._entries) > self._capacity:
            self.known_since = self._entries.popleft().at
