"""How pages are made: templates, what they load, and what browsers are allowed to do with them."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined

from gateway.answers import SAFE
from luna_grpc import __version__
from luna_grpc.access import User

_POLICY: Final = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
HEADERS: Final = {
    **SAFE,
    # Nothing but our own style sheet and icon; no script at all.
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-store",
}
SCRIPTED: Final = {**HEADERS, "Content-Security-Policy": f"{_POLICY}; script-src 'self'; connect-src 'self'"}
"""For the one page with a script, which may load that and ask us, and nobody else."""
_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR

templates: Final = Environment(
    loader=PackageLoader("gateway"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def ago(milliseconds: float) -> str:
    """Write a span of time as people say it: `3 s`, `5 min`, `2 h`, `4 days`."""
    seconds = max(0, int(milliseconds // 1000))
    if seconds < _MINUTE:
        return f"{seconds} s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE} min"
    if seconds < 2 * _DAY:
        return f"{seconds // _HOUR} h"
    return f"{seconds // _DAY} days"


def lasting(milliseconds: float) -> str:
    """Write how long something lasts, not quite as roughly as `ago`: `3 h 59 min`."""
    minutes = int(milliseconds // (1000 * _MINUTE))
    if not _MINUTE <= minutes < 7 * _DAY // _MINUTE or not minutes % _MINUTE:
        return ago(milliseconds)
    hours, minutes = divmod(minutes, _MINUTE)
    days, hours = divmod(hours, _DAY // _HOUR)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min"


def segment(text: str) -> str:
    """Write `text` as one segment of a path, slashes included; Jinja's own `urlencode` leaves those as they are."""
    return quote(text, safe="")


class _StaticFile(NamedTuple):
    """Something that pages load: kept in memory, so that no request ever touches the file system."""

    body: bytes
    content_type: str
    version: str
    """Names the content, so that browsers may keep a file for ever and still fetch it again when it has changed."""


def _static_file(name: str, content_type: str) -> _StaticFile:
    body = (Path(__file__).parent / "static" / name).read_bytes()
    return _StaticFile(body, content_type, hashlib.sha256(body).hexdigest()[:12])


_STATIC: Final = {
    "luna.css": _static_file("luna.css", "text/css"),
    "luna.svg": _static_file("luna.svg", "image/svg+xml"),
    "try.css": _static_file("try.css", "text/css"),
    "try.js": _static_file("try.js", "text/javascript"),
}


def _static_url(name: str) -> str:
    return f"/registry/v1/static/{name}?v={_STATIC[name].version}"


templates.globals["static"] = _static_url
templates.globals["luna_version"] = __version__
templates.filters["segment"] = segment


async def static_file(request: web.Request, _: User) -> web.Response:
    """Serve what pages load."""
    file = _STATIC.get(request.match_info["file"])
    if file is None:
        raise web.HTTPNotFound
    headers = {**HEADERS, "Cache-Control": "private, max-age=31536000, immutable"}
    return web.Response(body=file.body, content_type=file.content_type, headers=headers)


def page(
    template: str,
    *,
    status_code: int = 200,
    signed_in: bool = True,
    headers: Mapping[str, str] = HEADERS,
    **values: Any,  # noqa: ANN401 - whatever the template takes
) -> web.Response:
    """Make a page of a template."""
    now = datetime.now(UTC)
    html = templates.get_template(template).render(signed_in=signed_in, made=moment(now, now), **values)
    return web.Response(text=html, status=status_code, content_type="text/html", charset="utf-8", headers=headers)


def moment(moment: datetime, now: datetime) -> dict[str, str]:
    """Write a moment for a machine, for a person, and as the time since then."""
    return {
        "iso": f"{moment:%Y-%m-%dT%H:%M:%SZ}",
        "said": f"{moment:%Y-%m-%d %H:%M:%S} UTC",
        "ago": ago((now - moment).total_seconds() * 1000),
    }
