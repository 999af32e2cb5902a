"""Server reflection: what grpcurl asks to know the rpcs. The stock servicer, behind the guard."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from luna_grpc.access import Action
from luna_grpc.errors import LunaError
from luna_grpc.model import Actor
from luna_grpc.rpc.drain import Streams
from luna_grpc.rpc.errors import Context, Handler
from luna_grpc.rpc.guard import Guard, parsed
from luna_grpc.rpc.limits import StreamCount

NAME: Final = reflection.SERVICE_NAME
MAX_STREAMS: Final = 1_000


class ReflectionService:
    """Tells of these services."""

    def __init__(self, *services: str, count: StreamCount) -> None:
        self.streams = Streams("reflection streams", MAX_STREAMS, count)
        self._servicer = reflection.aio.ReflectionServicer(services)

    async def info(self, actor: Actor, context: Context) -> None:
        """Serve ServerReflectionInfo."""
        stream = _Stream(context)
        with self.streams.opened(stream, actor):
            async for answer in self._servicer.ServerReflectionInfo(stream.requests(), context):
                await context.write(answer.SerializeToString())

    def handlers(self, guard: Guard) -> dict[str, Handler]:
        """Return the handler of each rpc by its name in the proto."""
        return {"ServerReflectionInfo": guard.streaming(Action.READ, self.info)}


class _Stream:
    """One call of ServerReflectionInfo."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._over: asyncio.Future[LunaError | None] = asyncio.get_running_loop().create_future()

    async def requests(self) -> AsyncIterator[ServerReflectionRequest]:
        """Yield what the client asks, until it asks nothing more or the stream is to end."""
        while (body := await self._read()) is not grpc.aio.EOF:
            yield parsed(ServerReflectionRequest, body)

    async def _read(self) -> Any:  # noqa: ANN401 - bytes, or grpc's mark for the end
        """Wait for a message or the end of the stream, whichever comes first."""
        reading = asyncio.ensure_future(self._context.read())
        try:
            await asyncio.wait((reading, self._over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            reading.cancel()  # has no effect on one that is done
        if not self._over.done():
            return reading.result()
        if (refusal := self._over.result()) is not None:
            raise refusal
        return grpc.aio.EOF

    def end(self) -> None:
        """See `luna_grpc.rpc.drain.Stream`."""
        if not self._over.done():
            self._over.set_result(None)

    def refuse(self, error: LunaError) -> None:
        """See `luna_grpc.rpc.drain.Stream`."""
        if not self._over.done():
            self._over.set_result(error)
