"""Long work in the one event loop that everybody shares."""

import asyncio
from typing import Final

PAUSE: Final = 0.002
"""Seconds between two pieces of work, when more than one client wants some done. A piece takes about as long."""


class OneAtATime:
    """Lets long work be done piece by piece, however many ask for it: `async with` around each piece.

    In the pauses everybody else has their turn. A gRPC call takes the loop some eight rounds: with a piece of work in each of them
    it would wait for eight.
    """

    def __init__(self) -> None:
        self._asking = 0
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> None:
        self._asking += 1
        try:
            await self._lock.acquire()
        finally:
            self._asking -= 1

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().call_later(PAUSE if self._asking else 0, self._lock.release)
