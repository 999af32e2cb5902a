"""The heartbeat stream: reads as fast as messages come, answers at most every 5 or 25 ms.

Two tasks a stream. The reader handles messages and notes what is to be answered. The writer, which is the handler itself, says the
latest state and then rests: an answer costs the server twice as much as reading a message, and one answer covers all before it.
The end of the stream cuts a rest short. A client that reads no answers blocks its writer only; its heartbeats go on counting.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, TypeVar

import grpc
import structlog

from luna_grpc.errors import LunaError
from luna_grpc.rpc import convert
from luna_grpc.rpc.errors import Context, status_code
from luna_grpc.store import Registration
from luna_grpc.streams import HeartbeatStream
from luna_grpc.v1 import registry_pb2 as pb

log = structlog.get_logger("luna.grpc")
T = TypeVar("T")

REST: Final = 0.005
"""Seconds between two answers to a client that waits for each."""
LONG_REST: Final = 0.025
"""The same, to a client that sends on without waiting: it cannot be in a hurry."""
SLICE: Final = 250
"""Instances handled before others get their turn."""
MAX_FAILURES: Final = 10_000
"""A client that leaves more of them unread has to wait."""
MAX_BYTES: Final = 1024 * 1024
"""An answer is cut at about this size: a quarter of what a gRPC client takes by default."""


class HeartbeatCall:
    """One call of StreamHeartbeats."""

    def __init__(self, stream: HeartbeatStream, lease: pb.Lease, context: Context) -> None:
        self._stream = stream
        self._lease = lease
        self._context = context
        self._handled = 0  # the sequence of the last message
        self._answered = 0  # the same, of the last message whose failures have all been told
        self._failures: dict[str, pb.HeartbeatFailure] = {}
        self._owed = 0  # messages that came since the last answer
        self._over = False  # whether the client has half-closed
        self._ending = False  # whether the server ends the stream
        self._loop = asyncio.get_running_loop()
        self._rests_until = 0.0  # when the writer may answer again, by the loop's clock
        self._timer: asyncio.TimerHandle | None = None  # wakes the writer then
        self._wake = asyncio.Event()
        self._told: asyncio.Future[None] | None = None  # waited for by a reader that has too much to tell

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
            if self._timer is not None:
                self._timer.cancel()
            await self._take_down(self._stream.close(broken=broken and not self._ending))

    async def _take_down(self, held: list[Registration]) -> None:
        for part in _slices(held):
            await self._stream.take_down(part)
            await asyncio.sleep(0)
        if held:
            log.info("stream broke", instances=len(held), on_disconnect=self._stream.on_disconnect.value, peer=self._context.peer())

    def end(self) -> None:
        """Ask the client to go elsewhere, and return after that."""
        self._ending = True
        self._wake.set()

    async def _read(self) -> None:
        try:
            while (message := await self._context.read()) is not grpc.aio.EOF:
                await self._handle(message)
        finally:
            self._over = True
            self._wake.set()

    async def _handle(self, message: pb.StreamHeartbeatsRequest) -> None:
        if message.HasField("options"):
            # A mistake here concerns no instance, so it cannot be a failure: it ends the call. See the proto.
            self._stream.on_disconnect = convert.on_disconnect(message.options.on_disconnect)
        for entries in _slices(message.heartbeats):
            for entry in entries:
                await self._beat(entry)
            if len(entries) == SLICE:
                await self._let_others_run()
        for ids in _slices(message.instance_ids):
            for instance_id in self._stream.renew(ids):
                await self._beat(pb.HeartbeatRequest(instance_id=instance_id))
            if len(ids) == SLICE:
                await self._let_others_run()
        self._handled = message.sequence
        self._owed += 1
        if self._timer is None:
            self._wake_after(self._rests_until - self._loop.time())
        if len(self._failures) > MAX_FAILURES:
            await self._let_others_run()

    async def _beat(self, entry: pb.HeartbeatRequest) -> None:
        self._stream.bind(entry.instance_id, entry.generation)
        try:
            await self._stream.beat(convert.beat(entry))
        except LunaError as error:
            self._failed(entry.instance_id, error)

    def _failed(self, instance_id: str, error: LunaError) -> None:
        code = status_code(error).value[0]
        self._failures[instance_id] = pb.HeartbeatFailure(instance_id=instance_id, code=code, message=error.message)

    async def _let_others_run(self) -> None:
        await asyncio.sleep(0)
        if len(self._failures) > MAX_FAILURES:
            self._told = self._loop.create_future()
            self._wake.set()
            await self._told
            self._told = None

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            rest = REST if self._owed <= 1 else LONG_REST
            # The last answer, also when none is owed: on a connection that has died, what looks like a half-close is a break, and
            # this write fails.
            last = self._over or self._ending
            if self._owed or self._failures or last:
                await self._context.write(self._answer())
            if self._failures:
                self._wake.set()
            elif last:
                return
            elif not (self._over or self._ending):
                self._rest(rest)

    def _rest(self, seconds: float) -> None:
        self._wake.clear()
        self._rests_until = self._loop.time() + seconds
        if self._owed and self._timer is None:  # messages came while the answer was on its way
            self._wake_after(seconds)

    def _wake_after(self, seconds: float) -> None:
        if seconds <= 0:
            self._wake.set()
        else:
            self._timer = self._loop.call_later(seconds, self._rested)

    def _rested(self) -> None:
        self._timer = None
        self._wake.set()

    def _answer(self) -> pb.StreamHeartbeatsResponse:
        """Say what is to be said, or a part of it; the sequence goes on when nothing is left."""
        answer = pb.StreamHeartbeatsResponse(lease=self._lease, reconnect=self._ending)
        room = MAX_BYTES
        while self._failures and room > 0:
            _, failure = self._failures.popitem()
            answer.failures.append(failure)
            room -= failure.ByteSize()
        if not self._failures:
            if self._told is not None and not self._told.done():
                self._told.set_result(None)
            self._answered = self._handled
            self._owed = 0
        answer.sequence = self._answered
        return answer


def _slices(things: Sequence[T]) -> Sequence[Sequence[T]]:
    if len(things) <= SLICE:  # nearly always, and then this must cost nothing
        return (things,) if things else ()
    return [things[start : start + SLICE] for start in range(0, len(things), SLICE)]
