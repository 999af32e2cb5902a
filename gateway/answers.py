"""How answers are made that are no pages, and the headers that keep browsers safe on every answer."""

from typing import Any, Final

import orjson
from aiohttp import hdrs, web
from multidict import CIMultiDict

SAFE: Final = {
    # Whatever a browser makes of an answer, it loads nothing, runs nothing and stands in no frame.
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    # JSON with a script in it is not taken for a script or a page.
    "X-Content-Type-Options": "nosniff",
    # Links to instances do not tell them where they stood.
    "Referrer-Policy": "no-referrer",
    # No page of another origin can embed an answer as an image, a script or a style sheet.
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""On every answer; pages have a policy of their own, see `gateway.pages`."""
# Made once, for heartbeats: aiohttp copies a CIMultiDict faster than it makes one.
JSON: Final = CIMultiDict({hdrs.CONTENT_TYPE: "application/json; charset=utf-8", **SAFE})
"""The headers of JSON."""


def written_json(body: bytes, *, status: int = 200) -> web.Response:
    """Answer with JSON that is written already."""
    return web.Response(body=body + b"\n", status=status, headers=JSON)


def json_answer(data: Any, *, status: int = 200) -> web.Response:  # noqa: ANN401 - whatever orjson takes
    """Answer with JSON."""
    return written_json(orjson.dumps(data), status=status)


def text_answer(text: str, *, status: int = 200) -> web.Response:
    """Answer with plain text."""
    return web.Response(text=text, status=status, headers=SAFE)


def empty_answer(status: int, **headers: str) -> web.Response:
    """Answer with nothing but a status and headers."""
    return web.Response(status=status, headers={**SAFE, **headers})
