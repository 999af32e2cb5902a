"""What stands before every handler: may this request be answered at all, and in which words is it refused.

In this order: the Host name (DNS rebinding), cross-origin rules, credentials, then the handler. Errors of the domain and of HTTP
become JSON, or a page when a browser asks.

Handlers are wrapped when their routes are made, and no middleware is used: aiohttp's way to call one costs as much as all the rules
together, on each heartbeat.
"""

import ipaddress
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import lru_cache, wraps
from typing import Any, Final, TypeAlias

import structlog
from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from gateway import errors
from gateway.api import json_response
from gateway.drain import InFlight
from gateway.negotiate import prefers_html
from gateway.panel import error_page
from luna_grpc import tls
from luna_grpc.access import NOBODY, Action, User
from luna_grpc.auth import CHALLENGE, Authenticator
from luna_grpc.config import Settings, is_loopback
from luna_grpc.errors import InvalidArgumentError, LunaError, PermissionDeniedError
from luna_grpc.model import shown
from luna_grpc.registry import Registry

Handler: TypeAlias = Callable[[web.Request, User], Awaitable[web.Response]]
"""Answers a request of the user that comes with it."""
Guarded: TypeAlias = Callable[[web.Request], Awaitable[web.Response]]
_METHODS: Final = "GET, HEAD, POST, PUT, DELETE"
_ABOUT_THE_BODY: Final = frozenset({web.HTTPRequestTimeout.status_code, web.HTTPRequestEntityTooLarge.status_code})
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})

log = structlog.get_logger("luna.rest")


class Guard:
    """Makes handlers that keep all rules; see the module."""

    def __init__(self, registry: Registry, authenticator: Authenticator, settings: Settings) -> None:
        self.in_flight = InFlight()
        self.refusals = Counter(dict.fromkeys(errors.ALL_CODES, 0))
        """How many requests were refused, by the code of the answer."""
        self._registry = registry
        self._authenticator = authenticator
        self._certificates = bool(settings.tls_client_ca)
        self._check_host = settings.open_to_all and "*" not in settings.allowed_hosts
        self._hosts = frozenset(host.lower() for host in settings.allowed_hosts)
        self._max_body, self._body_timeout = settings.max_body, settings.body_timeout
        self._addresses_too = settings.insecure  # asked for from elsewhere, and an address cannot be rebound
        # Clients name the same few hosts over and over.
        self._is_foreign = lru_cache(maxsize=1024)(self._is_foreign_host)
        self._origins = frozenset(origin.rstrip("/") for origin in settings.cors_origins)

    def protect(self, action: Action, handler: Handler) -> Guarded:
        """Let a handler answer those who may do an action."""

        async def admit(request: web.Request) -> User:
            user = await self.user(request)
            user.check(action)
            self._registry.check_loaded()
            return user

        return self._wrapped(handler, admit)

    def open(self, handler: Handler) -> Guarded:
        """Let a handler answer without credentials."""

        async def admit(request: web.Request) -> User:
            self._check_origin(request)
            return NOBODY

        return self._wrapped(handler, admit)

    def probe(self, handler: Handler) -> Guarded:
        """Let a handler answer everyone, whatever the host is called."""

        async def admit(_: web.Request) -> User:
            return NOBODY

        return self._wrapped(handler, admit)

    async def user(self, request: web.Request) -> User:
        """Return the user behind a request.

        Raises:
            PermissionDeniedError: the Host name or the origin is not one to be answered.
            LunaError: see `Authenticator.verified` and `Authenticator.certified`.

        """
        self._check_origin(request)
        authorization = request.headers.get(hdrs.AUTHORIZATION)
        user = self._authenticator.known(authorization)
        if user is not None:
            return user
        if authorization is None and self._certificates:
            return self._certified(request)
        return await self._authenticator.verified(authorization, request.remote or "")

    def _certified(self, request: web.Request) -> User:
        return self._authenticator.certified(tls.names(request.get_extra_info("peercert")))

    def preflight(self, request: web.Request) -> bool:
        """Whether a browser asks for the cross-origin rules, which `open` adds to the answer."""
        return hdrs.ORIGIN in request.headers and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers

    def _wrapped(self, handler: Handler, admit: Callable[[web.Request], Awaitable[User]]) -> Guarded:
        in_flight, origins = self.in_flight, self._origins

        @wraps(handler)
        async def guarded(request: web.Request) -> web.Response:
            with in_flight:
                try:
                    response = await handler(request, await admit(request))
                except Exception as error:  # noqa: BLE001 - each kind has its answer
                    response = self._refusal_of(request, error)
            if origins:
                self._allow_origin(request, response)
            if in_flight.draining:
                response.force_close()
            return response

        return guarded

    def _check_origin(self, request: web.Request) -> None:
        headers = request.headers
        if self._check_host:
            self._refuse_foreign_host(headers.get(hdrs.HOST))
        origin = headers.get(hdrs.ORIGIN)
        if origin is not None:
            self._refuse_foreign_write(request, origin)

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
        host = request.headers.get("Host")
        # Without TLS the registry may be behind a proxy that has it. With it, a page that came without TLS is not ours: it is of
        # another server of that name, or of whoever sits on the line.
        own = origin == f"https://{host}" or (origin == f"http://{host}" and not request.secure)
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

    def _refusal_of(self, request: web.Request, error: Exception) -> web.Response:
        match error:
            case LunaError():
                response = self._refusal(request, errors.status(error), errors.body(error))
                if error.retry_after:
                    response.headers[hdrs.RETRY_AFTER] = str(error.retry_after)
                return response
            case web.RequestPayloadError() | HttpProcessingError():
                encoding = InvalidArgumentError("the body is not in the encoding that the headers name", field="body")
                return self._refusal(request, errors.status(encoding), errors.body(encoding))
            case web.HTTPException():
                response = self._refusal(request, error.status, self._words(request, error))
                if error.status == web.HTTPRequestTimeout.status_code:
                    response.force_close()  # what is left of the body may still come
                if hdrs.ALLOW in error.headers:
                    response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
                return response
            case _:
                log.error("failed", method=request.method, path=request.path, exc_info=error)
                return self._refusal(request, 500, {"error": "the registry failed; its log says how", "code": errors.INTERNAL})

    def _refusal(self, request: web.Request, status: int, body: dict[str, Any]) -> web.Response:
        self.refusals[body["code"]] += 1
        if prefers_html(request):
            response = error_page(status, body["error"], signed_in=self._is_signed_in(request))
        else:
            response = json_response(body, status=status)
        if status == web.HTTPUnauthorized.status_code:
            response.headers[hdrs.WWW_AUTHENTICATE] = CHALLENGE
        return response

    def _words(self, request: web.Request, error: web.HTTPException) -> dict[str, Any]:
        words = {
            404: f"there is nothing at {request.path}; instances are at /registry/v1/instances/{{instanceId}}, the panel is at "
            "/registry/v1/services/",
            405: f"{request.method} is not possible at {request.path}; possible: {error.headers.get('Allow', 'nothing')}",
            408: f"the body did not come to an end within {self._body_timeout:g} s (LUNA_BODY_TIMEOUT)",
            413: f"the body is larger than {self._max_body} bytes (LUNA_MAX_BODY)",
        }.get(error.status, error.reason)
        answer = {"error": words, "code": errors.CODES.get(error.status, "INVALID_ARGUMENT")}
        if error.status in _ABOUT_THE_BODY:
            answer["field"] = "body"
        return answer

    def _is_signed_in(self, request: web.Request) -> bool:
        authorization = request.headers.get(hdrs.AUTHORIZATION)
        try:
            self._check_origin(request)
            user = (
                self._certified(request)
                if authorization is None and self._certificates
                else self._authenticator.known(authorization)
            )
        except LunaError:
            return False
        return user is not None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
