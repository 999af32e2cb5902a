"""The REST server: its routes, its limits, and how it stops."""

import asyncio
import logging
from contextlib import suppress
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from gateway import api, panel
from gateway.guard import Guard
from gateway.keys import REGISTRY
from gateway.negotiate import prefers_json
from luna_grpc.auth import Authenticator
from luna_grpc.config import Settings
from luna_grpc.registry import Registry

PREFIX: Final = "/registry/v1"
MAX_BODY: Final = 100 * 1024
CUT_OFF: Final = 0.1
"""Seconds to end what is still in flight when the grace period is over."""
KEEPALIVE: Final = 75.0
"""Seconds; above the 60 s after which common load balancers give a connection up, so that they do it and not we."""


log: Final = logging.getLogger("luna.http")
# Bytes that are no HTTP are answered with 400; at the level of an error, strangers could fill the log with them.
log.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))


class RestServer:
    """Serves the REST API and the panel on one port."""

    def __init__(self, registry: Registry, authenticator: Authenticator, settings: Settings) -> None:
        self.ready = False
        guard = Guard(authenticator, settings)
        self._in_flight = guard.in_flight
        self._grace = settings.shutdown_grace
        self.app = web.Application(middlewares=[guard.middleware], client_max_size=MAX_BODY)
        self.app[REGISTRY] = registry
        self._add_routes()
        self._runner = web.AppRunner(
            self.app,
            access_log=None,
            logger=log,
            handler_cancellation=True,
            keepalive_timeout=KEEPALIVE,
            shutdown_timeout=CUT_OFF,
        )

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port; 0 picks a free one.

        Raises:
            OSError: the port cannot be had.

        """
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, reuse_port=False).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Let requests in flight finish, for at most `shutdown_grace` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._grace
        for site in self._runner.sites:
            await site.stop()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._in_flight.drain(), self._grace)
        server = self._runner.server
        if server is not None:  # it was started
            # Every request is handled; what is left is to send answers to those who read slowly.
            server.pre_shutdown()
            await server.shutdown(max(CUT_OFF, deadline - loop.time()))
        await self._runner.cleanup()

    def _add_routes(self) -> None:
        instance = PREFIX + "/instances/{instanceId:[^/]+}"
        self.app.add_routes(
            [
                web.get("/", _to_panel),
                web.get("/livez", _livez),
                web.get("/readyz", self._readyz),
                web.post(instance, api.post_instance),
                web.put(instance, api.put_instance),
                web.get(instance, api.get_instance),
                web.delete(instance, api.delete_instance),
                web.get(PREFIX + "/services", _services),
                web.get(PREFIX + "/services/", _services),
                web.get(PREFIX + "/services/json", api.get_services),
                web.get(PREFIX + "/services/{name:[^/]+}", _service),
                web.get(PREFIX + "/static/{file}", panel.static_file),
            ]
        )

    async def _readyz(self, request: web.Request) -> web.Response:
        registry = request.app[REGISTRY]
        lines = ["ok" if self.ready else "not ready"]
        if "verbose" in request.query:
            lines.append(f"serving: {'yes' if self.ready else 'no, starting or stopping'}")
            lines.append(f"instances: {registry.store.count()}")
            lines.append(f"heartbeats: {registry.heartbeats} since the start")
            lines.append(f"warming: {'yes, watchers of an earlier run are not yet told who is gone' if registry.warming else 'no'}")
        return web.Response(text="\n".join(lines) + "\n", status=200 if self.ready else 503)


async def _to_panel(_: web.Request) -> web.Response:
    raise web.HTTPFound(PREFIX + "/services/")


async def _livez(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def _services(request: web.Request) -> web.Response:
    return _negotiated(await (api.get_services if prefers_json(request) else panel.services_page)(request))


async def _service(request: web.Request) -> web.Response:
    return _negotiated(await (api.get_service if prefers_json(request) else panel.service_page)(request))


def _negotiated(response: web.Response) -> web.Response:
    response.headers["Vary"] = "Accept"
    return response
