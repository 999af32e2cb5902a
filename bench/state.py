"""What it takes: P6, P11, P12."""

import asyncio
from statistics import median
from typing import Final

from bench import http2, servers
from bench.lab import SERVICE, Lab, Row
from luna_grpc.v1 import registry_pb2 as pb

WORKERS: Final = 10_000
INTERVAL: Final = 10.0
"""Seconds between two heartbeats of a worker."""


async def p6(lab: Lab) -> list[Row]:
    """Memory of an instance."""
    ids = servers.instance_ids(lab.instances)
    async with servers.luna() as server:
        empty = server.rss()
        await servers.fill(server.rest, ids)
        registered = (server.rss() - empty) / lab.instances
        await servers.fill(server.rest, ids, method="PUT")
        heard = (server.rss() - empty) / lab.instances
    return [
        Row("P6", "memory of a registered instance", registered, "bytes", 1024),
        Row("P6", "the same, once it has sent REST heartbeats", heard, "bytes", 0),
    ]


async def p11(_: Lab) -> list[Row]:
    """Workers that each have their own connection."""
    ids = servers.instance_ids(WORKERS)
    # By itself it takes half as many connections at each door as the system allows it open files, and that may be just too few.
    async with servers.luna("--max-connections", str(WORKERS + 100)) as server:
        await servers.fill(server.rest, ids)
        await asyncio.sleep(2)
        before = server.rss()
        lines, answered = [], 0

        def on_message(_: int, __: bytes) -> None:
            nonlocal answered
            answered += 1

        for n, instance_id in enumerate(ids):
            line = await http2.connect(server.grpc, on_message)
            message = pb.StreamHeartbeatsRequest(instance_ids=[instance_id], sequence=1).SerializeToString()
            lines.append((line, line.open(SERVICE + "StreamHeartbeats", message), message))
            line.flush()
            if n % 100 == 0:
                await asyncio.sleep(0.01)
        await http2.until(lambda: answered == WORKERS, "the first answers")
        memory = (server.rss() - before) / WORKERS
        began, taken = server.cpu(), await server.heartbeats()
        rounds = 2
        async with http2.not_the_bottleneck():
            for _round in range(rounds):
                for start in range(0, WORKERS, WORKERS // 1000):
                    due = asyncio.get_running_loop().create_task(asyncio.sleep(INTERVAL / 1000))
                    for line, stream, message in lines[start : start + WORKERS // 1000]:
                        line.send(stream, message)
                        line.flush()
                    await due
        await http2.until(lambda: answered == WORKERS * (rounds + 1), "all answers")
        share = (server.cpu() - began) / (INTERVAL * rounds)
        assert await server.heartbeats() - taken == rounds * WORKERS
        for line, _stream, _message in lines:
            line.close()
    return [
        Row("P11", f"{WORKERS:,} workers with a connection each: memory of one", memory / 1000, "KB", 45),
        Row("P11", f"{WORKERS:,} workers, a heartbeat every {INTERVAL:g} s", share * 100, "% of a core", 15),
    ]


async def p12(lab: Lab) -> list[Row]:
    """The time to be ready."""
    times = []
    for _ in range(lab.runs):
        async with servers.luna() as server:
            times.append(server.started_in)
    return [Row("P12", "start of an empty server to ready", median(times), "s", 1.0)]
