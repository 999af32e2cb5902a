"""The REST server: its routes, its limits, and how it stops."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final, cast

from aiohttp import hdrs, web

from gateway.answers import SAFE, empty_answer, text_answer
from gateway.api import Api
from gateway.changes import Changes
from gateway.commands import Doors
from gateway.connections import Limits, Runner
from gateway.docs import Docs
from gateway.forms import Forms
from gateway.guard import Guard, Handler
from gateway.instancepage import InstancePage
from gateway.journalpage import JournalPage
from gateway.listener import Listener
from gateway.lists import Lists
from gateway.negotiate import prefers_openmetrics
from gateway.pages import compile_templates, static_file
from gateway.panel import Panel
from luna_grpc.access import Action, User
from luna_grpc.auth import Authenticator
from luna_grpc.background import reported
from luna_grpc.config import Settings
from luna_grpc.metrics import Metrics
from luna_grpc.registry import Registry
from luna_grpc.tls import Identity

PROTECTED: Final = "/registry/"
METRICS: Final = "/metrics"
PREFIX: Final = "/registry/v1"
CUT_OFF: Final = 0.1
"""Seconds to end what is still in flight when the grace period is over."""


log: Final = logging.getLogger("luna.http")
# A body that nobody wanted may be damaged; at the level of an error, strangers could fill the log with that.
log.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], web.RequestPayloadError)))


class RestServer:
    """Serves the REST API and the panel on one port."""

    def __init__(self, registry: Registry, authenticator: Authenticator, settings: Settings, connections: int) -> None:
        self.ready = False
        self.metrics: Metrics | None = None
        """What `/metrics` shows; None: there is no such path."""
        self._registry = registry
        self._guard = Guard(registry, authenticator, settings)
        self.in_flight = self._guard.in_flight
        self.changes = Changes(registry, authenticator, settings.max_change_streams)
        self.refusals = self._guard.refusals
        self._grace = settings.shutdown_grace
        self.doors = Doors()
        self._settings = settings
        self.app = web.Application(client_max_size=settings.max_body)
        self._add_routes()
        self._looking: asyncio.Task[None] | None = None
        self._runner = Runner(
            self.app,
            Limits.of(settings, connections),
            self.refusals,
            shutdown_timeout=CUT_OFF,
            access_log=None,
            logger=log,
            keepalive_timeout=settings.idle_timeout,
        )
        self._listener = Listener(self._connection, settings.header_timeout)

    async def start(self, host: str, port: int, identity: Identity | None = None) -> int:
        """Listen, with TLS when there is an identity, and return the port; 0 picks a free one.

        Raises:
            OSError: the port cannot be had.

        """
        compile_templates()
        await self._runner.setup()
        self._looking = asyncio.create_task(reported("slow connections", self._runner.connections.look_forever))
        return await self._listener.open(host, port, identity.context if identity is not None else None)

    async def renew(self, identity: Identity) -> None:
        """Use another identity for connections from now on.

        Raises:
            OSError: see `Listener.renew`.

        """
        await self._listener.renew(identity.context)

    def _connection(self) -> asyncio.Protocol:
        return cast("Callable[[], asyncio.Protocol]", self._runner.server)()  # it is there from `setup` to `cleanup`

    async def stop(self) -> None:
        """Let requests in flight finish, for at most `shutdown_grace` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._grace
        self._listener.close()
        self.changes.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.in_flight.drain(), self._grace)
        server = self._runner.server
        if server is not None:  # it was started
            # Every request is handled; what is left is to send answers to those who read slowly.
            server.pre_shutdown()
            await server.shutdown(max(CUT_OFF, deadline - loop.time()))
        await self._runner.cleanup()
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking

    def _add_routes(self) -> None:
        registry, guard, docs = self._registry, self._guard, Docs(self._settings.max_body)
        lists = Lists(registry, self._settings.max_listed)
        api = Api(registry, lists, self._settings.max_body)
        panel, forms = Panel(registry, lists, self.doors), Forms(registry)
        instance = PREFIX + "/instances/{instanceId:[^/]+}"
        form = PREFIX + "/panel/instances/{instanceId:[^/]+}"
        read, change = Action.READ, Action.CHANGE
        protected: list[tuple[str, str, Action, Handler]] = [
            (hdrs.METH_POST, instance, change, api.post_instance),
            (hdrs.METH_PUT, instance, change, api.put_instance),
            (hdrs.METH_GET, instance, read, InstancePage(registry, lists, self.doors, api.get_instance).show),
            (hdrs.METH_DELETE, instance, change, api.delete_instance),
            (hdrs.METH_POST, instance + "/drain", Action.OPERATE, api.drain_instance),
            (hdrs.METH_DELETE, instance + "/drain", Action.OPERATE, api.undrain_instance),
            (hdrs.METH_GET, PREFIX + "/services", read, panel.services),
            (hdrs.METH_GET, PREFIX + "/services/", read, panel.services),
            (hdrs.METH_GET, PREFIX + "/services/json", read, api.get_services),
            (hdrs.METH_GET, PREFIX + "/changes", read, self.changes.stream),
            (hdrs.METH_GET, PREFIX + "/services/{name:[^/]+}", read, panel.service),
            (hdrs.METH_GET, PREFIX + "/journal", read, JournalPage(registry, lists).show),
            (hdrs.METH_POST, form + "/drain", Action.OPERATE, forms.drain),
            (hdrs.METH_POST, form + "/undrain", Action.OPERATE, forms.undrain),
            (hdrs.METH_POST, form + "/deregister", change, forms.deregister),
            (hdrs.METH_GET, PREFIX + "/openapi.json", read, docs.openapi),
            (hdrs.METH_GET, PREFIX + "/docs", read, docs.try_page),
            (hdrs.METH_GET, PREFIX + "/static/{file}", read, static_file),
            (hdrs.METH_GET, METRICS, read, self._metrics),
        ]
        routes = [
            *((method, path, guard.protect(action, handler)) for method, path, action, handler in protected),
            (hdrs.METH_GET, "/", guard.open(_to_panel)),
            (hdrs.METH_GET, "/livez", guard.probe(_livez)),
            (hdrs.METH_GET, "/readyz", guard.probe(self._readyz)),
        ]
        for method, path, handler in routes:
            self.app.router.add_route(method, path, handler)
            if method == hdrs.METH_GET:
                self.app.router.add_route(hdrs.METH_HEAD, path, handler)
        # Last: whatever is none of these.
        self.app.router.add_route(hdrs.METH_ANY, "/{path:(?s:.*)}", guard.open(self._elsewhere))

    async def _elsewhere(self, request: web.Request, _: User) -> web.Response:
        """Answer what a browser asks before it asks, and refuse the rest."""
        if request.method == hdrs.METH_OPTIONS and self._guard.preflight(request):
            return empty_answer(204)
        if request.path.startswith((PROTECTED, METRICS)):
            await self._guard.user(request)
        allowed: set[str] = set()
        for resource in self.app.router.resources():
            allowed |= (await resource.resolve(request))[1]
        allowed.discard(hdrs.METH_ANY)
        raise web.HTTPMethodNotAllowed(request.method, allowed) if allowed else web.HTTPNotFound

    async def _readyz(self, request: web.Request, _: User) -> web.Response:
        registry = self._registry
        lines = ["ok" if self.ready else "not ready"]
        if "verbose" in request.query:
            lines.append(f"serving: {'yes' if self.ready else 'no, starting or stopping'}")
            lines.append(f"instances: {'not all read yet' if registry.loading else registry.store.count()}")
            lines.append(f"heartbeats: {registry.heartbeats} since the start")
            stale = registry.stale_for
            lines.append(f"store: {f'Redis has been away for {stale:.0f} s, changes are refused' if stale else 'at hand'}")
            lines.append(f"warming: {'yes, watchers of an earlier run are not yet told who is gone' if registry.warming else 'no'}")
        return text_answer("\n".join(lines) + "\n", status=200 if self.ready else 503)

    async def _metrics(self, request: web.Request, _: User) -> web.Response:
        if self.metrics is None:
            raise web.HTTPNotFound
        of_process = await asyncio.to_thread(self.metrics.of_process)
        body, content_type = self.metrics.written(of_process, open_metrics=prefers_openmetrics(request))
        return web.Response(body=body, headers={**SAFE, hdrs.CONTENT_TYPE: content_type, hdrs.VARY: "Accept"})


async def _to_panel(_: web.Request, __: User) -> web.Response:
    return empty_answer(302, Location=PREFIX + "/services/")


async def _livez(_: web.Request, __: User) -> web.Response:
    return text_answer("ok\n")
