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
                response = await self._answer_or_refuse(request, handler)
            if self.in_flight.draining:
                response.force_close()
            return response

        return guard

    async def _answer_or_refuse(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await self._answer(request, handler)
        except LunaError as error:
            response = _refusal(request, errors.status(error), errors.body(error))
        except (web.RequestPayloadError, HttpProcessingError):
            unreadable = InvalidArgumentError("the body is not in the encoding that the headers name", field="body")
            response = _refusal(request, errors.status(unreadable), errors.body(unreadable))
        except web.HTTPException as error:
            if error.status < web.HTTPBadRequest.status_code:
                raise
            response = _refusal(request, error.status, _words(request, error))
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except Exception:
            log.exception("failed", method=request.method, path=request.path)
            response = _refusal(request, 500, {"error": "the registry failed; its log says how", "code": "INTERNAL"})
        self._allow_origin(request, response)
        return response

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        path = request.path
        if path in PROBES:
            return await handler(request)
        if self._check_host:
            self._refuse_foreign_host(request.headers.get("Host"))
        origin = request.headers.get("Origin")
        if origin is not None:
            if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
                return web.Response(status=204)
            self._refuse_foreign_write(request, origin)
        if path.startswith(PROTECTED):
            request[USER] = self._authenticator.user(request.headers.get("Authorization"))
        return await handler(request)

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
        if not self._origins:
            return
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
