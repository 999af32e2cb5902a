"""Very many leases end at one instant, while others work."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import grpc
from aiohttp import ClientSession
from harness import INSTANCES, measured, percentile, soak
from probe import probing

from luna_grpc.model import Info, Instance, Status
from luna_grpc.statefile import StateFile
from luna_grpc.stateformat import Kept, keep
from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import Luna, Stub, basic, channel, instance_json, luna, session

LEASES = soak(20_000, 100_000)
TTL = soak(5.0, 12.0)
PAUSE = 0.3
"""Seconds; the most that a client waits between two requests."""
WATCHERS = 10
P99 = 0.100
"""Seconds."""
LAG = 50
"""Milliseconds."""
BEFORE = 0.3
"""Seconds; from so long before the end of the leases it counts how long requests take."""
LATE = soak(3.0, 10.0)
"""Seconds; watchers are told as well, and requests come first."""

ENDING = [f"service-{number // 20}:10.{number // 60_000}.{number // 250 % 240}.{number % 250}:8080" for number in range(LEASES)]
BEATING = [f"beating-{number}:localhost:80" for number in range(70)]


class Requests:
    """What clients ask all the time, and how long the answers take."""

    def __init__(self, rest: ClientSession, stubs: list[Stub]) -> None:
        self._rest = rest
        self._stubs = stubs
        self._new = count(1)
        self.answered: list[tuple[float, float]] = []
        """When each was asked, in monotonic seconds, and the seconds until its answer."""

    def kinds(self) -> Iterator[tuple[int, Callable[[Stub, int], Awaitable[object]]]]:
        """How many clients of each kind there are, and what they ask; the first kinds beat for an instance of their own."""
        yield 30, self._put
        yield 30, lambda stub, number: stub.Heartbeat(pb.HeartbeatRequest(instance_id=BEATING[number]))
        yield 15, self._get
        yield 10, lambda stub, _: stub.ListServices(pb.ListServicesRequest(page_size=10))
        yield (
            5,
            lambda stub, _: stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id=f"new:localhost:{next(self._new)}"))),
        )

    async def _put(self, _: Stub, number: int) -> None:
        async with self._rest.put(INSTANCES + BEATING[number], json=instance_json(BEATING[number])) as answer:
            assert answer.status == 200
            await answer.read()

    async def _get(self, _: Stub, __: int) -> None:
        async with self._rest.get(INSTANCES + random.choice(ENDING)) as answer:
            assert answer.status == 200
            await answer.read()

    async def ask(self, request: Callable[[Stub, int], Awaitable[object]], number: int) -> None:
        """Ask for ever, as one client."""
        while True:
            await asyncio.sleep(random.uniform(0, PAUSE))
            began = time.monotonic()
            await request(self._stubs[number % len(self._stubs)], number)
            self.answered.append((began, time.monotonic() - began))

    async def stream(self, number: int) -> None:
        """Beat on a stream for ever, and wait for each answer."""
        call = self._stubs[number % len(self._stubs)].StreamHeartbeats()
        try:
            while True:
                await asyncio.sleep(random.uniform(0, PAUSE))
                began = time.monotonic()
                await call.write(pb.StreamHeartbeatsRequest(instance_ids=[BEATING[number]]))
                answer = await call.read()
                assert isinstance(answer, pb.StreamHeartbeatsResponse)
                assert not answer.failures
                self.answered.append((began, time.monotonic() - began))
        finally:
            call.cancel()


@asynccontextmanager
async def _working(server: Luna) -> AsyncIterator[Requests]:
    """Let 100 clients work."""
    async with AsyncExitStack() as stack:
        rest = await stack.enter_async_context(session(server.rest))
        connections = [await stack.enter_async_context(channel(server.grpc)) for _ in range(10)]
        stubs = [registry_pb2_grpc.RegistryStub(each) for each in connections]
        for instance_id in BEATING:
            await stubs[0].Register(pb.RegisterRequest(instance=pb.Instance(instance_id=instance_id)))
        requests = Requests(rest, stubs)
        asked = [request for number, request in requests.kinds() for _ in range(number)]
        clients = [asyncio.create_task(requests.ask(request, number)) for number, request in enumerate(asked)]
        clients += [asyncio.create_task(requests.stream(number)) for number in range(60, 70)]
        try:
            yield requests
            assert not [client for client in clients if client.done()], "a client gave up"
        finally:
            for client in clients:
                client.cancel()
            results = await asyncio.gather(*clients, return_exceptions=True)
        assert [result for result in results if not isinstance(result, asyncio.CancelledError)] == []


@asynccontextmanager
async def _watching(address: str) -> AsyncIterator[None]:
    """Let others watch, and read whatever they are told without a look at it."""

    async def watch(connection: grpc.aio.Channel) -> None:
        rpc: Any = connection.unary_stream("/luna.registry.v1.Registry/WatchServices")
        async for _ in rpc(b"", metadata=(("authorization", basic()),)):
            pass

    async with grpc.aio.insecure_channel(address) as connection:
        watches = [asyncio.create_task(watch(connection)) for _ in range(WATCHERS)]
        yield
        assert not [each for each in watches if each.done()]
        for each in watches:
            each.cancel()
        await asyncio.wait(watches)


@asynccontextmanager
async def _remembering(path: Path) -> AsyncIterator[Luna]:
    """Run a server that reads its leases from a state file, so that all of them begin, and end, at one instant."""
    file = StateFile.open(str(path))
    instances = [Instance(Info.of(instance_id, version="1.4.2"), Status.OK, None, 1, 0) for instance_id in ENDING]
    for start in range(0, LEASES, 1000):
        await file.write(*(keep(Kept(each, "", 0), moved=True) for each in instances[start : start + 1000]))
    await file.close()
    async with luna("--lease-ttl", str(TTL), "--log-level", "warning", "--state-file", str(path)) as server:
        yield server


async def test_requests_are_answered_while_leases_end(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """100 clients hardly notice, nor does the loop; all that ended are DOWN soon, and nobody else is."""
    async with _remembering(tmp_path / "state.db") as server, session(server.rest) as rest, _watching(server.grpc):
        ready = time.monotonic()
        async with _working(server) as requests:
            began = ready + TTL - BEFORE
            assert time.monotonic() < began, "this machine is too slow to tell"
            await asyncio.sleep(began - time.monotonic())
            async with probing(server) as probe:
                status = ""
                while status != "DOWN":
                    await asyncio.sleep(0.01)
                    # Leases of one deadline end in the order in which they were read.
                    async with rest.get(INSTANCES + ENDING[-1]) as answer:
                        status = (await answer.json())["status"]
                late = time.monotonic() - ready - TTL
                await asyncio.sleep(0.5)
                room = probe.room
            times = [took for asked, took in requests.answered if asked >= began]
            async with rest.get("/registry/v1/services/json") as answer:
                listed = [each for service in await answer.json() for each in service["instances"]]
            down = {each["instanceId"] for each in listed if each["status"] == "DOWN" and each["name"] != "new"}
            assert down == set(ENDING)
    measured(record_property, f"seconds from the end of {LEASES} leases until all are DOWN", late)
    measured(
        record_property,
        f"milliseconds until an answer, {len(times)} requests, p50, p99",
        *(1000 * percentile(times, share) for share in (0.5, 0.99)),
    )
    measured(record_property, "milliseconds for which another request waits, at most", probe.longest)
    measured(record_property, "times as long as on a machine with nothing else to do", room)
    assert len(times) > 200
    assert percentile(times, 0.99) <= P99 * room
    assert probe.longest <= LAG
    assert late <= LATE * room
