"""A registry that could not listen does not blame its clients for that, and still finds out who is gone."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
from aiohttp import ClientSession
from harness import INSTANCES, measured, register, watching

from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import Stub, channel, luna, session

TTL = 1.0
EVERY = 0.25
STREAMED = [f"streamed:localhost:{port}" for port in range(8000, 8180)]
PUT = [f"put:localhost:{port}" for port in range(8000, 8020)]
STOPPING = [f"stopping:localhost:{port}" for port in range(8000, 8010)]


async def _beat_by_stream(stub: Stub, ids: list[str]) -> None:
    """Send heartbeats for ever; while the server is frozen they wait in the connection."""
    call = stub.StreamHeartbeats()

    async def read() -> None:
        async for answer in call:
            assert not answer.failures

    reader = asyncio.create_task(read())
    try:
        while True:
            await call.write(pb.StreamHeartbeatsRequest(instance_ids=ids))
            await asyncio.sleep(EVERY)
    finally:
        call.cancel()
        reader.cancel()
        await asyncio.wait([reader])


async def _beat_by_rest(rest: ClientSession, instance_id: str) -> None:
    """Send heartbeats for ever; while the server is frozen one of them waits for its answer."""
    while True:
        async with rest.put(INSTANCES + instance_id) as answer:
            assert answer.status == 200
        await asyncio.sleep(EVERY)


@asynccontextmanager
async def _alive(stub: Stub, rest: ClientSession) -> AsyncIterator[None]:
    """Keep 200 instances alive, each stream with 45 of them."""
    beating = [asyncio.create_task(_beat_by_stream(stub, STREAMED[start::4])) for start in range(4)]
    beating += [asyncio.create_task(_beat_by_rest(rest, instance_id)) for instance_id in PUT]
    try:
        yield
        assert not [task for task in beating if task.done()], "a client gave up"
    finally:
        for task in beating:
            task.cancel()
        results = await asyncio.gather(*beating, return_exceptions=True)
    assert [result for result in results if not isinstance(result, asyncio.CancelledError | grpc.aio.AioRpcError)] == []


async def test_a_frozen_registry_blames_no_one(record_property: Callable[[str, object], None]) -> None:
    """200 instances that kept sending heartbeats while the process was stopped stay OK; those that really stopped go DOWN."""
    # Two servers side by side, as both mostly wait: one is stopped for three TTLs, the other twice in a row.
    async with asyncio.TaskGroup() as both:
        both.create_task(_freeze([3 * TTL], record_property))
        both.create_task(_freeze([1.5 * TTL, 1.5 * TTL], record_property))


async def _freeze(freezes: list[float], record: Callable[[str, object], None]) -> None:
    """Do it for one server; see the test."""
    async with luna("--lease-ttl", "1") as server, channel(server.grpc) as connection, session(server.rest) as rest:
        stub = registry_pb2_grpc.RegistryStub(connection)
        await asyncio.gather(*(register(stub, instance_id) for instance_id in [*STREAMED, *PUT]))
        async with _alive(stub, rest):
            await asyncio.gather(*(register(stub, instance_id) for instance_id in STOPPING))
            async with watching(stub) as watch:
                for number, freeze in enumerate(freezes):
                    if number:
                        # Shorter than the hold, so the next freeze falls into it.
                        await asyncio.sleep(TTL / 2)
                    os.kill(server.pid, signal.SIGSTOP)
                    await asyncio.sleep(freeze)
                    woken = time.time()
                    os.kill(server.pid, signal.SIGCONT)

                downs = [await watch.sees(instance_id, lambda told: told.down, 2 * TTL + 1) for instance_id in STOPPING]
                waits = sorted(told.at - woken for told in downs)
                measured(record, "seconds from waking up to DOWN of those that stopped", *waits)
                # One TTL from waking up, also from the second time.
                assert waits[0] >= TTL
                assert waits[-1] <= TTL + 0.5
                # The others had to prove themselves since then, and did.
                await asyncio.sleep(TTL + 0.2)
                assert {told.id for told in watch.told if told.down} == set(STOPPING)
                async with rest.get("/registry/v1/services/json") as answer:
                    services = {service["name"]: service for service in await answer.json()}
                assert {name: service["status"] for name, service in services.items()} == {
                    "streamed": "UP",
                    "put": "UP",
                    "stopping": "DOWN",
                }
                assert len(services["streamed"]["instances"]) + len(services["put"]["instances"]) == 200
