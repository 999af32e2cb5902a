"""Long work in the one event loop that everybody shares."""

import asyncio


class OneAtATime:
    """Lets long work be done piece by piece, however many ask for it: `async with` around each piece.

    In the pause after each, in seconds, everybody else has their turn. A gRPC call takes the loop some eight rounds: with a piece
    in each of them it would wait for eight.
    """

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> None:
        await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().call_later(self._pause, self._lock.release)
