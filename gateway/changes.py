"""`/registry/v1/changes`: server-sent events that say which revision it is, and no more.

Whoever follows them, the panel's pages above all, fetches what it shows when the revision is not the one it knows. So nothing is
ever lost by saying less, and a reader costs the same however much changes: at most one event a second, and no queue.

A stream is written when its handler has returned: it is not a request in flight, which a server that stops waits for.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socket import SO_SNDBUF, SOL_SOCKET
from typing import Final

from aiohttp import hdrs, web

from gateway.answers import SAFE
from gateway.found import down
from luna_grpc.access import User
from luna_grpc.auth import Authenticator
from luna_grpc.errors import UnavailableError
from luna_grpc.events import Event
from luna_grpc.registry import Registry

PERIOD: Final = 1.0
"""Seconds between two events at the least."""
QUIET: Final = 15.0
"""Seconds without a change after which a comment shows that the stream is alive, to the reader and to what stands between."""
UNREAD: Final = 4096
"""Bytes that the system keeps for a reader, about: enough for a minute. Who takes none of them is found by `Connections`."""
SHARE: Final = 2
"""One user may have one part in so many of all streams, and `FEW` in any case: so nobody takes all of them."""
FEW: Final = 8
FREE_AFTER: Final = 5
"""Seconds after which another stream may have ended."""
AWAY: Final = 1
"""Seconds after which to ask another server, when this one shuts down."""
COMMENT: Final = b":\n\n"
BYE: Final = b"event: bye\ndata: {}\n\n"
"""The last event when the server stops."""
_HEADERS: Final = {
    **SAFE,
    hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8",
    hdrs.CACHE_CONTROL: "no-store",
    "X-Accel-Buffering": "no",  # nginx would keep events back until it has many
}


class Changes:
    """The open streams; at most `limit` at a time."""

    def __init__(self, registry: Registry, authenticator: Authenticator, limit: int) -> None:
        self.limit = limit
        self._registry = registry
        self._authenticator = authenticator
        self._open: dict[ChangeStream, User] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0.0  # when there may be another event, by the clock of the event loop
        self._closed = False
        self._written = (-1, b"")
        registry.store.feed.observe(self._changed)
        authenticator.observe(self._recheck)

    def __len__(self) -> int:
        return len(self._open)

    async def stream(self, request: web.Request, user: User) -> web.StreamResponse:
        """Begin to tell of changes; with `once` in the query, tell only which revision it is now.

        Raises:
            UnavailableError: too many do that already, or the server is shutting down.

        """
        if self._closed:
            raise UnavailableError("this server is shutting down; follow another one", retry_after=AWAY)
        if len(self._open) >= self.limit:
            raise UnavailableError(
                f"{self.limit} readers follow changes already, the most that this server takes (LUNA_MAX_CHANGE_STREAMS)",
                retry_after=FREE_AFTER,
            )
        most = max(FEW, self.limit // SHARE)
        if sum(each == user for each in self._open.values()) >= most:
            raise UnavailableError(
                f"{most} readers of the user {user.name!r} follow changes already, the most that one may have",
                retry_after=FREE_AFTER,
            )
        if request.method == hdrs.METH_HEAD or "once" in request.query:
            return web.Response(body=self.present(), headers=_HEADERS)
        return ChangeStream(self, request, user)

    def present(self) -> bytes:
        """Return the event that says which revision it is, of which feed, and how many instances are down and not drained."""
        feed = self._registry.store.feed
        if self._written[0] != feed.revision:
            data = f'{{"feed":"{feed.log_id}","revision":{feed.revision},"down":{down(self._registry)}}}'
            self._written = (feed.revision, f"id: {feed.log_id}-{feed.revision}\ndata: {data}\n\n".encode())
        return self._written[1]

    @contextmanager
    def opened(self, stream: "ChangeStream", user: User) -> Iterator[None]:
        """Tell a stream of changes for as long as it is open."""
        self._open[stream] = user
        if self._closed or not self._authenticator.is_current(user):  # since the request was looked at
            stream.end()
        try:
            yield
        finally:
            del self._open[stream]

    def close(self) -> None:
        """Let every stream end soon, whether it is read or not: its last word waits for nobody."""
        self._closed = True
        for stream in self._open:
            stream.end(BYE)

    def _changed(self, _: Event) -> None:
        """Take note of a change. Called with each of them: it is to cost next to nothing."""
        if self._open and self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(self._next, self._tell)

    def _tell(self) -> None:
        self._timer = None
        self._next = asyncio.get_running_loop().time() + PERIOD
        for stream in self._open:
            stream.wake()

    def _recheck(self) -> None:
        """End the streams of users who have changed or are gone."""
        for stream, user in self._open.items():
            if not self._authenticator.is_current(user):
                stream.end()


class ChangeStream(web.StreamResponse):
    """The stream of one reader."""

    def __init__(self, changes: Changes, request: web.Request, user: User) -> None:
        super().__init__(headers=_HEADERS)
        self.force_close()
        self._changes = changes
        self._user = user
        self._transport = request.transport
        self._wake = asyncio.Event()
        self._ended = False
        self._last = b""

    def wake(self) -> None:
        """Say which revision it is, if that has not been said yet."""
        self._wake.set()

    def end(self, last: bytes = b"") -> None:
        """Say the last word, and end."""
        self._ended, self._last = True, last
        self._wake.set()

    async def write_eof(self, data: bytes = b"") -> None:
        """Write the whole stream: aiohttp asks for the end of an answer once its headers are sent."""
        if self._transport is not None:
            self._transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_SNDBUF, UNREAD)
            with self._changes.opened(self, self._user):
                await self._follow(self._transport)
                if self._last:
                    await self.write(self._last)
        await super().write_eof(data)

    async def _follow(self, transport: asyncio.Transport) -> None:
        told, quiet = b"", False
        while not self._ended:
            # Who does not read is not told more, and `Connections` closes what stays unread.
            unread = transport.get_write_buffer_size() > 0
            if not unread and (quiet or told != self._changes.present()):
                news = self._changes.present()
                await self.write(COMMENT if told == news else news)
                told = news
            quiet = not await self._woken(PERIOD if unread else QUIET)

    async def _woken(self, within: float) -> bool:
        self._wake.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), within)
        return self._wake.is_set()
