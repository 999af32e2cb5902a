"""The clock that stands still while nobody ticks."""

import pytest

from support import FakeClock


def test_a_reading_stays_near_the_last_tick(clock: FakeClock) -> None:
    """Whatever runs between a pause and the next tick sees the time before the pause; what is over a second is skipped."""
    started = clock.now()
    clock.advance(0.5)
    assert clock.now() == started + 0.5
    clock.advance(100)
    assert clock.now() == started + 1
    assert clock.since_tick() == pytest.approx(100.5)
    assert clock.tick() == pytest.approx(100.5)
    assert clock.now() == pytest.approx(started + 1)
    clock.advance(0.5)
    assert clock.now() == pytest.approx(started + 1.5)
