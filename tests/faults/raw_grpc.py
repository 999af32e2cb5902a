"""gRPC as bytes: calls whose messages and frames no client would send, over HTTP/2 that is in order (or not: see `talk`)."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from support import basic

WINDOW = 2**30
CANCEL = 8


def framed(message: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    """Put the five bytes before a message that say whether it is compressed, and how long it is."""
    return bytes([flag]) + (len(message) if length is None else length).to_bytes(4, "big") + message


def fields(path: str, *further: tuple[str, str]) -> list[tuple[str, str]]:
    """Return the header fields of a call, with credentials; further ones of the same name take their place."""
    usual = {
        ":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost",
        "te": "trailers", "content-type": "application/grpc", "authorization": basic(),
    }  # fmt: skip
    replaced = {name for name, _ in further}
    both = [*((name, value) for name, value in usual.items() if name not in replaced), *further]
    return sorted(both, key=lambda each: not each[0].startswith(":"))


@dataclass
class Outcome:
    """How a call ended."""

    status: str = ""
    """`grpc-status`; empty when there was none."""
    message: str = ""
    http: str = ""
    """`:status`."""
    reset: int | None = None
    """The code of a RST_STREAM from the server."""
    closed: bool = False
    """Whether the connection ended before the call."""
    left: bool = False
    """Whether this end left, because the answer has no end."""
    data: bytearray = field(default_factory=bytearray)


class Connection(asyncio.Protocol):
    """One HTTP/2 connection with any number of calls."""

    def __init__(self) -> None:
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False)
        )
        self._calls: dict[int, tuple[Outcome, asyncio.Event]] = {}
        self._room = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self.usable = True

    @classmethod
    async def to(cls, port: int) -> Self:
        """Connect to a server on this machine."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, with windows that are never full."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._h2.initiate_connection()
        self._h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: WINDOW})
        self._h2.increment_flow_control_window(WINDOW)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Take what comes."""
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError:
            self.close()
            return
        for event in events:
            self._take(event)
        self._room.set()
        self._flush()

    def connection_lost(self, _: Exception | None) -> None:
        """End every call."""
        self.usable = False
        self._transport = None
        self._room.set()
        for outcome, over in self._calls.values():
            outcome.closed = True
            over.set()

    async def call(self, headers: list[tuple[str, str]], body: bytes, *, patience: float, endless: bool = False) -> Outcome:
        """Make a call and return how it ends; one whose answer is `endless` is left when it was silent for `patience` seconds.

        Raises:
            TimeoutError: it did not end.

        """
        stream = self._h2.get_next_available_stream_id()
        outcome, over = self._calls[stream] = Outcome(), asyncio.Event()
        try:
            self._h2.send_headers(stream, headers)
            await self._send(stream, body)
            self._flush()
            await asyncio.wait_for(over.wait(), patience)
        except TimeoutError:
            if not endless:
                raise
            outcome.left = True
            with suppress(h2.exceptions.ProtocolError):  # it ends at this very moment
                self._h2.reset_stream(stream, CANCEL)
            self._flush()
        except h2.exceptions.ProtocolError:  # the stream or the connection was closed meanwhile
            if not over.is_set():
                outcome.closed = True
        finally:
            del self._calls[stream]
        return outcome

    async def _send(self, stream: int, body: bytes) -> None:
        at = 0
        while at < len(body):
            room = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
            if room <= 0:
                self._room.clear()
                self._flush()
                await asyncio.wait_for(self._room.wait(), 10)
                continue
            self._h2.send_data(stream, body[at : at + room])
            at += room
        self._h2.end_stream(stream)

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self.usable = False
            return
        outcome, over = self._calls.get(getattr(event, "stream_id", None) or 0, (Outcome(), asyncio.Event()))
        match event:
            case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                named = {str(name): str(value) for name, value in event.headers or ()}
                outcome.http = named.get(":status", outcome.http)
                outcome.status = named.get("grpc-status", outcome.status)
                outcome.message = named.get("grpc-message", outcome.message)
            case h2.events.DataReceived():
                outcome.data += event.data or b""
            case h2.events.StreamEnded():
                over.set()
            case h2.events.StreamReset():
                outcome.reset = event.error_code
                over.set()
            case _:
                pass

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if self._transport is not None and data:
            self._transport.write(data)

    def close(self) -> None:
        """Break the connection."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()


async def talk(port: int, data: bytes, *, patience: float) -> bytes:
    """Send bytes on a connection of their own; return what comes until the server closes it or is silent for so long."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        writer.write(data)
        with suppress(TimeoutError, ConnectionError):
            while part := await asyncio.wait_for(reader.read(65536), patience):
                received += part
    finally:
        writer.transport.abort()
    return received
