"""grpc.health.v1: what load balancers and probes ask, without credentials.

Not the stock servicer: that one writes to watchers under a lock, so one watcher that does not read blocks all others, and the
shutdown.
"""

import asyncio
from typing import Final

from grpc_health.v1 import health_pb2

from luna_grpc.errors import LunaError, NotFoundError
from luna_grpc.model import Actor
from luna_grpc.rpc.drain import Streams
from luna_grpc.rpc.errors import Context, Handler
from luna_grpc.rpc.guard import Guard
from luna_grpc.rpc.limits import StreamCount

NAME: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
MAX_WATCHES: Final = 10_000

Status = health_pb2.HealthCheckResponse


class HealthService:
    """Says of every service it knows the same: SERVING or not."""

    def __init__(self, *services: str, count: StreamCount) -> None:
        self.watches = Streams("health watches", MAX_WATCHES, count)
        self._services = frozenset(services)
        self._serving = False
        self._watching: set[_Watch] = set()

    def set(self, *, serving: bool) -> None:
        """Say SERVING or NOT_SERVING from now on."""
        self._serving = serving
        for watch in self._watching:
            watch.wake.set()

    async def check(self, request: health_pb2.HealthCheckRequest, _: Actor) -> health_pb2.HealthCheckResponse:
        """Serve Check. NOT_FOUND for a service that is not known here."""
        if request.service not in self._services:
            raise NotFoundError("there is no such service here")
        return Status(status=self._status(request.service))

    async def watch(self, request: health_pb2.HealthCheckRequest, actor: Actor, context: Context) -> None:
        """Serve Watch."""
        watch = _Watch()
        with self.watches.opened(watch, actor):
            self._watching.add(watch)
            try:
                told = None
                while True:
                    watch.wake.clear()
                    status = self._status(request.service)
                    if status != told:
                        await context.write(Status(status=status).SerializeToString())
                        told = status
                    elif self.watches.draining:
                        return
                    else:
                        await watch.wake.wait()
            finally:
                self._watching.discard(watch)

    def handlers(self, guard: Guard) -> dict[str, Handler]:
        """Return the handler of each rpc by its name in the proto."""
        return {
            "Check": guard.unary(None, health_pb2.HealthCheckRequest, self.check),
            "Watch": guard.answering(None, health_pb2.HealthCheckRequest, self.watch),
        }

    def _status(self, service: str) -> int:
        if service not in self._services:
            return int(Status.SERVICE_UNKNOWN)
        return int(Status.SERVING if self._serving else Status.NOT_SERVING)


class _Watch:
    """One call of Watch."""

    def __init__(self) -> None:
        self.wake = asyncio.Event()

    def end(self) -> None:
        """See `luna_grpc.rpc.drain.Stream`."""
        self.wake.set()

    def refuse(self, error: LunaError) -> None:
        """See `luna_grpc.rpc.drain.Stream`; nobody is behind it who could be refused."""
