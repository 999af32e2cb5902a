"""A real Redis for tests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from support import need


@dataclass
class RedisServer:
    """A Redis of our own, on a socket in a folder; what it knows is lost when it stops."""

    folder: Path
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.folder / 'redis.sock'}"

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        self.process = await asyncio.create_subprocess_exec(
            "redis-server", "--port", "0", "--unixsocket", "redis.sock", "--save", "", "--daemonize", "no",
            cwd=self.folder, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            while b"eady to accept connections" not in (line := await self.process.stdout.readline()):
                assert line, "redis-server has ended"

    async def stop(self) -> None:
        """Kill it."""
        assert self.process is not None
        self.process.kill()
        await self.process.communicate()


@asynccontextmanager
async def redis_server(folder: Path) -> AsyncIterator[RedisServer]:
    """Run a Redis until the end of the context; without one on this machine the test is skipped, in CI it fails."""
    need("redis-server")
    server = RedisServer(folder)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
