"""Time, as the domain is given it: the time in which the registry was listening.

Leases are measured on a monotonic clock, so a jump of the wall clock cannot end them. `last_heartbeat` and the like are wall
times, only ever shown. Whoever drives the registry calls `tick()` regularly; between two ticks the monotonic reading advances by
at most one second, and what was missed is skipped for good. So a pause of the process moves every deadline with it, whatever runs
between waking up and the next tick sees the time before the pause, and that tick learns how long the pause was.
"""

import time
from collections.abc import Callable
from typing import Final

MAX_ADVANCE: Final = 1.0
"""How far, in seconds, a reading may run ahead of the last tick."""


class Clock:
    """A monotonic clock that stands still while nobody ticks, and a wall clock."""

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._monotonic = monotonic
        self._wall_ns = wall_ns
        self._last_tick = monotonic()
        self._skipped = 0.0

    def now(self) -> float:
        """Return monotonic seconds, without those in which nobody ticked."""
        reading, most = self._monotonic(), self._last_tick + MAX_ADVANCE
        return (reading if reading < most else most) - self._skipped  # noqa: FURB136 - min() takes longer, and each heartbeat asks

    def wall_ms(self) -> int:
        """Return milliseconds since the epoch."""
        return self._wall_ns() // 1_000_000

    def since_tick(self) -> float:
        """Return the seconds since the last tick."""
        return self._monotonic() - self._last_tick

    def tick(self) -> float:
        """Let time go on; return the seconds since the last tick."""
        now = self._monotonic()
        gap = now - self._last_tick
        self._last_tick = now
        self._skipped += max(0.0, gap - MAX_ADVANCE)
        return gap
