"""A peer that means no good: slow connections, and as many requests as it can make. Everyone else hardly notices.

The bounds hold for the time in which the server and this process had a processor: others use the machine too.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import INSTANCES, measured, percentile, soak
from probe import kept_waiting

from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import Luna, channel, clean_environment, instance_json, luna, session

HOSTILE = Path(__file__).parent / "hostile_process.py"
SLOW = 1000
SECONDS = soak(12, 60)
EVERY = 0.03
"""Seconds between an answer and the next request of one client."""
INSTANCES_THERE = 500
P99 = {"rest": 200.0, "grpc": 200.0, "both": 400.0}
"""Milliseconds that the worst of a hundred requests takes at most, by the doors that are flooded."""
ID = "good:localhost:1"
FLOODS = {"rest": ("50", "0"), "grpc": ("0", "400"), "both": ("1", "400")}
"""Connections with requests in a pipe, and calls at a time on one connection: more than it may have."""


async def attack(server: Luna, flooding: str, calls: str) -> dict[str, dict[str, int]]:
    """Let a peer do its worst for a while; return how it was answered."""
    rest = server.rest.removeprefix("http://")
    process = await asyncio.create_subprocess_exec(
        sys.executable, HOSTILE, rest, server.grpc, str(SLOW), flooding, calls, str(SECONDS),
        stdout=asyncio.subprocess.PIPE, env={**clean_environment(), "PYTHONPATH": str(HOSTILE.parents[2])},
    )  # fmt: skip
    try:
        out, _ = await asyncio.wait_for(process.communicate(), SECONDS + 60)
        return dict(json.loads(out))
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


class Clients:
    """Well-behaved clients, each with a connection and a kind of request of its own."""

    def __init__(self, server: Luna, stub: Any, rest: Any) -> None:
        self._server = server
        self._stub = stub
        self._rest = rest
        self._stream: Any = None
        self.times: dict[str, list[float]] = {}

    async def put(self) -> None:
        async with self._rest.put(INSTANCES + ID, json=instance_json(ID)) as answer:
            assert answer.status == 200

    async def look_up_on_a_new_connection(self) -> None:
        async with session(self._server.rest) as client, client.get(INSTANCES + ID) as answer:
            assert answer.status == 200

    async def call(self) -> None:
        await self._stub.Heartbeat(pb.HeartbeatRequest(instance_id=ID))

    async def stream(self) -> None:
        if self._stream is None:
            self._stream = self._stub.StreamHeartbeats()
        await self._stream.write(pb.StreamHeartbeatsRequest(instance_ids=[ID]))
        assert not (await self._stream.read()).failures

    async def go_on(self) -> None:
        """Ask all the time, and note how long it takes, until cancelled."""
        await asyncio.gather(*(self._go_on(kind) for kind in (self.put, self.look_up_on_a_new_connection, self.call, self.stream)))

    async def _go_on(self, ask: Callable[[], Awaitable[None]]) -> None:
        times = self.times.setdefault(ask.__name__, [])
        while True:
            began, idle = time.monotonic(), kept_waiting(self._server.pid)
            await asyncio.wait_for(ask(), 60)
            times.append(max(0.0, time.monotonic() - began - (kept_waiting(self._server.pid) - idle)))
            await asyncio.sleep(EVERY)


@asynccontextmanager
async def asking(clients: Clients) -> AsyncIterator[None]:
    """Let clients ask for as long as the context is open."""
    task = asyncio.create_task(clients.go_on())
    try:
        yield
        if task.done():
            await task  # raises what went wrong
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize("door", FLOODS)
async def test_slow_clients_and_a_flood(door: str, record_property: Callable[[str, object], None]) -> None:
    """1,000 connections that send headers or bodies byte by byte, and a flood: who behaves well is answered in time.

    Whoever is refused is told why.
    """
    async with (
        luna("--log-level", "warning", "--header-timeout", "3", "--body-timeout", "3") as server,
        channel(server.grpc) as connection,
        session(server.rest) as rest,
    ):
        stub = registry_pb2_grpc.RegistryStub(connection)
        for number in range(1, INSTANCES_THERE + 1):
            await stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id=f"there-{number % 50}:h:{number}")))
        for instance_id in (ID, "a:h:1"):
            await stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id=instance_id)))
        clients = Clients(server, stub, rest)
        async with asking(clients):
            await asyncio.sleep(1)
            for times in clients.times.values():
                times.clear()
            answers = await attack(server, *FLOODS[door])
    for kind, times in clients.times.items():
        measured(record_property, f"{door}, {kind}: p50, p99 and the longest in ms",
                 1000 * percentile(times, 0.5), 1000 * percentile(times, 0.99), 1000 * max(times))  # fmt: skip
    sys.stdout.write(f"{door}: the peer was answered {answers}\n")
    assert set(answers["slow"]) == {"408 REQUEST_TIMEOUT"}
    assert answers["slow"]["408 REQUEST_TIMEOUT"] >= SLOW
    assert set(answers["flood"]) <= {"200", "503 UNAVAILABLE", "429 RESOURCE_EXHAUSTED"}
    assert set(answers["calls"]) <= {"OK", "UNAVAILABLE", "RESOURCE_EXHAUSTED"}
    for kind, times in clients.times.items():
        assert len(times) > 10, kind
        assert 1000 * percentile(times, 0.99) <= P99[door], kind
