"""Clients that keep instances registered, as the proto and docs/api.md tell them to, whatever becomes of the registry.

A client beats once in an interval, registers again what the registry has forgotten, and tries again after a random part of a wait
that doubles. It counts what went wrong, and never gives up.
"""

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, TypeAlias

import grpc
from aiohttp import ClientError, ClientSession, ClientTimeout
from harness import INSTANCES

from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import Stub, channel, instance_json

FIRST_WAIT: Final = 0.5
"""Seconds; the most that a client waits before its second attempt."""
PATIENCE: Final = 5.0
"""Seconds; the longest that a request may take, and it may take no longer than an interval."""
CONNECTING: Final = (
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # This is how long an attempt to connect may take, whatever its name says.
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5000),
)
"""The clients wait for a random time themselves; their connections need not wait much longer on top."""
Call: TypeAlias = "grpc.aio.StreamStreamCall[pb.StreamHeartbeatsRequest, pb.StreamHeartbeatsResponse]"
AT_ONCE: Final = 50
"""Registrations of one client that are under way at a time."""
Connect: TypeAlias = Callable[[], AbstractAsyncContextManager[Stub]]
"""Gives a stub for one attempt: on a connection of its own, or on one that is shared."""


class Client:
    """What all of them have in common; a kind says what an attempt is."""

    def __init__(self, every: float | None) -> None:
        self.every = every or 1.0
        """Seconds between two heartbeats."""
        self.alive_at = 0.0
        """Monotonic seconds: when all of its instances were last known to be renewed."""
        self.registered = 0
        """How many registrations were accepted."""
        self.troubles: Counter[str] = Counter()
        """How often what went wrong."""
        self._fixed = every is not None
        self._attempts = 0

    async def run(self) -> None:
        """Keep the instances alive until cancelled."""
        while True:
            try:
                await self._attempt()
            except grpc.aio.AioRpcError as error:
                self.troubles[f"{error.code().name} {error.details()}"[:140]] += 1
            except (TimeoutError, ClientError) as error:
                self.troubles[type(error).__name__] += 1
            # Full jitter, or all clients of a registry would come back at the same moment.
            await asyncio.sleep(random.uniform(0, min(self.every, FIRST_WAIT * 2 ** min(self._attempts, 10))))
            self._attempts += 1

    async def _attempt(self) -> None:
        raise NotImplementedError

    def _renewed(self) -> None:
        self.alive_at = time.monotonic()
        self._attempts = 0


class GrpcClient(Client):
    """Registers over gRPC."""

    def __init__(self, connect: Connect, ids: Sequence[str], *, every: float | None = None) -> None:
        super().__init__(every)
        self._connect = connect
        self._ids = ids
        self._owner = str(uuid.uuid4())
        self._generations: dict[str, int] = {}
        self._epoch = ""

    async def _register_the_lost(self, stub: Stub) -> None:
        lost = [instance_id for instance_id in self._ids if instance_id not in self._generations]
        for start in range(0, len(lost), AT_ONCE):
            await asyncio.gather(*(self._register(stub, instance_id) for instance_id in lost[start : start + AT_ONCE]))

    async def _register(self, stub: Stub, instance_id: str) -> None:
        request = pb.RegisterRequest(instance=pb.Instance(instance_id=instance_id), owner=self._owner)
        answer = await stub.Register(request, timeout=5)
        self._generations[instance_id] = answer.instance.generation
        self.registered += 1
        self._hear(answer.lease)

    def _hear(self, lease: pb.Lease) -> bool:
        """Take note of the terms; return whether the registry still remembers what this client registered."""
        self._attempts = 0
        if not self._fixed:
            self.every = lease.heartbeat_interval.ToTimedelta().total_seconds()
        known, self._epoch = self._epoch in ("", lease.epoch), lease.epoch
        return known


class StreamClient(GrpcClient):
    """Beats over one stream."""

    def __init__(
        self,
        connect: Connect,
        ids: Sequence[str],
        *,
        on_disconnect: pb.OnDisconnect.ValueType = pb.ON_DISCONNECT_KEEP,
        every: float | None = None,
    ) -> None:
        super().__init__(connect, ids, every=every)
        self._options = pb.StreamOptions(on_disconnect=on_disconnect)

    async def _attempt(self) -> None:
        async with self._connect() as stub:
            await self._register_the_lost(stub)
            call = stub.StreamHeartbeats()
            try:
                await self._beat(call)
            finally:
                call.cancel()

    async def _beat(self, call: Call) -> None:
        """Beat until there is a reason to register again or to open another stream."""
        beating = asyncio.create_task(self._send(call))
        try:
            # No answer within one interval: the peer may hang while its connection stays open.
            async with asyncio.timeout(self.every) as silence:
                async for answer in call:
                    if answer.reconnect:
                        await call.done_writing()
                    elif self._is_well(answer):
                        silence.reschedule(asyncio.get_running_loop().time() + 2 * self.every)
                    else:
                        return
            self.troubles["ended"] += 1
        finally:
            beating.cancel()
            await asyncio.wait([beating])

    async def _send(self, call: Call) -> None:
        beats = [pb.HeartbeatRequest(instance_id=each, generation=number) for each, number in self._generations.items()]
        await call.write(pb.StreamHeartbeatsRequest(heartbeats=beats, options=self._options))
        while True:
            await asyncio.sleep(self.every)
            await call.write(pb.StreamHeartbeatsRequest(instance_ids=self._ids))

    def _is_well(self, answer: pb.StreamHeartbeatsResponse) -> bool:
        """Take note of an answer; return False when something is to be registered again."""
        for failure in answer.failures:
            self._generations.pop(failure.instance_id, None)
        if not self._hear(answer.lease):
            self._generations.clear()
        if len(self._generations) < len(self._ids):
            return False
        self._renewed()
        return True


class UnaryClient(GrpcClient):
    """Beats by a call for each instance."""

    async def _attempt(self) -> None:
        async with self._connect() as stub:
            while True:
                await self._register_the_lost(stub)
                await asyncio.gather(*(self._beat(stub, *each) for each in list(self._generations.items())))
                if len(self._generations) == len(self._ids):
                    self._renewed()
                    await asyncio.sleep(self.every)

    async def _beat(self, stub: Stub, instance_id: str, generation: int) -> None:
        try:
            answer = await stub.Heartbeat(pb.HeartbeatRequest(instance_id=instance_id, generation=generation), timeout=5)
        except grpc.aio.AioRpcError as error:
            if error.code() not in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION}:
                raise
            self._generations.pop(instance_id, None)
        else:
            if not self._hear(answer.lease):
                self._generations.clear()


class RestClient(Client):
    """Beats as the clients of the original Luna do: a PUT, and a POST when that is answered with 404."""

    def __init__(self, session: ClientSession, instance_id: str, *, every: float) -> None:
        super().__init__(every)
        self._session = session
        self._timeout = ClientTimeout(min(PATIENCE, self.every))
        self._path = INSTANCES + instance_id
        self._body = instance_json(instance_id)

    async def _attempt(self) -> None:
        while True:
            async with self._session.put(self._path, json=self._body, timeout=self._timeout) as answer:
                status = answer.status
            if status == 404:
                async with self._session.post(self._path, json=self._body, timeout=self._timeout) as answer:
                    status = answer.status
                self.registered += status == 201
            if status not in {200, 201}:
                self.troubles[str(status)] += 1
                return
            self._renewed()
            await asyncio.sleep(self.every)


def own_connection(address: str) -> Connect:
    """Connect anew for each attempt."""

    @asynccontextmanager
    async def connect() -> AsyncIterator[Stub]:
        async with channel(address, options=CONNECTING) as connection:
            yield registry_pb2_grpc.RegistryStub(connection)

    return connect


def shared_connection(stub: Stub) -> Connect:
    """Use one connection, whose library connects it again."""

    @asynccontextmanager
    async def connect() -> AsyncIterator[Stub]:
        yield stub

    return connect


@asynccontextmanager
async def running(clients: Iterable[Client]) -> AsyncIterator[None]:
    """Run clients for as long as the context is open; none of them may fail."""
    tasks = [asyncio.create_task(client.run()) for client in clients]
    try:
        yield
        assert not [task for task in tasks if task.done()], "a client gave up"
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [result for result in results if not isinstance(result, asyncio.CancelledError)] == []
