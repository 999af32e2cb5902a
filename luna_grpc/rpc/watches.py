"""The watch stream: one task a watcher behind its bounded queue, joining bytes that were encoded once for all."""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Final

from luna_grpc.errors import LunaError
from luna_grpc.pacing import OneAtATime
from luna_grpc.registry import Registry
from luna_grpc.rpc import convert
from luna_grpc.rpc.errors import Context
from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.watch import Batch, Watcher

MAX_BYTES: Final = 64 * 1024
"""A message is cut at about this size: as much waits for a watcher that does not read, and gRPC holds it once more."""


class WatchCall:
    """One call of WatchServices."""

    def __init__(self, registry: Registry, names: Iterable[str], token: str, context: Context, catching_up: OneAtATime) -> None:
        self._context = context
        self._wake = asyncio.Event()
        self._ending = False
        self._refusal: LunaError | None = None
        self._registry = registry
        self._names = names
        self._token = token
        self._catching_up = catching_up
        """Shared by all watches: whoever has to be told much is told it piece by piece, in turn with the others."""

    async def run(self) -> None:
        """Tell of changes until the client leaves or the server wants to end the stream."""
        watcher = self._registry.watch(self._names, self._token, self._wake.set)
        try:
            while self._refusal is None:
                for message in (parts := await self._next(watcher)):
                    await self._context.write(message)
                if parts:
                    continue
                if self._ending:
                    return
                await self._wake.wait()
                self._wake.clear()
            raise self._refusal
        finally:
            watcher.close()

    async def _next(self, watcher: Watcher) -> list[bytes]:
        if not watcher.behind:
            return _encoded(watcher.take())
        async with self._catching_up:
            return _encoded(watcher.take())

    def end(self) -> None:
        """Say what is left to say, and return."""
        self._ending = True
        self._wake.set()

    def refuse(self, error: LunaError) -> None:
        """Tell nothing more, and end the stream with an error."""
        self._refusal = error
        self._wake.set()


def _encoded(batch: Batch | None) -> list[bytes]:
    """Encode a batch at once: for as long as a watcher does not read, only the bytes wait, and not what they were made from."""
    return [] if batch is None else list(messages(batch))


def messages(batch: Batch) -> Iterator[bytes]:
    """Encode a batch as one WatchServicesResponse, or as several when it is large.

    `reset` goes with the first; `synced` and the token with the last, for only then the batch is complete.
    """
    parts: list[bytes] = [pb.WatchServicesResponse(reset=True).SerializeToString()] if batch.reset else []
    size = 0
    for event in batch.events:
        part = convert.event(event)
        if size and size + len(part) > MAX_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
        parts.append(part)
        size += len(part)
    parts.append(pb.WatchServicesResponse(synced=batch.synced, resume_token=batch.token).SerializeToString())
    yield b"".join(parts)
