"""Server reflection: what grpcurl asks to know the rpcs. The stock servicer, behind the guard."""

from collections.abc import AsyncIterator
from typing import Final

import grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from luna_grpc.access import Action
from luna_grpc.model import Actor
from luna_grpc.rpc.errors import Context, Handler
from luna_grpc.rpc.guard import Guard, parsed

NAME: Final = reflection.SERVICE_NAME


class ReflectionService:
    """Tells of these services."""

    def __init__(self, *services: str) -> None:
        self._servicer = reflection.aio.ReflectionServicer(services)

    async def info(self, _: Actor, context: Context) -> None:
        """Serve ServerReflectionInfo."""
        async for answer in self._servicer.ServerReflectionInfo(_requests(context), context):
            await context.write(answer.SerializeToString())

    def handlers(self, guard: Guard) -> dict[str, Handler]:
        """Return the handler of each rpc by its name in the proto."""
        return {"ServerReflectionInfo": guard.streaming(Action.READ, self.info)}


async def _requests(context: Context) -> AsyncIterator[ServerReflectionRequest]:
    while (body := await context.read()) is not grpc.aio.EOF:
        yield parsed(ServerReflectionRequest, body)
