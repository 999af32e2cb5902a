"""How often something took how long, counted where it happens; `luna_grpc.metrics` shows it."""

from bisect import bisect_left
from typing import Final

BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds."""


class Histogram:
    """Spans of time since the start, each counted at the smallest of `BOUNDS` that it does not exceed."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        """One for each of `BOUNDS`, and one for what is longer."""
        self.sum = 0.0
        """Seconds, of all together."""

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds
