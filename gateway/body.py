"""Bodies that are compressed: read, but never further than a plain one might be long.

A few hundred bytes can stand for a gigabyte, and aiohttp would unpack what nobody wants, to skip it.
"""

import zlib
from typing import Final

from aiohttp import web

from luna_grpc.errors import InvalidArgumentError

_GZIP: Final = 16 + zlib.MAX_WBITS
_PLAIN_DEFLATE: Final = -zlib.MAX_WBITS


def decoded(body: bytes, encoding: str, most: int) -> bytes:
    """Return what a body says that is in a Content-Encoding.

    Raises:
        HTTPRequestEntityTooLarge: it says more than `most` bytes.
        InvalidArgumentError: it is not in that encoding, or the encoding is not known here.

    """
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return body
    if name not in {"gzip", "x-gzip", "deflate"}:
        raise InvalidArgumentError(
            f"a body in the encoding {name[:40]!a} is not read here: send it as gzip, deflate or plain", field="body"
        )
    unpacked = _unpacked(body, _GZIP if name != "deflate" else _deflate(body), most)
    if len(unpacked) > most:
        raise web.HTTPRequestEntityTooLarge(most, len(unpacked))
    return unpacked


def _deflate(body: bytes) -> int:
    """Return which of the two formats that are called deflate it is: RFC 1950 as it should be, or RFC 1951 as some send it."""
    return zlib.MAX_WBITS if body[:1] and body[0] & 0x0F == zlib.DEFLATED else _PLAIN_DEFLATE


def _unpacked(body: bytes, kind: int, most: int) -> bytes:
    unpacker = zlib.decompressobj(kind)
    try:
        unpacked = unpacker.decompress(body, most + 1)
    except zlib.error:
        unpacked = None
    if unpacked is None or (len(unpacked) <= most and not unpacker.eof):
        raise InvalidArgumentError("the body is not in the encoding that the headers name", field="body")
    return unpacked
