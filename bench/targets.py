"""What is measured: one function a target, each of which returns rows of the table."""

import json
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from statistics import median
from typing import Final

from bench import load, peers, servers
from luna_grpc.v1 import registry_pb2 as pb

SERVICE: Final = "/luna.registry.v1.Registry/"
RUNS: Final = 3
INSTANCES: Final = int(os.environ.get("INSTANCES", "100000"))
"""How many are registered while something is measured; fewer for a quick look."""
MESSAGES: Final = 200
"""In one stream of h2load, which counts finished streams only."""

Measure = Callable[[], Awaitable[float]]


@dataclass(frozen=True)
class Row:
    """One line of the results."""

    target: str
    work: str
    figure: float
    unit: str
    beside: str
    """What it was measured against, or empty."""
    other: float
    bound: float
    """The ratio to reach; for a figure alone, the most that it may be."""

    @property
    def ratio(self) -> float:
        """Luna's figure over the other one."""
        return self.figure / self.other if self.beside else self.figure

    @property
    def met(self) -> bool:
        """Whether the target is reached."""
        return self.ratio >= self.bound if self.beside else self.figure <= self.bound


async def in_turn(one: Measure, other: Measure) -> tuple[float, float]:
    """Measure two things turn by turn and return their medians: one server alone varies by a third within an hour."""
    figures: tuple[list[float], list[float]] = ([], [])
    for _ in range(RUNS):
        figures[0].append(await one())
        figures[1].append(await other())
    return median(figures[0]), median(figures[1])


@asynccontextmanager
async def _filled(count: int = INSTANCES) -> AsyncIterator[tuple[servers.Server, list[str]]]:
    async with servers.luna() as server:
        ids = servers.instance_ids(count)
        await servers.fill(server.grpc, ids)
        random.Random(1).shuffle(ids)
        yield server, ids


def _accepted(server: servers.Server, run: Measure, heartbeats: int) -> Measure:
    """Let a run count only when the server says that it took so many heartbeats (0: any)."""

    async def checked() -> float:
        before = await server.heartbeats()
        figure = await run()
        taken = await server.heartbeats() - before
        if taken == 0 or (heartbeats and taken != heartbeats):
            raise load.LoadError(f"the server took {taken} heartbeats of {heartbeats or 'any'}")
        return figure

    return checked


async def p1() -> list[Row]:
    """REST PUT heartbeats that carry the instance's info."""
    async with _filled() as (server, ids), servers.bare("http") as bare:
        requests = [(f"/registry/v1/instances/{i}", json.dumps(_json(i)).encode()) for i in ids[:20_000]]
        figure, other = await in_turn(
            _accepted(server, lambda: load.put(server.rest, requests), 0), lambda: load.put(bare, requests)
        )
    return [Row("P1", "REST PUT heartbeat", figure, "/s", "bare aiohttp", other, 0.85)]


def _json(instance_id: str) -> dict[str, object]:
    said = servers.instance(instance_id)
    return {
        "instanceId": instance_id,
        "name": instance_id.partition(":")[0],
        "description": said.description,
        "version": said.version,
        "url": said.url,
        "status": "OK",
        "balancerOptions": {"weight": 10},
        "metadata": dict(said.metadata),
    }


async def p2() -> list[Row]:
    """Unary calls."""
    calls = 20_000
    async with _filled() as (server, ids), servers.bare("grpc") as bare:
        beat = [pb.HeartbeatRequest(instance_id=ids[0]).SerializeToString()]
        figure, other = await in_turn(
            _accepted(server, lambda: load.call(server.grpc, SERVICE + "Heartbeat", beat, calls=calls), calls),
            lambda: load.call(bare, SERVICE + "Heartbeat", beat, calls=calls),
        )
        # Each takes the id over anew: the whole path, with an event.
        registration = [pb.RegisterRequest(instance=servers.instance(ids[0]), replace=True).SerializeToString()]
        registered, other_registered = await in_turn(
            lambda: load.call(server.grpc, SERVICE + "Register", registration, calls=calls),
            lambda: load.call(bare, SERVICE + "Register", registration, calls=calls),
        )
    return [
        Row("P2", "gRPC unary Heartbeat", figure, "/s", "bare grpc.aio", other, 0.90),
        Row("P2", "gRPC unary Register", registered, "/s", "bare grpc.aio", other_registered, 0.80),
    ]


async def p3() -> list[Row]:
    """Streams with one id a message, 20 instances in turn."""
    return await _streams("P3", "one id a message", "messages/s", size=1, groups=20, streams=300, bounds=(2.0, 2.0))


async def p4() -> list[Row]:
    """Streams with 100 ids a message, 1,000 instances in turn."""
    return await _streams("P4", "100 ids a message", "ids/s", size=100, groups=10, streams=60, bounds=(0.6, 30))


async def _streams(
    target: str, shape: str, unit: str, *, size: int, groups: int, streams: int, bounds: tuple[float, float]
) -> list[Row]:
    """Measure streams whose messages name `size` ids each, from `groups` groups in turn, beside the bare server and etcd."""
    work = f"StreamHeartbeats, {shape}"
    async with AsyncExitStack() as stack:
        server, ids = await stack.enter_async_context(_filled())
        bare = await stack.enter_async_context(servers.bare("grpc"))
        messages = [
            pb.StreamHeartbeatsRequest(instance_ids=ids[n % groups * size :][:size], sequence=n + 1).SerializeToString()
            for n in range(MESSAGES)
        ]

        async def run(port: int) -> float:
            return size * MESSAGES * await load.call(port, SERVICE + "StreamHeartbeats", messages, calls=streams)

        measured = _accepted(server, lambda: run(server.grpc), streams * MESSAGES * size)
        figure, other = await in_turn(measured, lambda: run(bare))
        rows = [Row(target, work, figure, unit, "bare, each answered", other, bounds[0])]
        etcd = await stack.enter_async_context(peers.etcd())
        if etcd is not None:
            figure, other = await in_turn(measured, lambda: peers.etcd_keepalives(etcd, calls=streams, messages=MESSAGES))
            rows.append(Row(target, work, figure, unit, "etcd keepalive", other, bounds[1]))
    return rows


async def p6() -> list[Row]:
    """Memory of an instance."""
    async with servers.luna() as server:
        empty = server.rss()
        await servers.fill(server.grpc, servers.instance_ids(INSTANCES))
        figure = (server.rss() - empty) / INSTANCES
    return [Row("P6", "memory of a registered instance", figure, "bytes", "", 0, 1024)]


async def p12() -> list[Row]:
    """The time to be ready."""
    times = []
    for _ in range(RUNS):
        async with servers.luna() as server:
            times.append(server.started_in)
    return [Row("P12", "start of an empty server to ready", median(times), "s", "", 0, 1.0)]


ALL: Final = {"P1": p1, "P2": p2, "P3": p3, "P4": p4, "P6": p6, "P12": p12}
QUICK: Final = ("P1", "P2", "P3", "P4")
