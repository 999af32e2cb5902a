"""The store of several replicas, on a real Redis."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from luna_grpc.redis_store import RedisStore, connect
from luna_grpc.store import Swept
from store_contract import EVICT_AFTER, TTL, Recorder, StoreContract
from support import FakeClock


@pytest.fixture(scope="session")
async def redis_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Run a Redis of our own."""
    folder = tmp_path_factory.mktemp("redis")
    socket = folder / "redis.sock"
    process = await asyncio.create_subprocess_exec(
        "redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder),
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    async with asyncio.timeout(20):
        while not socket.exists():
            await asyncio.sleep(0.02)
    yield f"unix://{socket}"
    process.terminate()
    await process.wait()


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
    async def store(self, redis_url: str, clock: FakeClock) -> AsyncIterator[InFakeTime]:
        """Return an empty store."""
        client = connect(redis_url)
        await client.flushall()
        store = InFakeTime(clock, client, ttl=TTL, evict_after=EVICT_AFTER, now=lambda: clock.epoch_ms + round(store.seconds * 1000))
        del store._works["heartbeats for Redis"]  # sweeps tell it of them
        await store.start()
        yield store
        await store.close()
