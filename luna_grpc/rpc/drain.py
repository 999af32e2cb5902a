"""Long streams and their end: how many there may be, and how they learn that the server, or their user, is about to go."""

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from luna_grpc.access import User
from luna_grpc.errors import LunaError, ResourceExhaustedError, UnauthenticatedError, UnavailableError
from luna_grpc.model import Actor
from luna_grpc.rpc.limits import FREE_AFTER, StreamCount

JITTER: Final = 0.1
"""By which fraction of it an age varies."""
AWAY: Final = 1
"""Seconds after which to open a stream that a server refuses because it shuts down; elsewhere."""


class Stream(Protocol):
    """A long stream, as the server sees it."""

    def end(self) -> None:
        """Say the last word soon, and return."""

    def refuse(self, error: LunaError) -> None:
        """Take nothing more from the client from now on, and raise `error`."""


class Streams:
    """The open streams of one kind; `max_age` is in seconds, 0 for ever. `count` counts those of other kinds with them.

    `setting` is the variable that sets the limit, if there is one.
    """

    def __init__(self, kind: str, limit: int, count: StreamCount, max_age: float = 0.0, *, setting: str = "") -> None:
        self.limit = limit
        """How many may be open at a time."""
        self._count = count
        self._max_age = max_age
        self._kind = kind
        self._setting = f" ({setting})" if setting else ""
        self._open: dict[Stream, Actor] = {}
        self._draining = False
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def draining(self) -> bool:
        """Whether the server has begun to end its streams."""
        return self._draining

    @contextmanager
    def opened(self, stream: Stream, actor: Actor) -> Iterator[None]:
        """Count a stream for as long as it is open.

        It is asked to end when the server stops, or when it is old; with jitter, or all that came together would leave together.

        Raises:
            ResourceExhaustedError: as many as allowed are open, of this kind, on this connection or from this address.
            UnavailableError: the server is shutting down.

        """
        if self._draining:
            raise UnavailableError("this server is shutting down; open the stream elsewhere", retry_after=AWAY)
        if len(self._open) >= self.limit:
            raise ResourceExhaustedError(
                f"{self.limit} {self._kind} are open already, the most that this server takes{self._setting}",
                retry_after=FREE_AFTER,
            )
        self._count.add(actor.peer)
        self._open[stream] = actor
        self._empty.clear()
        timer = self._call_when_old(stream.end)
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
            del self._open[stream]
            self._count.remove(actor.peer)
            if not self._open:
                self._empty.set()

    def _call_when_old(self, end: Callable[[], None]) -> asyncio.TimerHandle | None:
        if not self._max_age:
            return None
        age = self._max_age * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - nobody has to be kept from guessing it
        return asyncio.get_running_loop().call_later(age, end)

    async def drain(self) -> None:
        """Ask every stream to end, refuse new ones, and return when all have ended."""
        self._draining = True
        for stream in list(self._open):
            stream.end()
        await self._empty.wait()

    def recheck(self, is_current: Callable[[User], bool]) -> None:
        """Refuse the streams of users who have changed or are gone."""
        for stream, actor in list(self._open.items()):
            if not is_current(actor.user):
                stream.refuse(
                    UnauthenticatedError(
                        "the users of the registry have changed: open the stream again with credentials that are right now"
                    )
                )
