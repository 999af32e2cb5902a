"""grpc.health.v1: what load balancers and probes ask, without credentials.

Not the stock servicer: that one writes to watchers under a lock, so one watcher that does not read blocks all others, and the
shutdown.
"""

import asyncio
from typing import Final

from grpc_health.v1 import health_pb2, health_pb2_grpc

from luna_grpc.errors import NotFoundError
from luna_grpc.rpc.drain import Streams
from luna_grpc.rpc.errors import Context, answers_errors

NAME: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
MAX_WATCHES: Final = 10_000

Status = health_pb2.HealthCheckResponse


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it comes without types
    """Says of every service it knows the same: SERVING or not."""

    def __init__(self, *services: str) -> None:
        self.watches = Streams("health watches", MAX_WATCHES)
        self._services = frozenset(services)
        self._serving = False
        self._wakes: set[asyncio.Event] = set()

    def set(self, *, serving: bool) -> None:
        """Say SERVING or NOT_SERVING from now on."""
        self._serving = serving
        for wake in self._wakes:
            wake.set()

    @answers_errors
    async def Check(self, request: health_pb2.HealthCheckRequest, _: Context) -> health_pb2.HealthCheckResponse:  # noqa: N802 - its name in the proto
        """Serve Check. NOT_FOUND for a service that is not known here."""
        if request.service not in self._services:
            raise NotFoundError("there is no such service here")
        return Status(status=self._status(request.service))

    @answers_errors
    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:  # noqa: N802 - its name in the proto
        """Serve Watch."""
        wake = asyncio.Event()
        with self.watches.opened(wake.set):
            self._wakes.add(wake)
            try:
                told = None
                while True:
                    wake.clear()
                    status = self._status(request.service)
                    if status != told:
                        await context.write(Status(status=status))
                        told = status
                    elif self.watches.draining:
                        return
                    else:
                        await wake.wait()
            finally:
                self._wakes.discard(wake)

    def _status(self, service: str) -> int:
        if service not in self._services:
            return int(Status.SERVICE_UNKNOWN)
        return int(Status.SERVING if self._serving else Status.NOT_SERVING)
