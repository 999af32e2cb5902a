"""The panel: pages made on the server, complete without JavaScript."""

import hashlib
import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from urllib.parse import quote

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined

from luna_grpc import __version__
from luna_grpc.access import User
from luna_grpc.model import StatusReason
from luna_grpc.registry import Registry
from luna_grpc.store import Registration, Service

HEADERS: Final = {
    # Nothing but our own style sheet and icon; no script at all.
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_REASONS: Final = {
    StatusReason.REPORTED: "reported by the instance",
    StatusReason.LEASE_EXPIRED: "no heartbeat in time",
    StatusReason.DISCONNECTED: "its connection broke",
    StatusReason.DRAINED: "taken out of service by an operator",
}
_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
_LIST: Final = "/registry/v1/services/"
PAGE: Final = 100
"""Rows of a list on one page."""
MAX_DIGITS: Final = 10
_RELOAD: Final = ""
"""As a link: the page that it stands on."""
_ERRORS: Final[dict[int, tuple[str, str, str, str]]] = {
    HTTPStatus.UNAUTHORIZED: (
        "Please sign in",
        "Use the name and the password that Luna was started with (LUNA_AUTH_USERNAME, LUNA_AUTH_PASSWORD).",
        _RELOAD,
        "Sign in",
    ),
    HTTPStatus.FORBIDDEN: ("This is not allowed", "Once that is changed, it will work.", _RELOAD, "Try again"),
    HTTPStatus.NOT_FOUND: (
        "Not found",
        "Everything that is registered is in the list; a service leaves it with its last instance.",
        _LIST,
        "All services",
    ),
    HTTPStatus.TOO_MANY_REQUESTS: ("Too many requests", "Wait for a moment.", _RELOAD, "Try again"),
    HTTPStatus.INTERNAL_SERVER_ERROR: ("Luna failed", "It may work the next time.", _RELOAD, "Try again"),
    HTTPStatus.SERVICE_UNAVAILABLE: ("Luna is not ready", "Wait for a moment.", _RELOAD, "Try again"),
}
"""For each status a title, and one next step: its words, where it leads to, and the words of the link."""
_OTHER_ERROR: Final = ("That did not work", "The panel begins at the list.", _LIST, "All services")

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
}

templates.globals["style_version"] = _STATIC["luna.css"].version
templates.globals["icon_version"] = _STATIC["luna.svg"].version
templates.globals["luna_version"] = __version__
templates.filters["segment"] = segment


async def static_file(request: web.Request, _: User) -> web.Response:
    """Serve what pages load."""
    file = _STATIC.get(request.match_info["file"])
    if file is None:
        raise web.HTTPNotFound
    headers = {**HEADERS, "Cache-Control": "private, max-age=31536000, immutable"}
    return web.Response(body=file.body, content_type=file.content_type, headers=headers)


class Panel:
    """The handlers; each is given a request and the user behind it."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def services_page(self, request: web.Request, user: User) -> web.Response:
        """Show all services, a page at a time."""
        registry = self._registry
        services = list(registry.services())
        services.sort(key=lambda service: (service.up > 0, service.name.lower()))
        totals = registry.store.totals()
        counts = {
            "up": totals.services_up,
            "down": totals.services - totals.services_up,
            "instances_up": totals.instances_up,
            "instances": totals.instances,
        }
        pages = Pages.of(request, len(services))
        return _page(
            "services.html",
            services=[_service(service) for service in services[pages.start : pages.end]],
            counts=counts,
            pages=pages,
            warming=registry.warming,
            example=_example(request, user.name, registry.policy.ttl),
        )

    async def service_page(self, request: web.Request, _: User) -> web.Response:
        """Show one service with its instances, a page at a time."""
        service = self._registry.service(request.match_info["name"])
        now = datetime.now(UTC)
        registrations = sorted(service.registrations, key=lambda each: (each.instance.up, each.instance.info.instance_id))
        pages = Pages.of(request, len(registrations))
        instances = [_instance(registration, now) for registration in registrations[pages.start : pages.end]]
        return _page("service.html", service=_service(service), instances=instances, pages=pages)


@dataclass(frozen=True, slots=True)
class Pages:
    """Which part of a long list is shown."""

    number: int
    """The page shown, from 1."""
    last: int
    total: int
    """Rows on all pages."""

    @classmethod
    def of(cls, request: web.Request, total: int) -> Self:
        """Read `page` from the query; what is no page there is the first or the last one."""
        last = max(1, -(-total // PAGE))
        asked = request.query.get("page", "")
        number = int(asked) if asked.isascii() and asked.isdecimal() and len(asked) < MAX_DIGITS else 1
        return cls(max(1, min(number, last)), last, total)

    @property
    def start(self) -> int:
        """The index of the first row shown."""
        return (self.number - 1) * PAGE

    @property
    def end(self) -> int:
        """The index after the last row shown."""
        return min(self.start + PAGE, self.total)


def error_page(status: int, message: str, *, signed_in: bool) -> web.Response:
    """Show what went wrong, and what to do next."""
    title, words, href, link = _ERRORS.get(status, _OTHER_ERROR)
    return _page(
        "error.html",
        status_code=status,
        # To others the style sheet is refused as well, and fetching it would make their browser ask for a password (once more).
        signed_in=signed_in,
        status=status,
        title=title,
        message=_sentence(message),
        step={"words": words, "href": href, "link": link},
    )


def _page(template: str, *, status_code: int = 200, signed_in: bool = True, **values: Any) -> web.Response:  # noqa: ANN401 - whatever the template takes
    now = datetime.now(UTC)
    html = templates.get_template(template).render(signed_in=signed_in, made=_moment(now, now), **values)
    return web.Response(text=html, status=status_code, content_type="text/html", charset="utf-8", headers=HEADERS)


def _service(service: Service) -> dict[str, Any]:
    total = len(service.registrations)
    return {
        "name": service.name,
        "description": service.description,
        "status": service.status.value,
        "phase": "new" if not service.up else "full" if service.up == total else "half",
        "up": service.up,
        "total": total,
    }


def _instance(registration: Registration, now: datetime) -> dict[str, Any]:
    instance = registration.instance
    said = instance.info
    return {
        "id": said.instance_id,
        "version": said.version,
        "status": instance.status.value,
        "phase": "full" if instance.up else "new",
        "reason": _REASONS[instance.reason],
        "url": said.url,
        "weight": said.weight,
        "metadata": said.metadata,
        "heartbeat": _moment(datetime.fromtimestamp(registration.last_heartbeat / 1000, UTC), now),
        "registered": _moment(datetime.fromtimestamp(instance.registered_at / 1000, UTC), now),
    }


def _moment(moment: datetime, now: datetime) -> dict[str, str]:
    """Write a moment for a machine, for a person, and as the time since then."""
    return {
        "iso": f"{moment:%Y-%m-%dT%H:%M:%SZ}",
        "said": f"{moment:%Y-%m-%d %H:%M:%S} UTC",
        "ago": ago((now - moment).total_seconds() * 1000),
    }


def _example(request: web.Request, user: str, ttl: float) -> dict[str, str]:
    """Return what the commands that register a first instance need, quoted for the reader's shell."""
    return {
        "user": user,
        "credentials": shlex.quote(f"{user}:"),
        "url": shlex.quote(
            f"{request.scheme}://{request.headers.get('Host', 'localhost:4000')}/registry/v1/instances/hello:localhost:8080"
        ),
        "ttl": f"{ttl:g} s",
    }


def _sentence(words: str) -> str:
    """Make the words of an error, which are written to stand anywhere, stand alone."""
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".")
