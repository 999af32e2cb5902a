"""A worker that keeps itself registered with Luna over gRPC, from its start until SIGTERM or Ctrl-C.

What it says of its health is the last line of its standard input: OK or DOWN.
"""

import asyncio
import base64
import os
import random
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeAlias

import grpc
from google.rpc import code_pb2

from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc

Stub: TypeAlias = "registry_pb2_grpc.RegistryAsyncStub"  # only the stub file knows this class; at run time one serves both kinds

ADDRESS: Final = os.environ.get("LUNA_ADDRESS", "127.0.0.1:50051")
USER: Final = f"{os.environ.get('LUNA_AUTH_USERNAME', 'admin')}:{os.environ.get('LUNA_AUTH_PASSWORD', '')}"
ID: Final = os.environ.get("INSTANCE_ID", "orders-python:localhost:8080")
OWNER: Final = str(uuid.uuid4())  # with it this process gets its own registration back, and no one else's
CREDENTIALS: Final = (("authorization", "Basic " + base64.b64encode(USER.encode()).decode()),)
REFUSALS: Final = {
    code_pb2.UNAUTHENTICATED: "wrong credentials: check LUNA_AUTH_USERNAME and LUNA_AUTH_PASSWORD",
    code_pb2.PERMISSION_DENIED: "not allowed",
    code_pb2.INVALID_ARGUMENT: "not accepted",
    code_pb2.ALREADY_EXISTS: "another registration has taken over",
    code_pb2.FAILED_PRECONDITION: "another registration has taken over",
}
"""The registry would say the same to the next try."""


class RefusedError(Exception):
    """The registry does not want this worker."""


@asynccontextmanager
async def connect() -> AsyncIterator[Stub]:
    """Open a connection of its own: one that is shared with other parts of a program may be the one that has just gone silent."""
    async with grpc.aio.insecure_channel(ADDRESS, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield registry_pb2_grpc.RegistryStub(channel)


class Worker:
    """One registration, and what the registry has said of it."""

    def __init__(self) -> None:
        self._stopping = False
        self._woken = asyncio.Event()
        self._health: pb.Status.ValueType = pb.STATUS_OK
        self._generation = 0  # of the registration that we hold; 0: none
        self._epoch = ""
        self._interval = 10.0  # until the registry names another
        self._attempts = 0  # since the last answer

    def stop(self) -> None:
        """Have `run` come to its end."""
        self._stopping = True
        self._woken.set()

    def say(self, health: "pb.Status.ValueType") -> None:
        """Tell the registry of the health: at once, or when it is back."""
        self._health = health
        self._woken.set()

    async def run(self) -> None:
        """Register and beat until told to stop, then deregister. A registry that is away is waited for.

        Raises:
            RefusedError: another try makes no sense.

        """
        while not self._stopping:
            try:
                async with connect() as registry:
                    if not self._generation:
                        await self._register(registry)
                    await self._beat(registry)
            except TimeoutError:
                print("the registry is silent; trying again", file=sys.stderr)
            except grpc.aio.AioRpcError as error:
                _raise_if_refused(error.code().value[0], error.details())
                print(f"{error.details()}; trying again", file=sys.stderr)
            # Full jitter, or else all workers of a registry would come back to it at the same moment.
            await self._woken_within(random.uniform(0, min(self._interval, 0.5 * 2 ** min(self._attempts, 10))))  # noqa: S311
            self._attempts += 1
        if self._generation:
            await self._deregister()

    async def _register(self, registry: Stub) -> None:
        # At our start, whoever has the id is most likely our own earlier run, and is replaced. Later on it is our successor.
        instance = pb.Instance(instance_id=ID, version="1.0.0", status=self._health)
        request = pb.RegisterRequest(instance=instance, replace=not self._epoch, owner=OWNER)
        answer = await registry.Register(request, metadata=CREDENTIALS, timeout=5)
        self._generation = answer.instance.generation
        self._learn(answer.lease)
        print(f"registered {ID}", flush=True)

    def _learn(self, lease: pb.Lease) -> None:
        self._interval = lease.heartbeat_interval.ToTimedelta().total_seconds()
        self._epoch = lease.epoch
        self._attempts = 0

    async def _beat(self, registry: Stub) -> None:
        """Beat on one stream until there is a reason to register again, to open another stream, or to stop."""
        async with asyncio.timeout(self._interval) as silence:
            async for answer in registry.StreamHeartbeats(self._heartbeats(), metadata=CREDENTIALS):
                for failure in answer.failures:
                    _raise_if_refused(failure.code, failure.message)
                missing = any(failure.code == code_pb2.NOT_FOUND for failure in answer.failures)
                forgotten = missing or answer.lease.epoch != self._epoch  # the registry was started anew
                if forgotten:
                    self._generation = 0
                self._learn(answer.lease)
                if forgotten or answer.reconnect:
                    return
                # One interval until the next heartbeat, and one for its answer.
                silence.reschedule(asyncio.get_running_loop().time() + 2 * self._interval)

    async def _heartbeats(self) -> AsyncIterator[pb.StreamHeartbeatsRequest]:
        # The first message binds the stream to our generation: it renews no other. The end of this iterator half-closes it.
        spoken = True
        while not self._stopping:
            if spoken:
                heartbeat = pb.HeartbeatRequest(instance_id=ID, generation=self._generation, status=self._health)
                yield pb.StreamHeartbeatsRequest(heartbeats=[heartbeat])
            else:
                yield pb.StreamHeartbeatsRequest(instance_ids=[ID])
            spoken = await self._woken_within(self._interval)

    async def _deregister(self) -> None:
        try:
            async with connect() as registry:
                request = pb.DeregisterRequest(instance_id=ID, generation=self._generation)
                await registry.Deregister(request, metadata=CREDENTIALS, timeout=5)
            print(f"deregistered {ID}", flush=True)
        except grpc.aio.AioRpcError as error:
            print(f"not deregistered, the lease will run out: {error.details()}", file=sys.stderr)

    async def _woken_within(self, seconds: float) -> bool:
        """Wait, unless there is something to say or to stop; return whether there is."""
        if self._stopping:
            return True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), seconds)
        woken = self._woken.is_set()
        self._woken.clear()
        return woken


def _raise_if_refused(code: int, message: str | None) -> None:
    if code in REFUSALS:
        raise RefusedError(f"{REFUSALS[code]} ({message})")


def listen(worker: Worker) -> None:
    """Read a piece of the standard input, and pass its last word on."""
    words = os.read(0, 1000).decode(errors="replace").split()
    if not words:
        asyncio.get_running_loop().remove_reader(0)  # nobody is there to say anything
    elif words[-1] in {"OK", "DOWN"}:
        worker.say(pb.Status.Value(f"STATUS_{words[-1]}"))


async def main() -> int:
    """Run one worker; return the exit code."""
    loop, worker = asyncio.get_running_loop(), Worker()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    with suppress(PermissionError):  # a file, or /dev/null
        loop.add_reader(0, listen, worker)
    try:
        await worker.run()
    except RefusedError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
