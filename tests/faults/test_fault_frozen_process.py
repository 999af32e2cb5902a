"""A registry that could not listen does not blame its clients for that, and still finds out who is gone."""

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import grpc
from aiohttp import ClientSession
from fleets import Fleet, Plan, fleet
from harness import INSTANCES, Watch, complaints, measured, register, soak, watching

from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import Luna, Stub, channel, luna, session

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


FLEET_TTL, STOP = soak((1.5, 4.5), (20.0, 60.0))
"""Seconds: of the leases, and for how long the registry is stopped."""
STREAMS, PUTS = soak((5, 40), (40, 200))
OF_A_STREAM = 20
"""Instances."""
SLACK = 0.05
"""What a heartbeat through REST gets on top, as a share of the TTL."""


async def test_a_frozen_registry_blames_no_fleet(record_property: Callable[[str, object], None]) -> None:
    """Clients that meanwhile open streams and connections again and again stay OK; those that were killed meanwhile go DOWN.

    They are processes of their own that behave as the proto says. What they sent while nobody listened is there all at once when
    the registry wakes up, most of it on connections that were given up long before.
    """
    with tempfile.TemporaryFile() as log:
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(luna("--lease-ttl", str(FLEET_TTL), stderr=log.fileno()))
            stay = Plan(
                server.grpc,
                STREAMS,
                instances=OF_A_STREAM,
                name="staying",
                anew=True,
                rest=server.rest,
                puts=PUTS,
                every=FLEET_TTL / 3,
            )
            staying = await stack.enter_async_context(fleet(stay))
            go = replace(stay, connections=STREAMS // 5, puts=PUTS // 5, name="stopping")
            stopping = await stack.enter_async_context(fleet(go))
            registered, _ = [seen.registered for seen in await asyncio.gather(staying.all_alive(0, 60), stopping.all_alive(0, 60))]
            stub = registry_pb2_grpc.RegistryStub(await stack.enter_async_context(channel(server.grpc)))
            watch = await stack.enter_async_context(watching(stub))
            await _stop_and_blame_the_killed(server, watch, staying, stopping, record_property)
            assert (await staying.look(0)).registered == registered
        assert complaints(log) == []


async def _stop_and_blame_the_killed(
    server: Luna, watch: Watch, staying: Fleet, stopping: Fleet, record: Callable[[str, object], None]
) -> None:
    """Stop the registry, kill a fleet meanwhile, and see who is DOWN after that."""
    os.kill(server.pid, signal.SIGSTOP)
    await asyncio.sleep(STOP / 2)
    await stopping.kill()
    await asyncio.sleep(STOP / 2)
    woken, awake = time.time(), time.monotonic()
    os.kill(server.pid, signal.SIGCONT)
    within = FLEET_TTL * (1 + SLACK) + 1
    downs = [await watch.sees(instance_id, lambda told: told.down, within) for instance_id in sorted(stopping.plan.ids())]
    waits = [told.at - woken for told in downs]
    measured(record, f"seconds from waking up after {STOP} s to DOWN of {len(downs)} that were killed", *waits)
    assert min(waits) >= FLEET_TTL
    # Whoever was forgotten when the hold was over would be DOWN by now.
    await asyncio.sleep(woken + 2 * FLEET_TTL + 1 - time.time())
    seen = await staying.all_alive(awake, FLEET_TTL / 3)
    sys.stdout.write(f"what went wrong for {len(staying.plan.ids())} instances that stayed: {dict(seen.troubles)}\n")
    assert {told.id for told in watch.told if told.down} == stopping.plan.ids()
    async with session(server.rest) as rest, rest.get("/registry/v1/services/json") as answer:
        listed = {each["instanceId"]: each["status"] for service in await answer.json() for each in service["instances"]}
    assert listed == dict.fromkeys(staying.plan.ids(), "OK") | dict.fromkeys(stopping.plan.ids(), "DOWN")
