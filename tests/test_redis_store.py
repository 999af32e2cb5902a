"""The store of several replicas, on a real Redis."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from luna_grpc.capacity import Capacity
from luna_grpc.errors import ResourceExhaustedError, UnavailableError
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
        store = InFakeTime(clock, link, ttl=0, evict_after=EVICT_AFTER)
        store._works.remove(store._tick)  # sweeps tell Redis of heartbeats
        await store.start()
        yield store
        await store.close()


async def test_a_redis_that_comes_back_older_is_found_out(redis: RedisServer, clock: FakeClock) -> None:
    """Even if so much has changed since that its revision is not lower; what it knows counts, and calls end."""
    async with Redis.from_url(redis.url) as client:
        await client.flushall()
        store = RedisStore(clock, Link(redis.url, "luna"), ttl=TTL, evict_after=EVICT_AFTER)
        await store.start()
        helper = StoreContract()
        for number in range(1, 4):
            await helper.register(store, f"old:h:{number}")
        await client.hset("{luna}:meta", "revision", "1")
        await client.hdel("{luna}:instances", "old:h:2", "old:h:3")
        await client.delete("{luna}:changes")
        with pytest.raises(UnavailableError):
            await helper.register(store, "new:h:1")
        async with asyncio.timeout(20):
            while store.get("old:h:2") is not None:  # noqa: ASYNC110 - it is read anew as soon as possible
                await asyncio.sleep(0.01)
        await helper.register(store, "new:h:1")
        assert [service.name for service in store.services()] == ["new", "old"]
        await store.close()


async def test_as_many_changes_at_once_as_anyone_likes(redis: RedisServer, clock: FakeClock) -> None:
    """They wait for a connection, and the limit of a service holds."""
    async with Redis.from_url(redis.url) as client:
        await client.flushall()
    store = RedisStore(clock, Link(redis.url, "luna"), ttl=TTL, evict_after=EVICT_AFTER, capacity=Capacity(per_service=150))
    await store.start()
    helper = StoreContract()
    outcomes = await asyncio.gather(*(helper.register(store, f"a:h:{n}") for n in range(1, 301)), return_exceptions=True)
    assert sum(isinstance(each, ResourceExhaustedError) for each in outcomes) == 150
    assert (store.count(), store.stale_since) == (150, None)
    await store.close()
