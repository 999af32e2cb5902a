"""What stands before every handler: may this request be answered at all, and in which words is it refused.

In this order: the Host name (DNS rebinding), cross-origin rules, credentials, then the handler. Errors of the domain and of HTTP
become JSON, or a page when a browser asks.

Browsers add the credentials that they remember to whatever a page makes them send: a form, a request of a script. So nothing is
changed for the page of another origin.

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
from multidict import istr

from gateway import errors
from gateway.answers import json_answer
from gateway.drain import InFlight
from gateway.errorpage import error_page
from gateway.negotiate import prefers_html
from luna_grpc import tls
from luna_grpc.access import NOBODY, Action, User
from luna_grpc.auth import CHALLENGE, Authenticator
from luna_grpc.config import Settings, is_loopback
from luna_grpc.errors import InvalidArgumentError, LunaError, PermissionDeniedError
from luna_grpc.model import shown
from luna_grpc.registry import Registry

Handler: TypeAlias = Callable[[web.Request, User], Awaitable[web.StreamResponse]]
"""Answers a request of the user that comes with it."""
Guarded: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
_METHODS: Final = "GET, HEAD, POST, PUT, DELETE"
_ABOUT_THE_BODY: Final = frozenset({web.HTTPRequestTimeout.status_code, web.HTTPRequestEntityTooLarge.status_code})
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_SITE: Final = istr("Sec-Fetch-Site")
"""Which browsers send to https and to loopback, and no page can set: same-origin, same-site, cross-site, or none."""
_REQUESTED_WITH: Final = istr("X-Requested-With")
"""Which scripts of pages send that say themselves when nobody is signed in. They are refused by a scheme that browsers do not
know, so that no dialog comes up over what somebody reads."""
_NOT_SAID: Final = frozenset({None, "none"})
"""Nothing, or that no page is behind it."""

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
        self._users_file = bool(settings.users_file)
        self._check_host = settings.open_to_all and "*" not in settings.allowed_hosts
        self._hosts = frozenset(host.lower() for host in settings.allowed_hosts)
        self._max_body, self._body_timeout = settings.max_body, settings.body_timeout
        self._addresses_too = settings.insecure  # asked for from elsewhere, and an address cannot be rebound
        # Clients name the same few hosts over and over.
        self._is_foreign = lru_cache(maxsize=1024)(self._is_foreign_host)
        self._origins = frozenset(origin.rstrip("/") for origin in settings.cors_origins)

    def protect(self, action: Action, handler: Handler) -> Guarded:
        """Let a handler answer those who may do an action."""
        return self._wrapped(handler, self._known, action)

    def open(self, handler: Handler) -> Guarded:
        """Let a handler answer without credentials."""

        def known(request: web.Request) -> User:
            self._check_origin(request)
            return NOBODY

        return self._wrapped(handler, known)

    def probe(self, handler: Handler) -> Guarded:
        """Let a handler answer everyone, whatever the host is called."""
        return self._wrapped(handler, lambda _: NOBODY)

    async def user(self, request: web.Request) -> User:
        """Return the user behind a request.

        Raises:
            PermissionDeniedError: the Host name or the origin is not one to be answered.
            LunaError: see `Authenticator.verified` and `Authenticator.certified`.

        """
        return self._known(request) or await self._unknown(request)

    def _known(self, request: web.Request) -> User | None:
        self._check_origin(request)
        return self._authenticator.known(request.headers.get(hdrs.AUTHORIZATION))

    async def _unknown(self, request: web.Request) -> User:
        authorization = request.headers.get(hdrs.AUTHORIZATION)
        if authorization is None and self._certificates:
            return self._certified(request)
        return await self._authenticator.verified(authorization, request.remote or "")

    def _certified(self, request: web.Request) -> User:
        return self._authenticator.certified(tls.names(request.get_extra_info("peercert")))

    def preflight(self, request: web.Request) -> bool:
        """Whether a browser asks for the cross-origin rules, which `open` adds to the answer."""
        return hdrs.ORIGIN in request.headers and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers

    def _wrapped(self, handler: Handler, known: Callable[[web.Request], User | None], action: Action | None = None) -> Guarded:
        in_flight, origins, registry = self.in_flight, self._origins, self._registry

        @wraps(handler)
        async def guarded(request: web.Request) -> web.StreamResponse:
            in_flight.count += 1
            try:
                user = known(request) or await self._unknown(request)
                if action is not None:
                    user.check(action)
                    registry.check_loaded()
                response: web.StreamResponse = await handler(request, user)
            except Exception as error:  # noqa: BLE001 - each kind has its answer
                response = self._refusal_of(request, error)
            finally:
                in_flight.ended()
            if origins:
                self._allow_origin(request, response)
            if in_flight.draining:
                response.force_close()
            return response

        return guarded

    def _check_origin(self, request: web.Request) -> None:
        headers = request.headers
        if self._check_host:
            host = headers.get(hdrs.HOST)
            if host is not None and self._is_foreign(host):  # who sends none is no browser
                raise PermissionDeniedError(
                    f"the Host name {shown(host)} is not answered to while the password is empty: set LUNA_AUTH_PASSWORD, "
                    "or add the name to LUNA_ALLOWED_HOSTS"
                )
        origin, site = headers.get(hdrs.ORIGIN), headers.get(_SITE)
        if origin is not None or site is not None:  # else it is no browser: they say at least one of them with every write
            self._refuse_foreign_write(request, origin, site)

    def _is_foreign_host(self, host: str) -> bool:
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        return not (is_loopback(name) or name.lower() in self._hosts or (self._addresses_too and _is_address(name)))

    def _refuse_foreign_write(self, request: web.Request, origin: str | None, site: str | None) -> None:
        """Refuse what another site's page makes a browser send with the credentials that it remembers.

        `site` is the browser's own word on whose page it is, and counts first: with it, a form of ours counts as ours although
        `origin` is "null" (our pages send no referrer), and a page read over http is not ours when we are asked over https.
        """
        if request.method in _READING or site == "same-origin" or (origin is not None and self._allowed(origin)):
            return
        if site in _NOT_SAID and (origin is None or _is_own(request, origin)):
            return
        raise PermissionDeniedError(
            f"pages of {'another site' if origin is None else shown(origin)} may not change the registry; "
            "LUNA_CORS_ORIGINS can allow it"
        )

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
            response = error_page(
                status,
                body["error"],
                signed_in=self._is_signed_in(request),
                users_file=self._users_file,
                form=request.method not in _READING,
            )
        else:
            response = json_answer(body, status=status)
        if status == web.HTTPUnauthorized.status_code:
            asked_by_script = _REQUESTED_WITH in request.headers
            response.headers[hdrs.WWW_AUTHENTICATE] = f"x-{CHALLENGE}" if asked_by_script else CHALLENGE
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


def _is_own(request: web.Request, origin: str) -> bool:
    """Whether an origin is where the request went to.

    Behind a proxy that ends TLS, only its scheme differs. With TLS of our own, a page that came without is not ours: it is of
    another server of that name, or of whoever sits on the line.
    """
    host = request.headers.get(hdrs.HOST)
    return bool(host) and origin in {f"{request.scheme}://{host}", f"https://{host}"}


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
