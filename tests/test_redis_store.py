"""The store of several replicas, on a real Redis."""

from collections.abc import AsyncIterator

import pytest

from luna_grpc.redis_store import RedisStore, connect
from luna_grpc.store import Swept
from redises import RedisServer, redis_server
from store_contract import EVICT_AFTER, TTL, StoreContract
from support import FakeClock


@pytest.fixture(scope="module")
async def redis(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServer]:
    """Run a Redis of our own."""
    async with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


class InFakeTime(RedisStore):
    """A store to which the test tells the time: with the terms of each heartbeat, which last a TTL, and with each sweep."""

    seconds = 0.0
    until = 0.0

    def _left(self, deadline: float) -> int:
        self.seconds = max(self.seconds, deadline - TTL)
        return round((deadline - self.seconds) * 1000)

    async def tell(self) -> None:
        """Tell of heartbeats, at the time of the latest."""
        for registration in self._renewed:
            self._left(registration.deadline)
        await super().tell()

    def hold(self, until: float) -> None:
        """Note until when."""
        self.until = until

    async def sweep(self, now: float, limit: int) -> Swept:
        """Tell of heartbeats, and look whether something has run out by now."""
        await self.tell()
        await self._ask("hold", round((self.until - self.seconds) * 1000))
        self.seconds = now
        await self.look(limit)
        return await super().sweep(now, limit)


class TestRedisStore(StoreContract):
    """Passes the contract of every store."""

    @pytest.fixture
    async def store(self, redis: RedisServer, clock: FakeClock) -> AsyncIterator[InFakeTime]:
        """Return an empty store."""
        client = connect(redis.url)
        await client.flushall()
        store = InFakeTime(
            clock, client, ttl=TTL, evict_after=EVICT_AFTER, now=lambda: clock.epoch_ms + round(store.seconds * 1000)
        )
        del store._works["heartbeats for Redis"]  # sweeps tell it of them
        await store.start()
        yield store
        await store.close()
