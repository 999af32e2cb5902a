"""The store of several replicas, on a real Redis."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from luna_grpc.redis_link import Link
from luna_grpc.redis_store import RedisStore
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
        async with Redis.from_url(redis.url) as client:
            await client.flushall()
        link = Link(redis.url, "luna", now=lambda: clock.epoch_ms + round(store.seconds * 1000))
        store = InFakeTime(clock, link, ttl=TTL, evict_after=EVICT_AFTER)
        store._works.remove(store._tick)  # sweeps tell Redis of heartbeats
        await store.start()
        yield store
        await store.close()
