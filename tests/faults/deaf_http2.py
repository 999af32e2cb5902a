"""A peer that speaks just enough HTTP/2 to call an rpc and never take its answer: its window stays shut, its pings are answered.

No real client can be told to do this. Frames: RFC 9113, section 4.1; header fields without compression: RFC 7541, section 6.2.2.
"""

import asyncio
import struct
from contextlib import suppress

DATA, HEADERS, SETTINGS, PING = 0, 1, 4, 6
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW_SIZE = 4


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _field(name: str, value: str) -> bytes:
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


async def call(address: str, path: str) -> tuple[asyncio.Task[None], asyncio.StreamWriter]:
    """Send an empty message to an rpc; return the task that keeps the connection alive, and its end."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    fields = {
        ":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost",
        "te": "trailers", "content-type": "application/grpc",
    }  # fmt: skip
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, 0)))
    writer.write(_frame(HEADERS, END_HEADERS, 1, b"".join(_field(*field) for field in fields.items())))
    writer.write(_frame(DATA, END_STREAM, 1, bytes(5)))
    return asyncio.create_task(_answer_pings(reader, writer)), writer


async def _answer_pings(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
            kind, flags = head[3], head[4]
            if kind == PING and not flags & ACK:
                writer.write(_frame(PING, ACK, 0, payload))
            elif kind == SETTINGS and not flags & ACK:
                writer.write(_frame(SETTINGS, ACK, 0, b""))
