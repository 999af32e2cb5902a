"""A client on the bare stubs, as small as one can be that conforms. With the name of a flaw as its argument it does not."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress

import grpc

from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import basic

ID = os.environ["INSTANCE_ID"]
FLAW = "".join(sys.argv[1:])
CREDENTIALS = (("authorization", basic(os.environ["LUNA_AUTH_USERNAME"], os.environ["LUNA_AUTH_PASSWORD"])),)


class RawClient:
    """One registration."""

    def __init__(self) -> None:
        self.health = pb.STATUS_OK
        self.epoch = ""
        self.wake = asyncio.Event()
        self.stopping = False

    def stop(self) -> None:
        self.stopping = True
        self.wake.set()

    def listen(self) -> None:
        words = os.read(0, 100).decode().split()
        if not words:
            asyncio.get_running_loop().remove_reader(0)
        elif FLAW != "keeps its health to itself":
            self.health = pb.Status.Value(f"STATUS_{words[-1]}")
            self.wake.set()

    async def run(self) -> None:
        while not self.stopping:
            async with grpc.aio.insecure_channel(
                os.environ["LUNA_ADDRESS"], options=[("grpc.use_local_subchannel_pool", 1)]
            ) as channel:
                try:
                    await self.session(registry_pb2_grpc.RegistryStub(channel))
                except grpc.aio.AioRpcError as error:
                    if error.code() == grpc.StatusCode.UNAUTHENTICATED and FLAW != "tries again":
                        sys.exit(f"wrong credentials: {error.details()}")
            await asyncio.sleep(0.1)

    async def session(self, registry: "registry_pb2_grpc.RegistryAsyncStub") -> None:
        if not (self.epoch and FLAW == "never registers again"):
            health = pb.STATUS_OK if FLAW == "forgets its health" else self.health
            request = pb.RegisterRequest(instance=pb.Instance(instance_id=ID, status=health), replace=True)
            self.epoch = (await registry.Register(request, metadata=CREDENTIALS, timeout=5)).lease.epoch
        async for answer in registry.StreamHeartbeats(self.heartbeats(), metadata=CREDENTIALS):
            if answer.failures:
                return
        if self.stopping and FLAW != "leaves without a word":
            await registry.Deregister(pb.DeregisterRequest(instance_id=ID), metadata=CREDENTIALS, timeout=5)

    async def heartbeats(self) -> AsyncIterator[pb.StreamHeartbeatsRequest]:
        options = pb.StreamOptions(
            on_disconnect=pb.ON_DISCONNECT_MARK_DOWN if FLAW == "is down when cut off" else pb.ON_DISCONNECT_KEEP
        )
        status = None if FLAW == "forgets its health" else self.health
        while not self.stopping:
            yield pb.StreamHeartbeatsRequest(heartbeats=[pb.HeartbeatRequest(instance_id=ID, status=status)], options=options)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.wake.wait(), 10 if FLAW == "is too slow" else 1)
            status = self.health if self.wake.is_set() else None
            self.wake.clear()


async def main() -> None:
    """Run until SIGTERM."""
    client, loop = RawClient(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, client.stop)
    loop.add_reader(0, client.listen)
    await client.run()


asyncio.run(main())
