"""The panel: pages made on the server, complete without JavaScript."""

import hashlib
import time
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined

from gateway.keys import REGISTRY
from luna_grpc.model import StatusReason
from luna_grpc.store import Registration, Service

STATIC: Final = Path(__file__).parent / "static"
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

templates: Final = Environment(
    loader=PackageLoader("gateway"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def ago(milliseconds: float) -> str:
    """Write a span of time as people say it: `3 s`, `5 min`, `2 h`, `4 days`."""
    seconds = max(0, int(milliseconds // 1000))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    if seconds < 48 * 3600:
        return f"{seconds // 3600} h"
    return f"{seconds // 86_400} days"


templates.globals["style_version"] = hashlib.sha256((STATIC / "luna.css").read_bytes()).hexdigest()[:12]
templates.filters["ago"] = ago


async def services_page(request: web.Request) -> web.Response:
    """Show all services."""
    services = [_service(service) for service in request.app[REGISTRY].services()]
    services.sort(key=lambda service: (service["status"] == "UP", service["name"].lower()))
    return _page("services.html", services=services, instances=sum(service["total"] for service in services), host=request.host)


async def service_page(request: web.Request) -> web.Response:
    """Show one service with its instances."""
    service = request.app[REGISTRY].service(request.match_info["name"])
    now = time.time_ns() // 1_000_000
    instances = [_instance(registration, now) for registration in service.registrations]
    instances.sort(key=lambda instance: (instance["status"] == "OK", instance["id"]))
    return _page("service.html", service=_service(service), instances=instances)


def error_page(request: web.Request, status: int, message: str) -> web.Response:
    """Show what went wrong, and the way back."""
    return _page("error.html", status=status, path=request.path, message=message, status_code=status)


def _page(template: str, *, status_code: int = 200, **values: Any) -> web.Response:  # noqa: ANN401 - whatever the template takes
    html = templates.get_template(template).render(**values)
    return web.Response(text=html, status=status_code, content_type="text/html", headers=HEADERS)


def _service(service: Service) -> dict[str, Any]:
    return {
        "name": service.name,
        "description": service.description,
        "status": service.status.value,
        "up": service.up,
        "total": len(service.registrations),
    }


def _instance(registration: Registration, now: int) -> dict[str, Any]:
    instance = registration.instance
    said = instance.info
    return {
        "id": said.instance_id,
        "version": said.version,
        "status": instance.status.value,
        "reason": _REASONS[instance.reason],
        "url": said.url,
        "weight": said.weight,
        "metadata": said.metadata,
        "heartbeat_age": now - registration.last_heartbeat,
        "registered_age": now - instance.registered_at,
        "generation": instance.generation,
    }
