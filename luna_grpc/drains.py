"""Which instances an operator has taken out of service, and until when.

A drain is of an id and not of a registration: neither heartbeats nor registering again end it, only its time or an operator does.
Its end is a time of the wall clock, since it is said, shown and kept as one.
"""

import heapq
from collections.abc import Iterator, Mapping
from typing import Final

from luna_grpc.errors import InvalidArgumentError, ResourceExhaustedError

DEFAULT: Final = 3600.0
"""Seconds for which an instance is drained when nobody says for how long."""
LONGEST: Final = 30 * 24 * 3600.0
"""Seconds; what is to be out of service for longer is better deregistered."""
MOST: Final = 10_000
"""Ids that may be drained at a time."""
SPARE: Final = 64
"""How many ends that are not true any more are kept in any case."""


def checked(seconds: float) -> float:
    """Return for how long to drain, in seconds.

    Raises:
        InvalidArgumentError: a drain may not last so long.

    """
    if not 1 <= seconds <= LONGEST:
        raise InvalidArgumentError(
            f"duration is {seconds:g} s; a drain lasts at least 1 s and at most {LONGEST:.0f} s (30 days)", field="duration"
        )
    return seconds


class Drains(Mapping[str, int]):
    """The ids that are drained, each with the end of that in milliseconds since the epoch."""

    def __init__(self, ends: Mapping[str, int] | None = None) -> None:
        self._ends = dict(ends or {})
        # Soonest first. Some are not true any more: those whose id has another end now, or none.
        self._queue: list[tuple[int, str]] = []
        self._sort()

    def __getitem__(self, instance_id: str) -> int:
        """Return when the drain of an id ends."""
        return self._ends[instance_id]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids."""
        return iter(self._ends)

    def __len__(self) -> int:
        """Return how many ids are drained."""
        return len(self._ends)

    def check_room(self, instance_id: str) -> None:
        """Refuse one more than there may be.

        Raises:
            ResourceExhaustedError: so many are drained already.

        """
        if len(self._ends) >= MOST and instance_id not in self._ends:
            raise ResourceExhaustedError(f"{MOST} instances are drained, the most that there may be at a time: undrain some")

    def add(self, instance_id: str, until: int) -> None:
        """Drain an id; one that is drained gets another end."""
        self._ends[instance_id] = until
        heapq.heappush(self._queue, (until, instance_id))
        if len(self._queue) > 2 * len(self._ends) + SPARE:
            self._sort()

    def remove(self, instance_id: str) -> None:
        """End the drain of an id; nothing happens when there is none."""
        self._ends.pop(instance_id, None)

    def over(self, wall_ms: int, limit: int) -> list[str]:
        """Remove and return the ids whose drains have ended by a time of the wall clock, `limit` at most."""
        over: list[str] = []
        while self._queue and self._queue[0][0] <= wall_ms and len(over) < limit:
            until, instance_id = heapq.heappop(self._queue)
            if self._ends.get(instance_id) == until:
                del self._ends[instance_id]
                over.append(instance_id)
        return over

    def _sort(self) -> None:
        self._queue = [(until, instance_id) for instance_id, until in self._ends.items()]
        heapq.heapify(self._queue)
