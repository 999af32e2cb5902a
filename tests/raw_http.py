"""HTTP/1 as bytes: for requests that no client would send, and answers that are read strictly."""

import asyncio
import re
from contextlib import suppress
from typing import NamedTuple

# aiohttp answers in the version that it was asked in, whatever that was.
_HEAD = re.compile(rb"HTTP/[0-9]\.[0-9] ([1-5][0-9]{2}) [ -~]*\r\n((?:[!-9;-~]+:[ -~\t\x80-\xff]*\r\n)*)\r\n")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})\r\n")
NO_BODY = {204, 304}


class Answer(NamedTuple):
    """One answer of a server."""

    status: int
    headers: dict[str, str]
    """By their names in small letters."""
    body: bytes


class NotHttpError(Exception):
    """What came back cannot be read as answers; this is the rest that makes no sense."""


def answers(data: bytes, *, to_head: bool = False) -> list[Answer]:
    """Read answers one after the other; the last one may be cut. `to_head`: some may be without their bodies.

    Raises:
        NotHttpError: there is something else between them.

    """
    found = []
    at = 0
    while at < len(data):
        head = _HEAD.match(data, at)
        if head is None:
            if b"\r\n\r\n" in data[at:]:
                raise NotHttpError(data[at : at + 200])
            break
        at = head.end()
        headers = dict(_field(line) for line in head[2].split(b"\r\n") if line)
        status = int(head[1])
        body = b""
        bare = to_head and (at == len(data) or data.startswith(b"HTTP/", at))
        if not bare and status not in NO_BODY and status >= 200:
            body, at = _chunked(data, at) if headers.get("transfer-encoding") == "chunked" else _sized(data, at, headers)
        found.append(Answer(status, headers, body))
    return found


def _field(line: bytes) -> tuple[str, str]:
    name, _, value = line.decode("latin-1").partition(":")
    return name.lower(), value.strip()


def _sized(data: bytes, at: int, headers: dict[str, str]) -> tuple[bytes, int]:
    end = at + int(headers["content-length"]) if "content-length" in headers else len(data)
    return data[at:end], end


def _chunked(data: bytes, at: int) -> tuple[bytes, int]:
    parts = []
    while (size := _CHUNK.match(data, at)) is not None:
        at = size.end() + int(size[1], 16)
        parts.append(data[size.end() : at])
        at += 2
        if not int(size[1], 16):
            break
    return b"".join(parts), at


async def ask(port: int, request: bytes, *, patience: float = 10.0) -> bytes:
    """Send bytes on a connection of their own and return what comes back until the server closes it.

    After `patience` seconds without a word this end stops sending, as a client does that has gone; the server has to close then.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        with suppress(ConnectionError):
            writer.write(request)
            with suppress(TimeoutError):
                while part := await asyncio.wait_for(reader.read(65536), patience):
                    received += part
                return received
            writer.write_eof()
            received += await asyncio.wait_for(reader.read(-1), 10)
    finally:
        writer.close()
    return received
