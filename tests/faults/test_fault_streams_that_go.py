"""Streams that come and go, in every way and by the thousand, leave nothing behind."""

import asyncio
import gc
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from aiohttp import ClientSession
from harness import eventually, measured, memory, soak
from peer import Peer

from luna_grpc.serve import running
from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import channel, luna, session, settings_for_tests

SERVICE = "/luna.registry.v1.Registry/"
STREAMS = soak(2000, 20_000)
IN_PROCESS = soak(500, 5000)
ON_A_CONNECTION = 20
AT_ONCE = 5
"""Connections."""
FLAT = 0.05
IDS = [f"streamed:localhost:{number + 1}" for number in range(50)]
WAYS = ("cancel", "cancel at once", "half-close", "abort", "close")
OURS = {"HeartbeatCall", "WatchCall", "Watcher", "_ServicerContext", "RPCState"}
"""What there may be no more of when all streams are gone. (A registration remembers the stream that renewed it last.)"""


async def _register(address: str) -> None:
    async with channel(address) as connection:
        stub = registry_pb2_grpc.RegistryStub(connection)
        for instance_id in IDS:
            await stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id=instance_id)))


def _watch(peer: Peer) -> int:
    return peer.open(SERVICE + "WatchServices", pb.WatchServicesRequest(names=["streamed"]).SerializeToString(), half_close=True)


def _beat(peer: Peer, random_: random.Random) -> int:
    """Begin a stream, and most times say something on it."""
    options = pb.StreamOptions(on_disconnect=random_.choice([pb.ON_DISCONNECT_KEEP, pb.ON_DISCONNECT_MARK_DOWN]))
    message = pb.StreamHeartbeatsRequest(instance_ids=random_.sample(IDS, 5), options=options)
    return peer.open(SERVICE + "StreamHeartbeats", message.SerializeToString() if random_.random() < 0.8 else None)


async def _come_and_go(address: str, number: int) -> None:
    """Open streams on a connection of their own and end them, all in one way."""
    random_ = random.Random(number)
    way = WAYS[number % len(WAYS)]
    peer = await Peer.to(address, reading=True)
    watches = [_watch(peer) for _ in range(ON_A_CONNECTION // 4)]
    streams = [_beat(peer, random_) for _ in range(ON_A_CONNECTION - len(watches))]
    if way != "cancel at once":
        peer.flush()
        await asyncio.sleep(random_.choice([0, 0.002, 0.05]))
    match way:
        case "half-close":
            for stream in streams:
                peer.half_close(stream)
            peer.flush()
            await eventually(lambda: all(map(peer.is_over, streams)), 20, "the end of the streams")
            assert {peer.ended[stream] for stream in streams} == {"0"}
            peer.close()
        case "abort":
            peer.abort()
        case "close":
            peer.close()
        case _:
            for stream in [*watches, *streams]:
                peer.cancel(stream)
            peer.flush()
            await asyncio.sleep(0.002)
            peer.close()
    await peer.closed.wait()


async def _many_come_and_go(address: str, numbers: range) -> None:
    for start in range(numbers.start, numbers.stop, AT_ONCE):
        await asyncio.gather(*(_come_and_go(address, number) for number in range(start, min(start + AT_ONCE, numbers.stop))))


async def _none_open(rest: ClientSession) -> None:
    """Wait until the server counts no streams."""
    streams = re.compile(r"^luna_(?:heartbeat_streams|watchers) (\S+)$", re.MULTILINE)
    async with asyncio.timeout(20):
        found = [1.0]
        while any(found):
            await asyncio.sleep(0.05)
            async with rest.get("/metrics") as answer:
                found = [float(each) for each in streams.findall(await answer.text())]
        assert len(found) == 2


async def test_memory_stays_flat(record_property: Callable[[str, object], None]) -> None:
    """However streams end, the process takes no more after all of them than after half of them."""
    async with luna("--log-level", "warning") as server, session(server.rest) as rest:
        await _register(server.grpc)
        connections = STREAMS // ON_A_CONNECTION
        took = [memory(server.pid)]
        for half in (range(connections // 2), range(connections // 2, connections)):
            await _many_come_and_go(server.grpc, half)
            await _none_open(rest)
            took.append(memory(server.pid))
    measured(record_property, f"MB before, after half and after all of {STREAMS} streams", *(each / 1e6 for each in took))
    assert took[2] <= (1 + FLAT) * took[1]


@pytest.fixture
def no_freezing() -> Iterator[None]:
    """Let the collector see everything, and leave it as it was."""
    yield
    gc.unfreeze()
    gc.collect()


@pytest.mark.usefixtures("no_freezing")
async def test_no_task_is_left(record_property: Callable[[str, object], None]) -> None:
    """Nor any object of a stream; counted in the server's own process."""
    settings = settings_for_tests(log_level="error")
    async with running(settings) as server, session(f"http://127.0.0.1:{server.rest_port}") as rest:
        address = f"127.0.0.1:{server.grpc_port}"
        await _register(address)
        await _many_come_and_go(address, range(20))
        await _none_open(rest)
        before = await _objects()
        await _many_come_and_go(address, range(IN_PROCESS // ON_A_CONNECTION))
        await _none_open(rest)
        after = await _objects()
    measured(record_property, "tasks before and after", before["Task"], after["Task"])
    assert after - before == Counter()


async def _objects() -> Counter[str]:
    """Count what there is of each kind, once all that is on its way has ended."""
    await asyncio.sleep(0.5)
    gc.unfreeze()
    gc.collect()
    kinds = Counter(type(thing).__name__ for thing in gc.get_objects() if type(thing).__name__ in OURS)
    kinds["Task"] = len(asyncio.all_tasks())
    return kinds
