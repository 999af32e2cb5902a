"""The heartbeat stream: reads as fast as messages come, answers at most every 5 or 25 ms.

Two tasks a stream. The reader handles messages and notes what is to be answered. The writer, which is the handler itself, says the
latest state and then rests: an answer costs the server twice as much as reading a message, and one answer covers all before it.
The end of the stream cuts a rest short. A client that reads no answers blocks its writer only; its heartbeats go on counting.

What a message changes may have to be kept on a disk. No heartbeat waits for that: each change is made in a task of its own, and the
message counts as handled when they are done. They begin in the order in which they came.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from typing import Final, TypeAlias, TypeVar

import grpc
import structlog

from luna_grpc.errors import LunaError, ResourceExhaustedError, UnavailableError
from luna_grpc.registry import Beat
from luna_grpc.rpc import convert
from luna_grpc.rpc.errors import Context, status_code
from luna_grpc.rpc.guard import parsed
from luna_grpc.rpc.limits import spelled
from luna_grpc.store import Registration
from luna_grpc.streams import HeartbeatStream
from luna_grpc.v1 import registry_pb2 as pb

log = structlog.get_logger("luna.grpc")
T = TypeVar("T")
Failures: TypeAlias = dict[str, pb.HeartbeatFailure]
"""By instance."""

REST: Final = 0.005
"""Seconds between two answers to a client that waits for each."""
LONG_REST: Final = 0.025
"""The same, to a client that sends on without waiting: it cannot be in a hurry."""
SLICE: Final = 250
"""Instances handled before others get their turn."""
MAX_FAILURES: Final = 10_000
"""A client that leaves more of them unread has to wait."""
MAX_CHANGES: Final = 10_000
"""When so many changes of one stream wait for the disk, further ones are refused; they count as heartbeats."""
MAX_BYTES: Final = 1024 * 1024
"""An answer is cut at about this size: a quarter of what a gRPC client takes by default."""


class Message:
    """A message that was read, or several in a row of which nothing is under way."""

    __slots__ = ("changes", "count", "failures", "sequence")

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        """Of the last one."""
        self.count = 1
        """How many they are."""
        self.failures: Failures | None = None
        """Told together, with the answer that says that the message was handled."""
        self.changes = 0
        """How many of its changes are under way."""


class Terms:
    """What every heartbeat is answered with, written once: the terms of all leases. Another epoch makes others."""

    lease: pb.Lease
    heard: pb.HeartbeatResponse
    answered: bytes
    """A StreamHeartbeatsResponse that holds nothing else; see `convert.event` for what it is joined with."""


class HeartbeatCall:
    """One call of StreamHeartbeats."""

    def __init__(self, stream: HeartbeatStream, terms: Terms, context: Context, refusals: Counter[str]) -> None:
        """`refusals` counts the heartbeats that are refused, by their code."""
        self._refusals = refusals
        self._stream = stream
        self._terms = terms
        self._context = context
        self._handled = 0  # the sequence of the last message of which all has been done, and of all before it
        self._answered = 0  # the same, of the last message whose failures have all been told
        self._owed = 0  # messages that were handled since the last answer
        self._failures: Failures = {}  # of the messages handled
        self._untold = 0  # failures of all messages
        self._changing: Counter[str] = Counter()  # how many changes of an id are under way
        self._changes: set[asyncio.Task[None]] = set()  # those changes
        self._unfinished: deque[Message] = deque()  # from the first message on whose changes are not all made
        self._over = False  # whether the client has half-closed
        self._ending = False  # whether the server ends the stream
        self._refusal: LunaError | None = None  # with what it ends it, if not well
        self._reader: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._rests_until = 0.0  # when the writer may answer again, by the loop's clock
        self._timer: asyncio.TimerHandle | None = None  # wakes the writer then
        self._woken = False
        self._waker: asyncio.Future[None] | None = None  # what the writer waits for
        self._told: asyncio.Future[None] | None = None  # waited for by a reader that has too much to tell

    async def run(self) -> None:
        """Serve the stream until the client half-closes or the server wants to end it."""
        reader = self._reader = asyncio.create_task(self._read())
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
        try:
            held = await self._stream.heard_only_here(held)
        except UnavailableError:  # the others cannot be asked; then their leases end in time
            return
        for part in _slices(held):
            await asyncio.gather(*map(self._stream.take_down, part))
        if held:
            log.info(
                "stream broke",
                instances=len(held),
                on_disconnect=self._stream.on_disconnect.value,
                peer=spelled(self._context.peer()),
            )

    def end(self) -> None:
        """Ask the client to go elsewhere, and return after that."""
        self._ending = True
        self._wake()

    def refuse(self, error: LunaError) -> None:
        """Take nothing more, and end the stream with an error."""
        self._refusal = error
        self._ending = True
        if self._reader is not None:
            self._reader.cancel()
        self._wake()

    async def _read(self) -> None:
        try:
            while (body := await self._context.read()) is not grpc.aio.EOF:
                await self._handle(parsed(pb.StreamHeartbeatsRequest, body))
            while self._changes:
                await asyncio.wait(self._changes)
        finally:
            self._over = True
            self._wake()

    async def _handle(self, request: pb.StreamHeartbeatsRequest) -> None:
        if request.HasField("options"):
            # A mistake here concerns no instance, so it cannot be a failure: it ends the call. See the proto.
            self._stream.on_disconnect = convert.on_disconnect(request.options.on_disconnect)
        message = Message(request.sequence)
        for entries in _slices(request.heartbeats):
            for entry in entries:
                self._hear_one(entry, message)
            if len(entries) == SLICE:
                await asyncio.sleep(0)
        for ids in _slices(request.instance_ids):
            for instance_id in self._stream.renew(ids):
                self._begin(Beat(instance_id), message)
            if len(ids) == SLICE:
                await asyncio.sleep(0)
        if self._unfinished or message.changes:
            self._merge()
            self._unfinished.append(message)
        else:
            self._finished(message)
        while self._untold > MAX_FAILURES:
            self._told = self._loop.create_future()
            await self._told

    def _hear_one(self, entry: pb.HeartbeatRequest, message: Message) -> None:
        self._stream.bind(entry.instance_id, entry.generation)
        try:
            beat = convert.beat(entry)
        except LunaError as error:
            self._failed(message, entry.instance_id, error)
            return
        # What is under way comes first: this may take it back.
        if beat.instance_id in self._changing or not self._stream.renewed(beat):
            self._begin(beat, message)

    def _begin(self, beat: Beat, message: Message) -> None:
        if len(self._changes) >= MAX_CHANGES:
            self._stream.renew((beat.instance_id,))
            refusal = ResourceExhaustedError(f"{MAX_CHANGES} changes of this stream are under way already; send this again later")
            self._failed(message, beat.instance_id, refusal)
            return
        message.changes += 1
        self._changing[beat.instance_id] += 1
        change = asyncio.create_task(self._change(self._stream.bound(beat), message))
        self._changes.add(change)
        change.add_done_callback(self._changes.discard)

    async def _change(self, beat: Beat, message: Message) -> None:
        try:
            await self._stream.beat(beat)
        except LunaError as error:
            self._failed(message, beat.instance_id, error)
        except Exception:
            log.exception("failed", rpc="StreamHeartbeats", instance_id=beat.instance_id)
            self._failed(message, beat.instance_id, UnavailableError("the registry failed; its log says how"))
        finally:
            self._changing[beat.instance_id] -= 1
            if not self._changing[beat.instance_id]:
                del self._changing[beat.instance_id]
            message.changes -= 1
            while self._unfinished and not self._unfinished[0].changes:
                self._finished(self._unfinished.popleft())

    def _failed(self, message: Message, instance_id: str, error: LunaError) -> None:
        self._refusals[error.code] += 1
        failure = pb.HeartbeatFailure(instance_id=instance_id, code=status_code(error).value[0], message=error.message)
        if message.failures is None:
            message.failures = {}
        self._untold += instance_id not in message.failures
        message.failures[instance_id] = failure

    def _merge(self) -> None:
        """Let those that only wait for messages before them become one: a disk may be silent for hours."""
        waiting = self._unfinished
        while len(waiting) > 1 and not waiting[-1].changes and not waiting[-2].changes:
            last = waiting.pop()
            waiting[-1].sequence = last.sequence
            waiting[-1].count += last.count
            if last.failures:
                waiting[-1].failures = waiting[-1].failures or {}
                self._collect(last.failures, waiting[-1].failures)

    def _collect(self, failures: Failures, into: Failures) -> None:
        """Let the later failure of an instance take the place of an earlier one."""
        before = len(into) + len(failures)
        into.update(failures)
        self._untold -= before - len(into)

    def _finished(self, message: Message) -> None:
        """Note that all messages up to this one have been handled, and let the writer say so."""
        self._handled = message.sequence
        self._owed += message.count
        if message.failures:
            self._collect(message.failures, self._failures)
        if self._timer is None:
            self._wake_after(self._rests_until - self._loop.time())

    async def _write(self) -> None:
        while True:
            if not self._woken:
                self._waker = self._loop.create_future()
                await self._waker
            self._woken = False
            if self._refusal is not None:
                raise self._refusal
            rest = REST if self._owed <= 1 else LONG_REST
            # The last answer, also when none is owed: on a connection that has died, what looks like a half-close is a break, and
            # this write fails.
            last = self._over or self._ending
            if self._owed or self._failures or last:
                await self._context.write(self._answer())
            if self._failures:
                self._wake()
            elif last:
                return
            elif not (self._over or self._ending):
                self._rest(rest)

    def _rest(self, seconds: float) -> None:
        self._woken = False
        self._rests_until = self._loop.time() + seconds
        if self._owed and self._timer is None:  # messages came while the answer was on its way
            self._wake_after(seconds)

    def _wake_after(self, seconds: float) -> None:
        if seconds <= 0:
            self._wake()
        else:
            self._timer = self._loop.call_later(seconds, self._rested)

    def _wake(self) -> None:
        self._woken = True
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)

    def _rested(self) -> None:
        self._timer = None
        self._wake()

    def _answer(self) -> bytes:
        """Say what is to be said, or a part of it; the sequence goes on when nothing is left."""
        answer = pb.StreamHeartbeatsResponse(reconnect=self._ending)
        room = MAX_BYTES
        while self._failures and room > 0:
            _, failure = self._failures.popitem()
            self._untold -= 1
            answer.failures.append(failure)
            room -= failure.ByteSize()
        if not self._failures:
            if self._told is not None and not self._told.done():
                self._told.set_result(None)
            self._answered = self._handled
            self._owed = 0
        answer.sequence = self._answered
        return self._terms.answered + answer.SerializeToString()


def _slices(things: Sequence[T]) -> Sequence[Sequence[T]]:
    if len(things) <= SLICE:  # nearly always, and then this must cost nothing
        return (things,) if things else ()
    return [things[start : start + SLICE] for start in range(0, len(things), SLICE)]
