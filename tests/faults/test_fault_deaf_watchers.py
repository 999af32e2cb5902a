"""Watchers that never read cost little, and nobody waits for them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import islice

from harness import measured, memory, percentile, seconds, soak, watching
from peer import DEFAULT_WINDOW, Peer
from probe import probing

from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from luna_grpc.watch import LOG_CAPACITY
from support import Stub, channel, luna

WATCH = "/luna.registry.v1.Registry/WatchServices"
DEAF = soak(50, 200)
CHANGES = soak(20_000, 100_000)
RATE = 4000
"""Changes a second."""
READING = 5
INSTANCES = [f"service-{number // 10}:10.0.0.{number % 250}:8080" for number in range(1000)]
P99 = 0.5
"""Seconds."""
GROWTH = 50e6
AGAIN = 10e6
LEFT = 30e6
"""Bytes."""


@asynccontextmanager
async def _deaf(address: str) -> AsyncIterator[None]:
    """Let watchers watch everything and never read: half of them with a connection each, on all kinds of windows."""
    peers = []
    for number in range(DEAF // 2):
        peers.append(await Peer.to(address, window=(0, DEFAULT_WINDOW, 2**30)[number % 3]))
        peers[-1].open(WATCH, b"", half_close=True)
    for number in range(10):
        peers.append(await Peer.to(address, window=(0, DEFAULT_WINDOW)[number % 2]))
        for _ in range(DEAF // 20):
            peers[-1].open(WATCH, b"", half_close=True)
    for peer in peers:
        peer.flush()
    yield
    assert not [peer for peer in peers if peer.closed.is_set()]
    for peer in peers:
        peer.close()
    await asyncio.gather(*(peer.closed.wait() for peer in peers))


def _flips() -> Iterator[pb.HeartbeatRequest]:
    """Let all instances report DOWN in turn, then all OK, and so on."""
    while True:
        for status in (pb.STATUS_DOWN, pb.STATUS_OK):
            for instance_id in INSTANCES:
                yield pb.HeartbeatRequest(instance_id=instance_id, status=status)


async def _change(stub: Stub, flips: Iterator[pb.HeartbeatRequest], number: int) -> None:
    """Make changes at an even rate, and return when all of them have been made."""
    call = stub.StreamHeartbeats()
    began = time.monotonic()
    for done in range(0, number, 10):
        await call.write(pb.StreamHeartbeatsRequest(heartbeats=islice(flips, 10)))
        await asyncio.sleep(began + done / RATE - time.monotonic())
    await call.done_writing()
    async for answer in call:
        assert not answer.failures


async def test_watchers_that_never_read_cost_little(record_property: Callable[[str, object], None]) -> None:
    """Memory grows by less than 50 MB and is given back, and the watchers that read are told in time."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(luna("--log-level", "warning"))
        stub, *others = [
            registry_pb2_grpc.RegistryStub(await stack.enter_async_context(channel(server.grpc))) for _ in range(1 + READING)
        ]
        for instance_id in INSTANCES:
            await stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id=instance_id)))
        watches = [await stack.enter_async_context(watching(each)) for each in others]
        flips = _flips()
        await _change(stub, flips, LOG_CAPACITY)
        before = memory(server.pid)
        grown: list[int] = []
        for _ in range(2):
            known = [len(watch.told) for watch in watches]
            async with _deaf(server.grpc), probing(server) as probe:
                await _change(stub, flips, CHANGES // 2)
                grown.append(memory(server.pid) - before)
                room = probe.room
            told = [each for watch, number in zip(watches, known, strict=True) for each in watch.told[number:]]
            late = percentile([each.at - seconds(each.instance.last_heartbeat) for each in told], 0.99)
            measured(record_property, "milliseconds until 99 % of the changes were told to those who read", 1000 * late)
            assert len(told) >= 0.9 * READING * CHANGES // 2
            assert late <= P99 * room
            assert not [watch for watch in watches if watch.code is not None]
        await asyncio.sleep(1)
        left = memory(server.pid) - before
    measured(
        record_property,
        f"MB that {DEAF} watchers take which do not read, the first time and the second",
        *(each / 1e6 for each in grown),
    )
    measured(record_property, "MB that are left of it", left / 1e6)
    assert max(grown) < GROWTH
    # It is given back to the process, which uses it again. What it does not hand back to the system is little.
    assert grown[1] - grown[0] < AGAIN
    assert left < LEFT
