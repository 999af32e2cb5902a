"""Requests in flight, and how they come to an end.

aiohttp's own shutdown drops what a connection still has to read, so a request whose body was on its way would never be answered.
"""

import asyncio
from typing import Final

SETTLE: Final = 0.02
"""Seconds in which connections that were accepted just before come to their first request."""


class InFlight:
    """Counts the requests being handled."""

    def __init__(self) -> None:
        self.draining = False
        """While True, every connection is to be closed after its next answer."""
        self.count = 0
        """To be raised by one when a request begins; see `ended`."""
        self._idle = asyncio.Event()

    def __len__(self) -> int:
        return self.count

    def ended(self) -> None:
        """Count one request less."""
        self.count -= 1
        if self.draining and not self.count:
            self._idle.set()

    async def drain(self) -> None:
        """Return when every request has been handled; no new connections are to be accepted meanwhile."""
        self.draining = True
        await asyncio.sleep(SETTLE)
        while self.count:
            self._idle.clear()
            await self._idle.wait()
