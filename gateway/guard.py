"""What stands before every handler: may this request be answered at all, and in which words is it refused.

In this order: the Host name (DNS rebinding), cross-origin rules, credentials, then the handler. Errors of the domain and of HTTP
become JSON, or a page when a browser asks.
"""

import ipaddress
from functools import lru_cache
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware

from gateway import errors
from gateway.api import json_response
from gateway.drain import InFlight
from gateway.keys import USER
from gateway.negotiate import prefers_html
from gateway.panel import error_page
from luna_grpc.auth import CHALLENGE, Authenticator
from luna_grpc.config import Settings, is_loopback
from luna_grpc.errors import InvalidArgumentError, LunaError, PermissionDeniedError
from luna_grpc.model import shown

PROTECTED: Final = "/registry/"
PROBES: Final = frozenset({"/livez", "/readyz"})
_METHODS: Final = "GET, HEAD, POST, PUT, DELETE"
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})

log = structlog.get_logger("luna.rest")


class Guard:
    """One middleware with all rules; see the module."""

    def __init__(self, authenticator: Authenticator, settings: Settings) -> None:
        self.in_flight = InFlight()
        self._authenticator = authenticator
        self._check_host = settings.open_to_all and "*" not in settings.allowed_hosts
        self._hosts = frozenset(host.lower() for host in settings.allowed_hosts)
        self._addresses_too = settings.insecure  # asked for from elsewhere, and an address cannot be rebound
        # Clients name the same few hosts over and over.
        self._is_foreign = lru_cache(maxsize=1024)(self._is_foreign_host)
        self._origins = frozenset(origin.rstrip("/") for origin in settings.cors_origins)

    @property
    def middleware(self) -> Middleware:
        """The rules as aiohttp wants them."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            with self.in_flight:
                try:
                    response = self._answer_before(request) or await handler(request)
                except Exception as error:  # noqa: BLE001 - each kind has its answer
                    response = _refusal_of(request, error)
            if self._origins:
                self._allow_origin(request, response)
            if self.in_flight.draining:
                response.force_close()
            return response

        return guard

    def _answer_before(self, request: web.Request) -> web.StreamResponse | None:
        """Refuse what may not reach its handler, by raising; answer what needs none."""
        path, headers = request.path, request.headers
        if path in PROBES:
            return None
        if self._check_host:
            self._refuse_foreign_host(headers.get("Host"))
        origin = headers.get("Origin")
        if origin is not None:
            if request.method == "OPTIONS" and "Access-Control-Request-Method" in headers:
                return web.Response(status=204)
            self._refuse_foreign_write(request, origin)
        if path.startswith(PROTECTED):
            request[USER] = self._authenticator.user(headers.get("Authorization"))
        return None

    def _is_foreign_host(self, host: str) -> bool:
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        return not (is_loopback(name) or name.lower() in self._hosts or (self._addresses_too and _is_address(name)))

    def _refuse_foreign_host(self, host: str | None) -> None:
        if host is None or not self._is_foreign(host):  # who sends none is no browser
            return
        raise PermissionDeniedError(
            f"the Host name {shown(host)} is not answered to while the password is empty: set LUNA_AUTH_PASSWORD, "
            "or add the name to LUNA_ALLOWED_HOSTS"
        )

    def _refuse_foreign_write(self, request: web.Request, origin: str) -> None:
        """Refuse what another site's page makes a browser send with the credentials that it remembers."""
        own = origin.partition("://")[2] == request.headers.get("Host")
        if own or request.method in _READING or self._allowed(origin):
            return
        raise PermissionDeniedError(f"pages of {origin!r} may not change the registry; LUNA_CORS_ORIGINS can allow it")

    def _allowed(self, origin: str) -> bool:
        return origin in self._origins or "*" in self._origins

    def _allow_origin(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers.add("Vary", "Origin")
        origin = request.headers.get("Origin")
        if origin is not None and self._allowed(origin):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Allow-Methods"] = _METHODS
            response.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
            response.headers["Access-Control-Max-Age"] = "600"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _refusal_of(request: web.Request, error: Exception) -> web.Response:
    """Answer an error; redirections are raised on."""
    match error:
        case LunaError():
            return _refusal(request, errors.status(error), errors.body(error))
        case web.RequestPayloadError() | HttpProcessingError():
            return _refusal_of(request, InvalidArgumentError("the body is not in the encoding that the headers name", field="body"))
        case web.HTTPException(status=status) if status >= web.HTTPBadRequest.status_code:
            response = _refusal(request, status, _words(request, error))
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
            return response
        case web.HTTPException():
            raise error
        case _:
            log.error("failed", method=request.method, path=request.path, exc_info=error)
            return _refusal(request, 500, {"error": "the registry failed; its log says how", "code": "INTERNAL"})


def _words(request: web.Request, error: web.HTTPException) -> dict[str, Any]:
    words = {
        404: f"there is nothing at {request.path}; instances are at /registry/v1/instances/{{instanceId}}, the panel is at "
        "/registry/v1/services/",
        405: f"{request.method} is not possible at {request.path}; possible: {error.headers.get('Allow', 'nothing')}",
        413: "the body is larger than 100 KiB",
    }.get(error.status, error.reason)
    answer = {"error": words, "code": errors.CODES.get(error.status, "INVALID_ARGUMENT")}
    if error.status == web.HTTPRequestEntityTooLarge.status_code:
        answer["field"] = "body"
    return answer


def _refusal(request: web.Request, status: int, body: dict[str, Any]) -> web.Response:
    response = error_page(request, status, body["error"]) if prefers_html(request) else json_response(body, status=status)
    if status == web.HTTPUnauthorized.status_code:
        response.headers["WWW-Authenticate"] = CHALLENGE
    return response
