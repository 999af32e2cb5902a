"""Long streams and their end: how many there may be, and how they learn that the server is about to go."""

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from luna_grpc.errors import ResourceExhaustedError, UnavailableError

JITTER: Final = 0.1
"""By which fraction of it an age varies."""


class Streams:
    """The open streams of one kind; `max_age` is in seconds, 0 for ever."""

    def __init__(self, kind: str, limit: int, max_age: float = 0.0) -> None:
        self._max_age = max_age
        self._kind = kind
        self._limit = limit
        self._asks: dict[Callable[[], None], None] = {}
        self._draining = False
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._asks)

    @property
    def draining(self) -> bool:
        """Whether the server has begun to end its streams."""
        return self._draining

    @contextmanager
    def opened(self, ask_to_end: Callable[[], None]) -> Iterator[None]:
        """Count a stream for as long as it is open; `ask_to_end` is called when it is to say its last word and return.

        That is when the server stops, or when the stream is old; with jitter, or all that came together would leave together.

        Raises:
            ResourceExhaustedError: as many as allowed are open.
            UnavailableError: the server is shutting down.

        """
        if self._draining:
            raise UnavailableError("this server is shutting down; open the stream elsewhere")
        if len(self._asks) >= self._limit:
            raise ResourceExhaustedError(f"{self._limit} {self._kind} are open already, the most that this server takes")
        self._asks[ask_to_end] = None
        self._empty.clear()
        timer = self._call_when_old(ask_to_end)
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
            del self._asks[ask_to_end]
            if not self._asks:
                self._empty.set()

    def _call_when_old(self, ask_to_end: Callable[[], None]) -> asyncio.TimerHandle | None:
        if not self._max_age:
            return None
        age = self._max_age * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - nobody has to be kept from guessing it
        return asyncio.get_running_loop().call_later(age, ask_to_end)

    async def drain(self) -> None:
        """Ask every stream to end, refuse new ones, and return when all have ended."""
        self._draining = True
        for ask_to_end in list(self._asks):
            ask_to_end()
        await self._empty.wait()
