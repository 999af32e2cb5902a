"""How pages are made: templates, what they load, and what browsers are allowed to do with them."""

import hashlib
import re
import time
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined

from gateway.answers import SAFE
from luna_grpc import __version__
from luna_grpc.access import User
from luna_grpc.pacing import worked

_POLICY: Final = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
HEADERS: Final = {
    **SAFE,
    # Nothing but our own style sheet and icon; no script at all.
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-store",
}
SCRIPTED: Final = {**HEADERS, "Content-Security-Policy": f"{_POLICY}; script-src 'self'; connect-src 'self'; worker-src 'self'"}
"""For pages with scripts, and for scripts: they may load what is ours and ask us, and nobody else."""
MOST_SHOWN: Final = 9
"""The icon of a page shows how many instances are down, up to this number."""
_FOLDER: Final = Path(__file__).parent / "static"
_SCRIPT: Final = "text/javascript"
_IMAGE: Final = "image/svg+xml"
_IMPORT: Final = re.compile(r'"\./([a-z.]+\.js)"')
_PARTS: Final = 150
"""Of a page, written before others get their turns: less than 1 ms."""
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


def _made(body: bytes, content_type: str) -> _StaticFile:
    return _StaticFile(body, content_type, hashlib.sha256(body).hexdigest()[:12])


def _static_file(name: str, content_type: str) -> _StaticFile:
    return _made((_FOLDER / name).read_bytes(), content_type)


def _script(path: str) -> _StaticFile:
    """Read a script. Those that it names have to be known: it is to name the version that it was written for."""
    body = _IMPORT.sub(lambda found: f'"./{found[1]}?v={_STATIC[found[1]].version}"', (_FOLDER / path).read_text())
    return _made(body.encode(), _SCRIPT)


def _icon(down: str) -> _StaticFile:
    """Return the icon with a number on it."""
    number = f"""  <circle cx="20.5" cy="20.5" r="11.5" fill="#b3202e" stroke="#fff"/>
  <text x="20.5" y="26.5" fill="#fff" font-family="sans-serif" font-size="17" font-weight="700" text-anchor="middle">{down}</text>
</svg>"""
    svg = (_FOLDER / "luna.svg").read_text()
    return _made(svg.replace("<title>Luna<", f"<title>Luna: {down} down<").replace("</svg>", number).encode(), _IMAGE)


_STATIC: Final = {
    "luna.css": _static_file("luna.css", "text/css"),
    "luna.svg": _static_file("luna.svg", _IMAGE),
    "try.css": _static_file("try.css", "text/css"),
    **{f"down-{number}.svg": _icon(str(number)) for number in range(1, MOST_SHOWN + 1)},
    "down-more.svg": _icon(f"{MOST_SHOWN}+"),
}
for _path in (
    "try.js",
    "theme.js",
    "keys.js",
    "vendor/idiomorph.esm.js",
    "morph.js",
    "refresh.js",
    "search.js",
    "stream.js",
    "worker.js",
    "follow.js",
    "live.js",
):
    _STATIC[_path.rpartition("/")[2]] = _script(_path)


def _static_url(name: str) -> str:
    return f"/registry/v1/static/{name}?v={_STATIC[name].version}"


def _icon_url(down: int) -> str:
    return _static_url("luna.svg" if not down else f"down-{down}.svg" if down <= MOST_SHOWN else "down-more.svg")


templates.globals["static"] = _static_url
templates.globals["icon"] = _icon_url
templates.globals["luna_version"] = __version__
templates.filters["segment"] = segment


async def static_file(request: web.Request, _: User) -> web.Response:
    """Serve what pages load."""
    file = _STATIC.get(request.match_info["file"])
    if file is None:
        raise web.HTTPNotFound
    safe = SCRIPTED if file.content_type == _SCRIPT else HEADERS  # a worker may do what its own headers say
    headers = {**safe, "Cache-Control": "private, max-age=31536000, immutable"}
    return web.Response(body=file.body, content_type=file.content_type, headers=headers)


def compile_templates() -> None:
    """Make all templates ready, so that the first visitor holds nobody up."""
    for name in templates.list_templates():
        templates.get_template(name)


def page(template: str, **values: Any) -> web.Response:  # noqa: ANN401 - whatever `written` takes
    """Make a page of a template at once."""
    work = written(template, **values)
    while True:
        try:
            next(work)
        except StopIteration as end:
            response: web.Response = end.value
            return response


def written(
    template: str,
    *,
    status_code: int = 200,
    signed_in: bool = True,
    live: bool | None = None,
    down: int = 0,
    **values: Any,  # noqa: ANN401 - whatever the template takes
) -> Generator[None, None, web.Response]:
    """Make a page of a template, and yield in between so that others have their turns.

    `live` is whether it keeps itself up to date, None where there is nothing to follow; if not, it has no scripts at all. Where it
    is said, `values` hold the `query`. `down` is how many instances are down and not drained.
    """
    began, now = time.thread_time(), datetime.now(UTC)
    scripted = signed_in and live is not False
    parts = list[str]()
    for part in templates.get_template(template).generate(
        signed_in=signed_in, scripted=scripted, live=live, down=down, made=moment(now, now), **values
    ):
        parts.append(part)
        if len(parts) % _PARTS == 0:
            yield
    spent = (worked() or time.thread_time() - began) * 1000
    headers = {**(SCRIPTED if scripted else HEADERS), "Server-Timing": f"page;dur={spent:.1f}"}
    return web.Response(text="".join(parts), status=status_code, content_type="text/html", charset="utf-8", headers=headers)


def moment(moment: datetime, now: datetime) -> dict[str, str]:
    """Write a moment for a machine, for a person, and as the time since then."""
    return {
        "iso": f"{moment:%Y-%m-%dT%H:%M:%SZ}",
        "said": f"{moment:%Y-%m-%d %H:%M:%S} UTC",
        "ago": ago((now - moment).total_seconds() * 1000),
    }
