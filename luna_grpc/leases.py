"""When leases run out: a queue of deadlines that renewing does not touch.

Renewing only moves the deadline that the lease carries itself. The queue finds out when the moment first written down for a lease
has come: a lease renewed since then is put back at its new deadline, the others are due. So each lease has at most one entry, a
renewal costs nothing here, and finding what is due costs one entry a lease in each TTL.

No clock is read here and nothing is declared: `due` says what has run out by the time it is given.
"""

import heapq
from itertools import count
from typing import Generic, Protocol, TypeVar


class Leased(Protocol):
    """Something that lives until its deadline unless renewed."""

    deadline: float
    """Monotonic seconds, absolute. Never moved backwards while the lease is live."""
    live: bool
    """False once the lease has ended, whatever ended it."""
    queued: bool
    """Whether a queue holds an entry for it; only the queue writes this."""


L = TypeVar("L", bound=Leased)


class LeaseQueue(Generic[L]):
    """The deadlines of all live leases, soonest first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, L]] = []
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
        if not lease.queued:
            lease.queued = True
            heapq.heappush(self._heap, (lease.deadline, next(self._order), lease))

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
            lease = heap[0][2]
            if lease.live and lease.deadline > now:
                heapq.heapreplace(heap, (lease.deadline, next(self._order), lease))
                continue
            heapq.heappop(heap)
            lease.queued = False
            if lease.live:
                due.append(lease)
        return due
