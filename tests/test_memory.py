"""The store in memory."""

import pytest

from luna_grpc.memory import MemoryStore
from store_contract import EVICT_AFTER, StoreContract
from support import FakeClock


class TestMemoryStore(StoreContract):
    """Passes the contract of every store."""

    @pytest.fixture
    def store(self, clock: FakeClock) -> MemoryStore:
        """Return an empty store."""
        return MemoryStore(clock, evict_after=EVICT_AFTER)


def test_generations_start_from_the_wall_clock() -> None:
    """So a restart never hands one out again, and JavaScript can still hold them."""
    clock = FakeClock()
    store = MemoryStore(clock)
    assert store._last_generation == clock.epoch_ms * 1000
    assert store._last_generation < 2**53


def test_each_store_has_an_epoch_of_its_own() -> None:
    """Its memory is lost with it."""
    assert MemoryStore(FakeClock()).epoch != MemoryStore(FakeClock()).epoch
