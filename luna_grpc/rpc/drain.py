"""Long streams and their end: how many there may be, and how they learn that the server is about to go."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from luna_grpc.errors import ResourceExhaustedError, UnavailableError


class Streams:
    """The open streams of one kind."""

    def __init__(self, kind: str, limit: int) -> None:
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
        try:
            yield
        finally:
            del self._asks[ask_to_end]
            if not self._asks:
                self._empty.set()

    async def drain(self) -> None:
        """Ask every stream to end, refuse new ones, and return when all have ended."""
        self._draining = True
        for ask_to_end in list(self._asks):
            ask_to_end()
        await self._empty.wait()
