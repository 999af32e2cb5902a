"""Long lists: written in slices, and never so many at once that everything else waits for them.

Who is in a list is noted at one moment, and what is said of each service is noted when its turn comes, so a service never
contradicts itself: noting everything of 100,000 instances at once would hold everyone for 40 ms, noting who there is takes 6 ms.

Whoever asks for one thing has its answer in microseconds; a list takes milliseconds. So all lists and pages take turns, slice by
slice: however many are asked for, a heartbeat waits for one slice.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator
from typing import Any, Final, TypeAlias, TypeVar
from weakref import finalize

from aiohttp import HttpVersion11, web
from multidict import CIMultiDict

from gateway import views
from luna_grpc.access import User
from luna_grpc.errors import UnavailableError
from luna_grpc.pacing import OneAtATime
from luna_grpc.registry import Registry
from luna_grpc.store import Registration, Service

SLICE: Final = 250
"""Instances written before others get their turn: some 1 ms."""
AT_A_TIME: Final = 4
"""Lists that are searched and sorted at the same time; others wait."""
SENT_AFTER: Final = 1
"""Seconds after which other lists may have been sent."""

T = TypeVar("T")
Handler: TypeAlias = Callable[[web.Request, User], Awaitable[web.Response]]
Body: TypeAlias = bytes | AsyncIterator[bytes]
Noted: TypeAlias = tuple[str, list[Registration]]
"""A service and who was in it at one moment."""


class Lists:
    """Writes lists. All that are being sent have at most `most` instances, but for a single one."""

    def __init__(self, registry: Registry, most: int) -> None:
        self._registry = registry
        self._most = most
        self._sending = 0  # instances in the lists that are being sent
        self._turn = OneAtATime()
        self.searching = asyncio.Semaphore(AT_A_TIME)
        """Held while a list is searched and sorted: each keeps all that it has found."""

    async def done(self, work: Generator[None, None, T]) -> T:
        """Do long work, which yields when others are to have their turns, and return what it returns."""
        while True:
            async with self._turn:
                try:
                    next(work)
                except StopIteration as end:
                    result: T = end.value
                    return result

    async def page(self, make: Callable[..., Generator[None, None, web.Response]], *values: Any) -> web.Response:  # noqa: ANN401 - whatever it takes
        """Make a page of what was found, when it is its turn."""
        async with self._turn:
            work = make(*values)
        return await self.done(work)

    async def services(self) -> Body:
        """Return an array of all services that there are at this moment; in parts, when it is long.

        Raises:
            UnavailableError: lists of too many instances are being sent.

        """
        async with self._turn:
            return self.body(self._registry.store.count(), self._slices)

    async def service(self, name: str) -> Body:
        """Return one service; in parts, when it is long.

        Raises:
            NotFoundError: no instance has this name.
            UnavailableError: lists of too many instances are being sent.

        """
        async with self._turn:
            registrations = self._registry.service(name).registrations
            return self.body(len(registrations), lambda: _line(name, list(registrations)))

    def body(self, count: int, slices: Callable[[], Iterator[bytes]]) -> Body:
        """Return what is written in slices; `count` is how many instances they hold.

        Raises:
            UnavailableError: lists of too many instances are being sent.

        """
        if count <= SLICE:
            return b"".join(slices())
        if self._sending and self._sending + count > self._most:
            raise UnavailableError(
                f"lists of {self._sending} instances are being sent, and {self._most} are the most (LUNA_MAX_LISTED): try "
                "again in a second",
                retry_after=SENT_AFTER,
            )
        parts = self._in_turns(slices())
        self._sending += count
        finalize(parts, self._sent, count).atexit = False  # also when nobody takes them to the end
        return parts

    def _slices(self) -> Iterator[bytes]:
        return _array([(service.name, list(service.registrations)) for service in self._registry.services()])

    def _sent(self, count: int) -> None:
        self._sending -= count

    async def _in_turns(self, slices: Iterator[bytes]) -> AsyncIterator[bytes]:
        more = True
        while more:
            async with self._turn:
                part = next(slices, None)
            more = part is not None
            if part:
                yield part


def sent(request: web.Request, body: Body, headers: CIMultiDict[str]) -> web.Response:
    """Answer with a list."""
    response = web.Response(body=body, headers=headers)
    if request.version < HttpVersion11 and not isinstance(body, bytes):
        # Only the end of the connection tells it that the list is over.
        response.force_close()
    return response


def _array(services: Iterable[Noted]) -> Iterator[bytes]:
    """Write services, some `SLICE` instances at a time."""
    before, parts, unsent = b"[", list[bytes](), 0
    for name, registrations in services:
        parts.append(before)
        before = b","
        for part in _written(name, registrations):
            parts.append(part)
            unsent += min(SLICE, len(registrations))
            if unsent >= SLICE:
                yield b"".join(parts)
                parts, unsent = [], 0
    yield b"".join(parts) + (b"]\n" if before == b"," else b"[]\n")


def _line(name: str, registrations: list[Registration]) -> Iterator[bytes]:
    """Write one service by itself."""
    yield from _written(name, registrations)
    yield b"\n"


def _written(name: str, registrations: list[Registration]) -> Iterator[bytes]:
    """Write a service, `SLICE` instances at a time."""
    moments = [(each.instance, each.last_heartbeat) for each in registrations]
    before = views.opening(Service(name, registrations, sum(instance.up for instance, _ in moments)))
    for start in range(0, len(moments), SLICE):
        written = b",".join([views.instance(*moment) for moment in moments[start : start + SLICE]])
        yield before + written + (b"," if start + SLICE < len(moments) else views.CLOSING)
        before = b""
