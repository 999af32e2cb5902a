"""Which instances an operator has taken out of service, and until when.

A drain is of an id and not of a registration: neither heartbeats nor registering again end it, only its time or an operator does.
Its end is a time of the wall clock, since it is said, shown and kept as one.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from luna_grpc.errors import InvalidArgumentError, ResourceExhaustedError

DEFAULT: Final = 3600.0
"""Seconds for which an instance is drained when nobody says for how long."""
LONGEST: Final = 30 * 24 * 3600.0
"""Seconds; what is to be out of service for longer is better deregistered."""
MOST: Final = 10_000
"""Ids that may be drained at a time."""
_NEVER: Final = float("inf")


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
        self._next = min(self._ends.values(), default=_NEVER)

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
        self._next = min(self._ends.values()) if until > self._next else until

    def remove(self, instance_id: str) -> None:
        """End the drain of an id; nothing happens when there is none."""
        if self._ends.pop(instance_id, _NEVER) == self._next:
            self._next = min(self._ends.values(), default=_NEVER)

    def over(self, wall_ms: int) -> list[str]:
        """Return the ids whose drains have come to their end by a time of the wall clock; they are not removed."""
        if wall_ms < self._next:
            return []
        return [instance_id for instance_id, until in self._ends.items() if until <= wall_ms]
