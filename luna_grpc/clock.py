"""Time, as the domain is given it.

Leases are measured on a monotonic clock, so a jump of the wall clock cannot end them. `last_heartbeat` and the like are wall
times, only ever shown. Whoever drives the registry calls `tick()` regularly; between two ticks the monotonic reading advances by
at most one second. So whatever runs after a pause of the process but before the next tick still sees the time before the pause,
and that tick learns how long the pause was.
"""

import time
from collections.abc import Callable
from typing import Final

MAX_ADVANCE: Final = 1.0
"""How far, in seconds, a reading may run ahead of the last tick."""


class Clock:
    """A monotonic clock that cannot run away from its ticks, and a wall clock."""

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._monotonic = monotonic
        self._wall_ns = wall_ns
        self._last_tick = monotonic()

    def now(self) -> float:
        """Return monotonic seconds, at most `MAX_ADVANCE` after the last tick."""
        return min(self._monotonic(), self._last_tick + MAX_ADVANCE)

    def wall_ms(self) -> int:
        """Return milliseconds since the epoch."""
        return self._wall_ns() // 1_000_000

    def tick(self) -> float:
        """Let time catch up; return the seconds since the last tick."""
        now = self._monotonic()
        gap = now - self._last_tick
        self._last_tick = now
        return gap
