"""The connections of the REST server: how many there may be, and how long each may take for what.

aiohttp closes a connection on which nothing has been asked for a while, and bounds what it keeps of a request. What it leaves open
is a client that sends its headers or its body byte by byte, or takes nothing of its answer. One look at all connections a second
finds them; a timer for each request would cost every heartbeat something.
"""

import asyncio
from collections import Counter
from http import HTTPStatus
from typing import Any, Final, NamedTuple, Self, cast

import orjson
from aiohttp import StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from gateway import errors
from gateway.answers import JSON
from luna_grpc.config import Settings
from luna_grpc.errors import LunaError, ResourceExhaustedError, UnavailableError
from luna_grpc.model import shown
from luna_grpc.throttle import home

LOOK: Final = 1.0
"""Seconds between two looks at all connections."""
SLICE: Final = 500
"""Connections looked at before others get their turn: less than 1 ms."""
MAX_HEADERS: Final = 128
"""How many headers a request may have."""
LINGER: Final = 2.0
"""Seconds in which the rest of a body that nobody wants is read, so that the client comes to read its answer."""
MAX_REFUSED: Final = 100
"""How many connections may be told at a time that there are too many; further ones are closed without a word."""
TOLD_OF: Final = 4
"""And no more than one for so many that may be open: they take files too."""
TOLD: Final = 1.0
"""Seconds that each of them has to ask, and to read the answer."""
ROOM_AFTER: Final = 2
"""Seconds after which another connection may have been closed."""


class Limits(NamedTuple):
    """See the settings of the same names; times are in seconds."""

    connections: int
    per_address: int
    header_size: int
    header_timeout: float
    body_timeout: float
    write_timeout: float

    @classmethod
    def of(cls, settings: Settings, connections: int) -> Self:
        """Return what the settings say."""
        return cls(
            connections,
            settings.max_connections_per_address,
            settings.max_header_size,
            settings.header_timeout,
            settings.body_timeout,
            settings.write_timeout,
        )


class Runner(web.AppRunner):
    """Runs an application on `Connections`. The options are those of aiohttp's RequestHandler."""

    connections: "Connections"
    """There from `setup` on."""

    def __init__(
        self,
        app: web.Application,
        limits: Limits,
        refusals: Counter[str],
        *,
        shutdown_timeout: float,
        **options: Any,  # noqa: ANN401 - aiohttp's
    ) -> None:
        super().__init__(app, handler_cancellation=True, shutdown_timeout=shutdown_timeout)
        self._limits = limits
        self._refusals = refusals
        self._options = options

    async def _make_server(self) -> web.Server:
        self.connections = Connections(await super()._make_server(), self._limits, self._refusals, self._options)
        return self.connections


class Connections(web.Server):
    """Counts connections, and looks at them."""

    def __init__(self, server: web.Server, limits: Limits, refusals: Counter[str], options: dict[str, Any]) -> None:
        """Take over what `server` was made to serve; `refusals` counts what is refused, by the code of the answer."""
        super().__init__(
            server.request_handler, request_factory=server.request_factory, handler_cancellation=server.handler_cancellation
        )
        self.limits = limits
        self.refusals = refusals
        self.told = 0
        """How many are being told that there are too many."""
        self._options = options
        self._open = 0
        self._addresses: Counter[str] = Counter()

    def __call__(self) -> web.RequestHandler:
        """Make what speaks HTTP on a connection."""
        return Connection(self, loop=self._loop, **self._options)

    def check(self, address: str) -> None:
        """Refuse a connection of an address when there are too many.

        Raises:
            ResourceExhaustedError: too many of this address.
            UnavailableError: too many in all.

        """
        most, per_address = self.limits.connections, self.limits.per_address
        if self._open >= most:
            raise UnavailableError(
                f"{most} connections are open, the most that this server takes (LUNA_MAX_CONNECTIONS): try again later, and use a "
                "connection for many requests",
                retry_after=ROOM_AFTER,
            )
        if per_address and self._addresses[home(address)] >= per_address:
            raise ResourceExhaustedError(
                f"{per_address} connections from {home(address)} are open, the most that one address may have "
                "(LUNA_MAX_CONNECTIONS_PER_ADDRESS): use a connection for many requests",
                retry_after=ROOM_AFTER,
            )

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Count one connection more."""
        super().connection_made(handler, transport)
        self._open += 1
        self._count_address(transport, +1)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Count one connection less."""
        super().connection_lost(handler, exc)
        self._open -= 1
        self._count_address(cast("asyncio.Transport", cast("Connection", handler).wire), -1)

    def _count_address(self, transport: asyncio.Transport, one: int) -> None:
        if self.limits.per_address:
            here = home(address_of(transport))
            self._addresses[here] += one
            if not self._addresses[here]:
                del self._addresses[here]

    async def look_forever(self) -> None:
        """Look at all connections once a second, until cancelled."""
        while True:
            await asyncio.sleep(LOOK)
            for number, connection in enumerate(cast("list[Connection]", self.connections)):
                connection.look(self._loop.time())
                if number % SLICE == SLICE - 1:
                    await asyncio.sleep(0)


class Connection(web.RequestHandler):
    """A connection that is looked at now and then."""

    def __init__(self, connections: Connections, **options: Any) -> None:  # noqa: ANN401 - aiohttp's
        limits = self._limits = connections.limits
        super().__init__(
            connections,
            max_line_size=limits.header_size,
            max_field_size=limits.header_size,
            max_headers=MAX_HEADERS,
            lingering_time=LINGER,
            auto_decompress=False,  # `gateway.body` does that, of what is wanted and not further than is allowed
            **options,
        )
        self._connections = connections
        self.wire: asyncio.Transport | None = None
        """From its beginning to its end; aiohttp forgets its own earlier, and then the client may still not take its answer."""
        self._made_at = 0.0
        self._header = -1  # the number of the request of which a part of the headers is there
        self._header_since = 0.0
        self._header_size = 0
        self._body: StreamReader | None = None  # one that was not complete at the last look
        self._body_since = 0.0
        self._unsent = 0  # bytes of answers at the last look
        self._unsent_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless there are too many connections."""
        wire = cast("asyncio.Transport", transport)
        try:
            self._connections.check(address_of(wire))
        except LunaError as refusal:
            _Refused(self._connections, refusal).take_over(wire)
            return
        self.wire = wire
        self._made_at = self._loop.time()
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""
        if self.wire is None:  # it was one too many, and never counted
            return
        super().connection_lost(exc)
        self.wire = None  # it may name this connection still, and a cycle is freed late, or never once it is frozen

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        before = self._request_count
        web.RequestHandler.data_received(self, data)  # faster than by super(), and each heartbeat comes by here
        if self._request_count == before:
            self._take_part(data)

    def _take_part(self, data: bytes) -> None:
        """Note what came of the headers of a request that is not complete."""
        if self._waiter is None or self._waiter.done() or not data.strip():  # it is of the body of one that is being answered
            return
        if self._header != self._request_count:
            self._header, self._header_since, self._header_size = self._request_count, self._loop.time(), 0
        self._header_size += len(data)
        if self._header_size > self._limits.header_size:
            self._refuse(431, f"the headers have more than {self._limits.header_size} bytes (LUNA_MAX_HEADER_SIZE)")

    def look(self, now: float) -> None:
        """End what takes too long."""
        if self.wire is None:
            return
        if self._is_stuck(self.wire.get_write_buffer_size(), now):
            self.wire.abort()
        elif self._current_request is not None:
            self._look_at_body(self._current_request.content, now)
        elif self._waiter is not None and not self._waiter.done():
            self._look_at_header(now)

    def _is_stuck(self, unsent: int, now: float) -> bool:
        if not unsent or unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
            return False
        return now - self._unsent_since >= self._limits.write_timeout

    def _look_at_body(self, body: StreamReader, now: float) -> None:
        if body.is_eof():
            self._body = None
        elif body is not self._body:
            self._body, self._body_since = body, now
        elif now - self._body_since >= self._limits.body_timeout:
            self._body = None
            self.close()
            body.set_exception(web.HTTPRequestTimeout())  # for the handler that reads it
            body.feed_eof()  # so that aiohttp does not wait for the rest

    def _look_at_header(self, now: float) -> None:
        timeout = self._limits.header_timeout
        if self._header == self._request_count:
            if now - self._header_since >= timeout:
                self._refuse(408, f"the headers did not come to an end within {timeout:g} s (LUNA_HEADER_TIMEOUT)")
        elif not self._request_count and now - self._made_at >= timeout:
            self.force_close()  # it asked nothing, so there is nothing to answer

    def _refuse(self, status: int, words: str) -> None:
        self._connections.refusals[errors.CODES[status]] += 1
        if self.transport is not None:
            self.transport.write(_written(status, {"error": words, "code": errors.CODES[status]}))
        self.force_close()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer what is no HTTP request. It is not logged: strangers could fill the log with it."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        status, words = self._what_is_wrong(exc)
        body = {"error": words, "code": errors.CODES.get(status, "INVALID_ARGUMENT")}
        self._connections.refusals[body["code"]] += 1
        response = web.Response(status=status, body=orjson.dumps(body) + b"\n", headers=JSON)
        response.force_close()
        return response

    def _what_is_wrong(self, error: HttpProcessingError) -> tuple[int, str]:
        if isinstance(error, LineTooLong):
            return 431, f"the request line or a header has more than {self._limits.header_size} bytes (LUNA_MAX_HEADER_SIZE)"
        if error.message == "Too many headers received":
            return 431, f"there are more than {MAX_HEADERS} headers"
        return 400, f"this is no HTTP request: {shown(error.message.partition(chr(10))[0])}"


class _Refused(asyncio.Protocol):
    """A connection too many: it is told so when it asks something, and closed soon."""

    def __init__(self, connections: Connections, refusal: LunaError) -> None:
        self._connections = connections
        self._refusal = refusal
        self._said = False

    def take_over(self, transport: asyncio.Transport) -> None:
        """Begin; what it asks comes later."""
        if self._connections.told >= min(MAX_REFUSED, 1 + self._connections.limits.connections // TOLD_OF):
            transport.abort()
            return
        self._connections.told += 1
        self._transport = transport
        self._timer = asyncio.get_running_loop().call_later(TOLD, transport.abort)
        transport.set_protocol(self)

    def data_received(self, _: bytes) -> None:
        """Answer."""
        if not self._said:
            self._said = True
            self._connections.refusals[self._refusal.code] += 1
            self._transport.write(
                _written(errors.status(self._refusal), errors.body(self._refusal), retry_after=self._refusal.retry_after)
            )

    def connection_lost(self, _: Exception | None) -> None:
        """Make room for the next."""
        self._timer.cancel()
        self._connections.told -= 1


def _written(status: int, body: dict[str, Any], retry_after: int = 0) -> bytes:
    """Write an answer, where there is no request that aiohttp could answer."""
    content = orjson.dumps(body) + b"\n"
    headers = dict(JSON) | {"Content-Length": str(len(content)), "Connection": "close"}
    if retry_after:
        headers["Retry-After"] = str(retry_after)
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def address_of(transport: asyncio.Transport) -> str:
    """Return the address at the other end."""
    return str((transport.get_extra_info("peername") or ("",))[0])
