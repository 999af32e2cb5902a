"""The heartbeat stream: reads as fast as messages come, answers at most every 5 ms.

Two tasks a stream. The reader handles messages and notes what is to be answered. The writer, which is the handler itself, says the
latest state and then rests: an answer costs the server more than reading a message, and one answer covers all messages before it. A
client that reads no answers blocks its writer only; its heartbeats go on counting.
"""

import asyncio
from collections.abc import Iterable
from itertools import islice
from typing import Final

import grpc

from luna_grpc.errors import LunaError
from luna_grpc.registry import HeartbeatStream
from luna_grpc.rpc import convert
from luna_grpc.rpc.errors import Context, status_code
from luna_grpc.v1 import registry_pb2 as pb

REST: Final = 0.005
"""Seconds between two answers on one stream."""
SLICE: Final = 1000
"""Ids handled before others get their turn."""
MAX_FAILURES: Final = 10_000
"""The most failures in one answer, to keep it below the 4 MiB that a gRPC client takes by default."""


class HeartbeatCall:
    """One call of StreamHeartbeats."""

    def __init__(self, stream: HeartbeatStream, lease: pb.Lease, context: Context) -> None:
        self._stream = stream
        self._lease = lease
        self._context = context
        self._handled = 0  # the sequence of the last message
        self._answered = 0  # the same, of the last message whose failures have all been told
        self._failures: dict[str, LunaError] = {}
        self._owed = False  # whether an answer is owed
        self._over = False  # whether the client has half-closed
        self._ending = False  # whether the server ends the stream
        self._wake = asyncio.Event()
        self._told = asyncio.Event()

    async def run(self) -> None:
        """Serve the stream until the client half-closes or the server wants to end it."""
        reader = asyncio.create_task(self._read())
        broken = True
        try:
            await self._write()
            broken = False
            if self._over:
                await reader  # raises what was wrong with a message as a whole
        finally:
            reader.cancel()
            await self._stream.close(broken=broken and not self._ending)

    def end(self) -> None:
        """Ask the client to go elsewhere, and return after that."""
        self._ending = True
        self._wake.set()

    async def _read(self) -> None:
        try:
            while (message := await self._context.read()) is not grpc.aio.EOF:
                await self._handle(message)
                if len(self._failures) > MAX_FAILURES:  # a client that reads no answers has to stop at some time
                    self._told.clear()
                    await self._told.wait()
        finally:
            self._over = True
            self._wake.set()

    async def _handle(self, message: pb.StreamHeartbeatsRequest) -> None:
        if message.HasField("options"):
            # A mistake here concerns no instance, so it cannot be a failure: it ends the call. See the proto.
            self._stream.on_disconnect = convert.on_disconnect(message.options.on_disconnect)
        for entry in message.heartbeats:
            try:
                await self._stream.beat(convert.beat(entry))
            except LunaError as error:
                self._failures[entry.instance_id] = error
        ids = message.instance_ids
        if len(ids) <= SLICE:
            await self._renew(ids)
        else:
            for start in range(0, len(ids), SLICE):
                await self._renew(ids[start : start + SLICE])
                await asyncio.sleep(0)
        self._handled = message.sequence
        self._owed = True
        self._wake.set()

    async def _renew(self, ids: Iterable[str]) -> None:
        for instance_id, error in await self._stream.renew(ids):
            self._failures[instance_id] = error

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            # The last answer, also when none is owed: on a connection that has died, what looks like a half-close is a break, and
            # this write fails.
            last = self._over or self._ending
            if self._owed or last:
                await self._context.write(self._answer())
            if self._failures:
                self._wake.set()
            elif last:
                return
            await asyncio.sleep(REST)

    def _answer(self) -> pb.StreamHeartbeatsResponse:
        told = list(islice(self._failures.items(), MAX_FAILURES))
        for instance_id, _ in told:
            del self._failures[instance_id]
        if not self._failures:
            self._told.set()
            self._answered = self._handled
            self._owed = False
        return pb.StreamHeartbeatsResponse(
            sequence=self._answered,
            failures=[
                pb.HeartbeatFailure(instance_id=instance_id, code=status_code(error).value[0], message=error.message)
                for instance_id, error in told
            ],
            lease=self._lease,
            reconnect=self._ending,
        )
