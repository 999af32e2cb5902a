"""What more instances cost: rates, memory and the time of lists, from 1,000 instances to a million."""

import time
from dataclasses import dataclass
from statistics import median
from typing import Final

import grpc
from aiohttp import ClientSession

from bench import servers, throughput
from bench.lab import Lab
from bench.load import AUTHORIZATION, METADATA
from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc

SIZES: Final = (1_000, 10_000, 100_000, 1_000_000)
SAMPLE: Final = 20_000
"""The most instances that send heartbeats; they are chosen by chance."""


@dataclass(frozen=True)
class Point:
    """What was found with so many instances."""

    instances: int
    put: float
    """REST heartbeats a second."""
    stream: float
    """Heartbeats a second over streams, one id a message."""
    memory: float
    """MB."""
    panel: float
    """Milliseconds for the first page."""
    page: float
    """Milliseconds for the first page of ListServices: 100 services, 2,000 instances."""


async def measure(lab: Lab) -> list[Point]:
    """Measure all sizes."""
    points = []
    for size in SIZES:
        server, ids = await lab.filled(size)
        sample = ids[:SAMPLE]
        await servers.fill(server.rest, sample, method="PUT")
        [put] = await lab.in_turn(throughput.put_heartbeats(lab, server.rest, sample))
        [stream] = await lab.in_turn(throughput.stream_heartbeats(lab, server.grpc, sample, size=1, messages=20_000, streams=8))
        panel, page = await _panel(server.rest), await _page(server.grpc)
        points.append(Point(size, put, stream, server.rss() / 1e6, 1000 * panel, 1000 * page))
    return points


async def _panel(port: int) -> float:
    times = []
    async with ClientSession(f"http://127.0.0.1:{port}", headers={"Authorization": AUTHORIZATION}) as session:
        for _ in range(30):
            began = time.monotonic()
            async with session.get("/registry/v1/services/") as answer:
                await answer.read()
            times.append(time.monotonic() - began)
    return median(times)


async def _page(port: int) -> float:
    times = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = registry_pb2_grpc.RegistryStub(channel)
        for _ in range(30):
            began = time.monotonic()
            await stub.ListServices(pb.ListServicesRequest(), metadata=METADATA)
            times.append(time.monotonic() - began)
    return median(times)
