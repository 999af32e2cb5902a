"""A registry that forgets everything under 50 programs with the Python SDK: they come back spread over an interval."""

import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable

from harness import measured

from luna_grpc.v1 import registry_pb2 as pb
from support import Luna, clean_environment, luna

PROCESSES = 50
RESTARTS = 2
"""Counted together: one alone would be over the limit by chance once in a thousand times."""
TTL = 24.0
"""Seconds; so an interval is 8 s, and a twentieth of it 0.4 s."""
PROGRAM = """
import signal, sys
from luna_grpc.client import Registration
with Registration(sys.argv[1], wait=60):
    signal.pause()
"""


@contextlib.asynccontextmanager
async def fleet(address: str) -> AsyncIterator[None]:
    """Run the programs."""
    env = {**clean_environment(), "LUNA_ADDRESS": address}
    programs = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, f"worker:localhost:{number}", env=env)
        for number in range(1, PROCESSES + 1)
    ]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
        await asyncio.gather(*(program.wait() for program in programs))


async def moments(registry: Luna) -> list[float]:
    """Return when each of the programs was registered, as a watcher is told."""
    seen: dict[str, float] = {}
    channel, stub = registry.stub()
    async with channel, asyncio.timeout(180):
        async for answer in stub.WatchServices(pb.WatchServicesRequest()):
            for event in answer.events:
                seen.setdefault(event.instance.instance_id, time.monotonic())
            if len(seen) == PROCESSES:
                return sorted(seen.values())
    raise AssertionError("the watch has ended")


async def test_they_come_back_one_by_one(record_property: Callable[[str, object], None]) -> None:
    """No more than a fifth of them in any twentieth of an interval, all of them within two intervals and what connecting takes."""
    slots: Counter[int] = Counter()
    interval = TTL / 3
    async with luna("--lease-ttl", str(TTL)) as registry:
        address, port = registry.grpc, registry.grpc.rpartition(":")[2]
        async with fleet(address):
            await moments(registry)
            assert await registry.stop() == 0
            for _ in range(RESTARTS):
                async with luna("--lease-ttl", str(TTL), "--grpc-port", port) as empty:
                    began = time.monotonic()
                    came = await moments(empty)
                    slots.update(int(20 * (at - came[0]) / interval) for at in came)
                    measured(record_property, "seconds until they are back", *(at - began for at in came))
                    assert came[-1] - began < 3 * interval
                    assert await empty.stop() == 0
    measured(record_property, "the most of 100 that came in a twentieth of an interval", max(slots.values()))
    assert max(slots.values()) <= RESTARTS * PROCESSES / 5
