"""A small HTTP/2 client for gRPC, for what h2load cannot do: many streams that stay open, and calls that are not all alike.

It knows no more of HTTP/2 (RFC 9113) than a gRPC server makes it: its windows are as large as they can be, it sends little, and it
does not compress headers. A message costs it some 10 us, so one process can wait for thousands of streams.
"""

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from bench.load import AUTHORIZATION, LoadError, framed

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INITIAL_WINDOW_SIZE: Final = 4
LARGEST_WINDOW: Final = 2**31 - 1
FRAME: Final = struct.Struct(">BHBBI")
"""Its length in two parts, its type, its flags, its stream."""

OnMessage = Callable[[int, bytes], None]
"""Is given the stream and the message; it must be quick."""


class Connection(asyncio.Protocol):
    """A connection, and the streams on it."""

    def __init__(self, on_message: OnMessage) -> None:
        self.on_message = on_message
        self._transport: asyncio.Transport | None = None
        self._in = bytearray()
        self._out: list[bytes] = []
        self._parts: dict[int, bytearray] = {}  # messages that have begun to come
        self._last_stream = -1
        self._taken = 0  # bytes of data since the connection's window was opened
        self.ended = 0
        """Streams that the server has ended."""
        self.broken = ""
        """Why the server gave up, when it did."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._out.append(PREFACE)
        self._frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, LARGEST_WINDOW))
        self._open_window(LARGEST_WINDOW - 65_535)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Remember why."""
        self.broken = self.broken or str(exc or "closed")
        self._transport = None

    def open(self, rpc: str, message: bytes | None = None, *, end: bool = False) -> int:
        """Begin a call, with its first message if there is one, and return its stream. Nothing goes out before `flush`."""
        self._last_stream += 2
        headers = ((":method", "POST"), (":scheme", "http"), (":path", rpc), (":authority", "localhost"), ("te", "trailers"),
                   ("content-type", "application/grpc"), ("authorization", AUTHORIZATION))  # fmt: skip
        block = b"".join(b"\0" + _text(name) + _text(value) for name, value in headers)
        self._frame(HEADERS, END_HEADERS, self._last_stream, block)
        if message is not None:
            self.send(self._last_stream, message, end=end)
        return self._last_stream

    def send(self, stream: int, message: bytes, *, end: bool = False) -> None:
        """Send a message; nothing goes out before `flush`."""
        self._frame(DATA, END_STREAM if end else 0, stream, framed((message,)))

    def flush(self) -> None:
        """Write what has been said since the last time."""
        if self._out:
            if self._transport is None:
                raise LoadError(f"the connection broke: {self.broken}")
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def close(self) -> None:
        """Break the connection."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take frames."""
        buffer = self._in
        buffer += data
        at = 0
        while len(buffer) - at >= FRAME.size:
            high, low, kind, flags, stream = FRAME.unpack_from(buffer, at)
            end = at + FRAME.size + (high << 16 | low)
            if end > len(buffer):
                break
            self._take(kind, flags, stream, bytes(buffer[at + FRAME.size : end]))
            at = end
        del buffer[:at]
        self.flush()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            self._take_data(stream, payload)
        elif kind == HEADERS and flags & END_STREAM:
            self.ended += 1
            self._parts.pop(stream, None)
        elif kind == SETTINGS and not flags & ACK:
            self._frame(SETTINGS, ACK, 0, b"")
        elif kind == PING and not flags & ACK:
            self._frame(PING, ACK, 0, payload)
        elif kind in (RESET, GOAWAY):
            self.broken = f"frame {kind} for stream {stream}: {payload!r}"

    def _take_data(self, stream: int, payload: bytes) -> None:
        self._taken += len(payload)
        if self._taken > LARGEST_WINDOW // 2:
            self._open_window(self._taken)
            self._taken = 0
        begun = self._parts.pop(stream, None)
        if begun is not None:
            begun += payload
            payload = bytes(begun)
        at = 0
        while len(payload) - at >= 5:
            end = at + 5 + int.from_bytes(payload[at + 1 : at + 5], "big")
            if end > len(payload):
                break
            self.on_message(stream, payload[at + 5 : end])
            at = end
        if at < len(payload):
            self._parts[stream] = bytearray(payload[at:])

    def _open_window(self, size: int) -> None:
        self._frame(WINDOW_UPDATE, 0, 0, size.to_bytes(4, "big"))

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self._out.append(FRAME.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload)


def _text(text: str) -> bytes:
    """Encode a header's name or value, shorter than 127 bytes, without compression (RFC 7541, 5.2)."""
    return bytes([len(text)]) + text.encode()


async def connect(port: int, on_message: OnMessage) -> Connection:
    """Connect to a server on this machine."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(on_message), "127.0.0.1", port)
    return connection


def _ignore(_: int, __: bytes) -> None:
    """Take no notice of a message."""


async def until(done: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Wait for something.

    Raises:
        LoadError: it did not come about.

    """
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise LoadError(f"timed out: {what}")
        await asyncio.sleep(0.001)


@asynccontextmanager
async def not_the_bottleneck() -> AsyncIterator[None]:
    """Check that this process, which makes the load meanwhile, could have made more.

    Raises:
        LoadError: it was busy all the time.

    """
    began, used = time.monotonic(), time.process_time()
    yield
    share = (time.process_time() - used) / (time.monotonic() - began)
    if share > 0.95:
        raise LoadError(f"the load generator was busy for {share:.0%} of the time")


async def calls(port: int, rpc: str, requests: list[bytes], *, count: int, concurrent: int, connections: int = 4) -> float:
    """Make unary calls, so many at a time, with the requests in turn; return the calls a second.

    Raises:
        LoadError: a call was not answered, or this client is too slow.

    """
    answered = begun = 0
    done = asyncio.Event()
    lines: list[Connection] = []

    def on_message(line: Connection) -> OnMessage:
        def take(_: int, __: bytes) -> None:
            nonlocal answered
            answered += 1
            if begun < count:
                begin(line)
            elif answered == count:
                done.set()

        return take

    def begin(line: Connection) -> None:
        nonlocal begun
        line.open(rpc, requests[begun % len(requests)], end=True)
        begun += 1

    for _ in range(connections):
        line = await connect(port, _ignore)
        line.on_message = on_message(line)
        lines.append(line)
    async with not_the_bottleneck():
        started = time.monotonic()
        for n in range(concurrent):
            begin(lines[n % connections])
        for line in lines:
            line.flush()
        async with asyncio.timeout(120):
            await done.wait()
        took = time.monotonic() - started
    for line in lines:
        line.close()
    return count / took


async def turns(port: int, rpc: str, messages: list[bytes], seconds: float, *, connections: int = 10) -> float:
    """Open a stream for each message, and send it again whenever it has been answered; return the answers a second.

    Raises:
        LoadError: this client is too slow.

    """
    answered = 0
    lines: list[Connection] = []

    def on_message(line: Connection, own: dict[int, bytes]) -> OnMessage:
        def take(stream: int, _: bytes) -> None:
            nonlocal answered
            answered += 1
            line.send(stream, own[stream])

        return take

    for n in range(connections):
        line = await connect(port, _ignore)
        own: dict[int, bytes] = {}
        line.on_message = on_message(line, own)
        for message in messages[n::connections]:
            own[line.open(rpc, message)] = message
        lines.append(line)
    for line in lines:
        line.flush()
    await until(lambda: answered > len(messages), "the first answers")
    async with not_the_bottleneck():
        before, started = answered, time.monotonic()
        await asyncio.sleep(seconds)
        rate = (answered - before) / (time.monotonic() - started)
    for line in lines:
        line.close()
    return rate
