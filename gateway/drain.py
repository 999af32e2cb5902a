"""Requests in flight, and how they come to an end.

aiohttp's own shutdown drops what a connection still has to read, so a request whose body was on its way would never be answered.
"""

import asyncio
from typing import Final

SETTLE: Final = 0.02
"""Seconds in which connections that were accepted just before come to their first request."""


class InFlight:
    """Counts the requests being handled: `with` around each."""

    def __init__(self) -> None:
        self.draining = False
        """While True, every connection is to be closed after its next answer."""
        self._count = 0
        self._idle = asyncio.Event()

    def __len__(self) -> int:
        return self._count

    def __enter__(self) -> None:
        self._count += 1

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if self.draining and not self._count:
            self._idle.set()

    async def drain(self) -> None:
        """Return when every request has been handled; no new connections are to be accepted meanwhile."""
        self.draining = True
        await asyncio.sleep(SETTLE)
        while self._count:
            self._idle.clear()
            await self._idle.wait()
