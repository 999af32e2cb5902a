"""A gRPC client that does what no library would: it never takes an answer, ends streams in every way, and breaks connections.

It answers pings, as whoever is alive does.
"""

import asyncio
import socket
import struct
from typing import Any, Self

import h2.config
import h2.connection
import h2.events
import h2.settings
from raw_grpc import fields, framed

DEFAULT_WINDOW = 65_535
"""Bytes that a stream, and a connection, may send to whoever has said nothing about it."""
CANCEL = 8


class Peer(asyncio.Protocol):
    """One connection with any number of streams. It takes what the first windows allow; more only when `reading`."""

    def __init__(self, window: int, *, reading: bool) -> None:
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._window = window
        self._reading = reading
        self._transport: asyncio.Transport | None = None
        self._half_closed: set[int] = set()
        self.answered: set[int] = set()
        """Streams on which an answer has come."""
        self.ended: dict[int, str] = {}
        """The status of each stream that has ended; empty when it was reset."""
        self.closed = asyncio.Event()
        """Set once the connection is over."""

    @classmethod
    async def to(cls, address: str, *, window: int = DEFAULT_WINDOW, reading: bool = False) -> Self:
        """Connect to a server."""
        host, _, port = address.rpartition(":")
        _, peer = await asyncio.get_running_loop().create_connection(lambda: cls(window, reading=reading), host, int(port))
        return peer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._h2.initiate_connection()
        self._h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: self._window})
        self.flush()

    def open(self, path: str, message: bytes | None = None, *, credentials: bool = True, half_close: bool = False) -> int:
        """Begin a call, with its first message if there is one. Nothing goes out before `flush`."""
        stream = self._h2.get_next_available_stream_id()
        self._h2.send_headers(stream, [field for field in fields(path) if credentials or field[0] != "authorization"])
        if message is not None:
            self._h2.send_data(stream, framed(message), end_stream=half_close)
        if half_close:
            self._half_closed.add(stream)
        return stream

    def half_close(self, stream: int) -> None:
        """Say that no more messages come, unless that is clear already."""
        if stream not in self._half_closed | self.ended.keys():
            self._h2.end_stream(stream)

    def is_over(self, stream: int) -> bool:
        """Whether the server has ended a stream."""
        return stream in self.ended

    def cancel(self, stream: int) -> None:
        """Reset a stream."""
        if stream not in self.ended:
            self._h2.reset_stream(stream, CANCEL)

    def flush(self) -> None:
        """Send what there is to send."""
        data = self._h2.data_to_send()
        if self._transport is not None and data:
            self._transport.write(data)

    def abort(self) -> None:
        """Break the connection, as the kernel does for a process that has crashed: the server gets a RST."""
        if self._transport is not None:
            raw: socket.socket = self._transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    def close(self) -> None:
        """Say goodbye and close the connection, whatever goes on on it."""
        self._h2.close_connection()
        self.flush()
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Take what comes."""
        for event in self._h2.receive_data(data):
            self._take(event)
        self.flush()

    def connection_lost(self, _: Exception | None) -> None:
        """Send no more."""
        self._transport = None
        self.closed.set()

    def _take(self, event: Any) -> None:
        match event:
            case h2.events.DataReceived():
                self.answered.add(event.stream_id)
                if self._reading:
                    self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.TrailersReceived() | h2.events.ResponseReceived():
                status = {str(name): str(value) for name, value in event.headers}.get("grpc-status")
                if status is not None:
                    self.ended[event.stream_id] = status
            case h2.events.StreamReset():
                self.ended.setdefault(event.stream_id, "")
            case _:
                pass
