"""When leases run out: a queue of deadlines that renewing does not touch; and when those who lost theirs are evicted.

Renewing only moves the deadline that the lease carries itself. The queue finds out when the moment first written down for a lease
has come: a lease renewed since then is put back at its new deadline, the others are due. So each lease has at most one entry, a
renewal costs nothing here, and finding what is due costs one entry a lease in each TTL.

No clock is read here and nothing is declared: `due` says what has run out by the time it is given.
"""

import heapq
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, Final, Generic, Protocol, TypeVar

from luna_grpc.clock import MAX_ADVANCE

NEVER: Final = 0.0
"""As the time until an eviction: instances without a live lease stay for ever."""
SHORTEST_STALL: Final = 0.2
"""Seconds; a gap below this may just be a busy machine."""


@dataclass(frozen=True, slots=True)
class LeasePolicy:
    """For how long a heartbeat counts. All times in seconds."""

    ttl: float = 30.0
    rest_slack: float = 0.05
    """What a lease renewed through REST gets on top, as a fraction: legacy clients beat exactly once in a TTL."""
    warmup: float = 30.0
    """How long after an empty start those who remember an earlier life are not told of removals."""

    @property
    def rest_ttl(self) -> float:
        """For how long a heartbeat through REST counts."""
        return self.ttl * (1 + self.rest_slack)

    @property
    def heartbeat_interval(self) -> float:
        """How often clients are told to send heartbeats: two may be lost."""
        return self.ttl / 3

    @property
    def stall(self) -> float:
        """A gap between two sweeps from which on the registry counts as having been deaf."""
        return min(MAX_ADVANCE, max(self.ttl / 3, SHORTEST_STALL))


class Leased(Protocol):
    """Something that lives until its deadline unless renewed."""

    deadline: float
    """Monotonic seconds, absolute. Never moved backwards while the lease is live."""
    live: bool
    """False once the lease has ended, whatever ended it."""
    entry: list[Any] | None
    """Its entry in a queue, if there is one; only the queue writes this."""


L = TypeVar("L", bound=Leased)
# An entry is [deadline as written down, number that breaks ties, the lease or None]. Lists, because heapq compares them quickly
# and a lease can be taken out or exchanged.
_LEASE: Final = 2


class LeaseQueue(Generic[L]):
    """The deadlines of all live leases, soonest first."""

    def __init__(self) -> None:
        self._heap: list[list[Any]] = []
        self._order = count()  # breaks ties, so that leases themselves are never compared
        self._held_until = float("-inf")

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def held_until(self) -> float:
        """Before this moment nothing is due."""
        return self._held_until

    def hold(self, until: float) -> None:
        """Let nothing be due before `until` (monotonic seconds): the registry was deaf and must not blame its clients."""
        self._held_until = max(self._held_until, until)

    def add(self, lease: L) -> None:
        """Watch over a live lease. One that is watched over already stays where it is."""
        if lease.entry is None:
            lease.entry = [lease.deadline, next(self._order), lease]
            heapq.heappush(self._heap, lease.entry)

    def forget(self, lease: L) -> None:
        """Watch over a lease no more. Its entry stays, empty, until its moment comes."""
        if lease.entry is not None:
            lease.entry[_LEASE] = None
            lease.entry = None

    def replace(self, old: L, new: L) -> None:
        """Watch over `new` instead of `old`, by the same entry when its moment does not come too late."""
        entry = old.entry
        if entry is None or entry[0] > new.deadline:
            self.forget(old)
            self.add(new)
        else:
            entry[_LEASE], old.entry, new.entry = new, None, entry

    def pending(self, now: float) -> bool:
        """Whether `due` has something to look at."""
        return bool(self._heap) and now >= self._held_until and self._heap[0][0] <= now

    def due(self, now: float, limit: int) -> list[L]:
        """Take out the leases that have run out by `now`, looking at no more than `limit` entries.

        Those returned are no longer watched over. Entries of leases that ended otherwise are dropped on the way.
        """
        due: list[L] = []
        if now < self._held_until:
            return due
        heap = self._heap
        for _ in range(limit):
            if not heap or heap[0][0] > now:
                break
            entry = heap[0]
            lease = entry[_LEASE]
            if lease is not None and lease.live and lease.deadline > now:
                # The same list again: new ones would be work for the garbage collector.
                entry[:2] = lease.deadline, next(self._order)
                heapq.heapreplace(heap, entry)
                continue
            heapq.heappop(heap)
            if lease is not None:
                lease.entry = None
                if lease.live:
                    due.append(lease)
        return due


class Evictions:
    """Who is without a live lease, and when they are evicted.

    All wait equally long, so they stand in the order in which it is their turn.
    """

    def __init__(self, after: float) -> None:
        """`after` is in seconds, counted from the end of a lease; `NEVER`: nobody is evicted."""
        self._after = after
        self._moments: dict[str, float] = {}

    def add(self, instance_id: str, ended: float) -> None:
        """Note that a lease ended at a moment."""
        if self._after != NEVER:
            self._moments[instance_id] = ended + self._after

    def discard(self, instance_id: str) -> None:
        """Forget an instance, for it has a lease again or is gone."""
        self._moments.pop(instance_id, None)

    def due(self, now: float, limit: int) -> list[str]:
        """Return those whose moment has come, looking at no more than `limit`; they are not forgotten."""
        return [instance_id for instance_id, moment in islice(self._moments.items(), limit) if moment <= now]

    def ended_for(self, instance_id: str, now: float) -> float:
        """Return for how many seconds a lease has been over; 0 when nobody keeps count, because nothing is evicted."""
        moment = self._moments.get(instance_id)
        return 0.0 if moment is None else now + self._after - moment
