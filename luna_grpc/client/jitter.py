"""How long to wait before another try."""

from random import Random
from typing import Final

FIRST: Final = 0.25
"""The most seconds before the first try after a failure; they double with each."""


def full_jitter(random: Random, attempts: int, most: float) -> float:
    """Return seconds after so many tries that failed: anything up to a bound, so that those who failed together spread."""
    return random.uniform(0, min(most, FIRST * 2.0 ** min(attempts, 20)))
