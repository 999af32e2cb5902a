"""The loop that drives a registry, and the policy for the garbage collector."""

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator

import pytest

from luna_grpc.leases import LeasePolicy
from luna_grpc.memory import MemoryStore
from luna_grpc.model import ITSELF, Info, Status
from luna_grpc.registry import Registry
from luna_grpc.serve import Running
from luna_grpc.sweeper import FREEZE_AFTER, CollectorPolicy, sweep_once
from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import FakeClock, channel, session, status_of


@pytest.fixture
def collector() -> Iterator[None]:
    """Leave the garbage collector as it was."""
    yield
    gc.enable()
    gc.unfreeze()
    gc.collect()


async def test_everything_that_is_due_is_declared_in_slices_that_let_others_run(clock: FakeClock) -> None:
    """20,000 leases that end at one instant."""
    registry = Registry(MemoryStore(clock), clock, LeasePolicy(ttl=1, warmup=0))
    for number in range(20_000):
        await registry.register(Info.of(f"s{number % 100}:h:{number + 1}"), Status.OK, actor=ITSELF)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    for _ in range(5):
        clock.advance(0.25)
        await sweep_once(registry, CollectorPolicy())
    task.cancel()
    assert all(service.up == 0 for service in registry.services())
    assert turns > 50


@pytest.mark.usefixtures("collector")
def test_whatever_comes_about_is_hidden_from_the_collector() -> None:
    """As soon as much has: not only registrations, streams as well."""
    policy = CollectorPolicy()
    frozen = gc.get_freeze_count()
    assert frozen > 0
    objects = [[number] for number in range(100)]
    policy.tidy()
    assert gc.get_freeze_count() <= frozen
    objects += [[number] for number in range(10_000 * FREEZE_AFTER)]
    policy.tidy()
    assert gc.get_freeze_count() > frozen + len(objects) // 2


@pytest.mark.usefixtures("collector")
async def test_connections_that_were_frozen_are_freed_when_they_close(server: Running) -> None:
    """By reference counting alone: the collector never looks at them again."""
    address = f"127.0.0.1:{server.grpc_port}"
    kinds = {"RequestHandler", "HeartbeatCall", "HeartbeatStream", "WatchCall", "Watcher", "Registration"}
    gc.unfreeze()
    gc.collect()
    before = Counter(type(thing).__name__ for thing in gc.get_objects() if type(thing).__name__ in kinds)
    gc.disable()
    async with channel(address) as open_channel, session(f"http://127.0.0.1:{server.rest_port}") as client:
        stub = registry_pb2_grpc.RegistryStub(open_channel)
        await stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id="a:h:1")))
        streams, watches = [], []
        for _ in range(20):
            streams.append(stub.StreamHeartbeats())
            await streams[-1].write(pb.StreamHeartbeatsRequest(instance_ids=["a:h:1"]))
            await streams[-1].read()
            watches.append(stub.WatchServices(pb.WatchServicesRequest()))
            await watches[-1].read()
        await asyncio.gather(*(status_of(client, "/registry/v1/services/json") for _ in range(20)))
        gc.freeze()
        for call in [*streams, *watches]:
            call.cancel()
        await stub.Deregister(pb.DeregisterRequest(instance_id="a:h:1"))
    async with asyncio.timeout(10):
        while len(server.grpc.service.heartbeat_streams) or len(server.grpc.service.watches):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    server.registry.store._leases._heap.clear()  # type: ignore[attr-defined]  # it would hold on to the removed one for a TTL
    server.registry.store.feed._log.clear()
    await asyncio.sleep(0.1)
    gc.unfreeze()
    left = Counter(type(thing).__name__ for thing in gc.get_objects() if type(thing).__name__ in kinds)
    assert left - before == Counter()
