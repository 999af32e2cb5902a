"""The panel: pages made on the server, complete without JavaScript."""

import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, Self

from aiohttp import hdrs, web

from gateway.pages import following, moment, page
from luna_grpc.access import User
from luna_grpc.model import StatusReason
from luna_grpc.registry import Registry
from luna_grpc.store import Registration, Service

_REASONS: Final = {
    StatusReason.REPORTED: "reported by the instance",
    StatusReason.LEASE_EXPIRED: "no heartbeat in time",
    StatusReason.DISCONNECTED: "its connection broke",
    StatusReason.DRAINED: "taken out of service by an operator",
}
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
_OF_THE_FILE: Final = "Use the name and the password of a user in the users file; luna user add makes one."
_OTHER_ERROR: Final = ("That did not work", "The panel begins at the list.", _LIST, "All services")


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
        return page(
            "services.html",
            **following(request),
            down=registry.down,
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
        return page(
            "service.html",
            **following(request),
            down=self._registry.down,
            service=_service(service),
            instances=instances,
            pages=pages,
        )


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


def error_page(status: int, message: str, *, signed_in: bool, users_file: bool = False) -> web.Response:
    """Show what went wrong, and what to do next."""
    title, words, href, link = _ERRORS.get(status, _OTHER_ERROR)
    if users_file and status == HTTPStatus.UNAUTHORIZED:
        words = _OF_THE_FILE
    return page(
        "error.html",
        status_code=status,
        # To others the style sheet is refused as well, and fetching it would make their browser ask for a password (once more).
        signed_in=signed_in,
        status=status,
        title=title,
        message=_sentence(message),
        step={"words": words, "href": href, "link": link},
    )


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
        "heartbeat": moment(datetime.fromtimestamp(registration.last_heartbeat / 1000, UTC), now),
        "registered": moment(datetime.fromtimestamp(instance.registered_at / 1000, UTC), now),
    }


def _example(request: web.Request, user: str, ttl: float) -> dict[str, Any]:
    """Return what the commands that register a first instance need, quoted for the reader's shell."""
    host = request.headers.get("Host", "localhost:4000")
    credentials = shlex.quote(f"{user}:")
    signed_in = hdrs.AUTHORIZATION in request.headers
    certified = bool(request.get_extra_info("peercert"))
    curl = [f"-u {credentials}"] * signed_in + ["--cert client.pem --key client.key"] * certified
    grpcurl = (
        ["-plaintext"] * (not request.secure)
        + ["-cert client.pem -key client.key"] * certified
        + [f'-H "authorization: Basic $(printf %s {credentials} | base64)"'] * signed_in
    )
    # A certificate is for the name that the reader used.
    grpc_host = (host.rpartition(":")[0] or host) if request.secure else "127.0.0.1"
    return {
        "user": user if signed_in else "",
        "curl": " ".join(curl),
        "grpcurl": " ".join(grpcurl),
        "url": shlex.quote(f"{request.scheme}://{host}/registry/v1/instances/hello:localhost:8080"),
        "grpc": shlex.quote(f"{grpc_host}:50051"),
        "tls": request.secure,
        "certified": certified,
        "ttl": f"{ttl:g} s",
    }


def _sentence(words: str) -> str:
    """Make the words of an error, which are written to stand anywhere, stand alone."""
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".")
