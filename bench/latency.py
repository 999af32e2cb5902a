"""How long it takes: P7 to P10."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import grpc
from aiohttp import ClientSession

from bench import http2, load, servers, throughput
from bench.lab import SERVICE, Lab, Row, percentile
from bench.load import METADATA
from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc

WATCHERS: Final = 1000
ORIGINAL_LIST: Final = 4.9
"""Seconds in which the original Luna (Node 20) lists 10,000 instances as JSON."""


@dataclass
class Probe:
    """Asks a server something trivial all the time: how long it has to wait for the answer tells for how long the loop was held."""

    times: list[tuple[float, float]] = field(default_factory=list)
    """When it asked, and the seconds until the answer."""

    def longest(self, since: float = 0.0) -> float:
        """Return the longest wait, in milliseconds, from a moment on."""
        return 1000 * max(took for began, took in self.times if began >= since)


@asynccontextmanager
async def probing(port: int) -> AsyncIterator[Probe]:
    """Probe for as long as the context is open."""
    probe = Probe()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def ask() -> None:
        while True:
            began = time.monotonic()
            writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.readuntil(b"ok\n")
            probe.times.append((began, time.monotonic() - began))
            await asyncio.sleep(0.001)

    task = asyncio.create_task(ask())
    try:
        yield probe
    finally:
        task.cancel()
        writer.close()


def _stub(channel: grpc.aio.Channel) -> "registry_pb2_grpc.RegistryAsyncStub":
    return registry_pb2_grpc.RegistryStub(channel)


# P7: expiry


async def p7(lab: Lab) -> list[Row]:
    """Leases that run out all at once, and one by one."""
    held, late = await _all_at_once(lab.instances)
    lone = await _one_by_one(lab.instances, count=300)
    leases = f"{lab.instances:,} leases run out at one instant"
    return [
        Row("P7", f"{leases}: the longest that another request waits", held, "ms", 20),
        Row("P7", f"{leases}: until all are DOWN", late, "s", 1.0),
        Row("P7", "lateness of a lone expiry beside them, p99", 1000 * lone, "ms", 100),
    ]


async def _all_at_once(count: int) -> tuple[float, float]:
    ttl = 20.0
    ids = servers.instance_ids(count)
    async with servers.luna(ttl=ttl) as server:
        await servers.fill(server.rest, ids)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
            stream = _stub(channel).StreamHeartbeats(metadata=METADATA)
            for start in range(0, count, 1000):
                await stream.write(pb.StreamHeartbeatsRequest(instance_ids=ids[start : start + 1000], sequence=start + 1000))
            async for answer in stream:
                if answer.sequence == count:
                    break
            renewed = time.monotonic()
            async with probing(server.rest) as probe, ClientSession(f"http://127.0.0.1:{server.rest}") as session:
                await asyncio.sleep(ttl - 1 - (time.monotonic() - renewed))
                # It was renewed last, and leases end in the order of their deadlines.
                while not await _is_down(session, ids[-1]):  # noqa: ASYNC110 - it happens in another process
                    await asyncio.sleep(0.01)
                took = time.monotonic() - renewed - ttl
                await asyncio.sleep(0.5)
                held = probe.longest(since=renewed + ttl - 1)
                async with session.get("/registry/v1/services/json", headers={"Authorization": load.AUTHORIZATION}) as listed:
                    left = (await listed.text()).count('"status":"OK"')
                if left:
                    raise load.LoadError(f"{left} instances are not DOWN")
                return held, took


async def _is_down(session: ClientSession, instance_id: str) -> bool:
    url = f"/registry/v1/instances/{instance_id}"
    async with session.get(url, headers={"Authorization": load.AUTHORIZATION}) as answer:
        return str((await answer.json())["status"]) == "DOWN"


async def _one_by_one(others: int, *, count: int) -> float:
    """Let instances expire at moments of their own while many others are renewed; return the p99 of the lateness in seconds."""
    ttl = 3.0
    ids = servers.instance_ids(others)
    expired: dict[str, float] = {}
    async with servers.luna(ttl=ttl) as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
        stub = _stub(channel)
        # They would expire while others are still being registered.
        renewing = asyncio.create_task(_renew(stub, ids, every=ttl / 3))
        await servers.fill(server.rest, ids)
        names = [f"lone-{n}" for n in range(count)]
        watch = stub.WatchServices(pb.WatchServicesRequest(names=names), metadata=METADATA)

        async def see() -> None:
            async for answer in watch:
                for event in answer.events:
                    if event.instance.status == pb.STATUS_DOWN:
                        expired[event.instance.name] = time.monotonic()

        seeing = asyncio.create_task(see())
        due = {}
        for name in names:
            await asyncio.sleep(random.uniform(0.01, 0.05))
            due[name] = time.monotonic() + ttl
            await stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id=f"{name}:localhost:1")), metadata=METADATA)
        await http2.until(lambda: len(expired) == count, "the lone ones expire")
        renewing.cancel()
        seeing.cancel()
    return percentile([expired[name] - due[name] for name in names], 0.99)


async def _renew(stub: "registry_pb2_grpc.RegistryAsyncStub", ids: list[str], *, every: float) -> None:
    stream = stub.StreamHeartbeats(metadata=METADATA)
    parts = [pb.StreamHeartbeatsRequest(instance_ids=ids[start : start + 500]) for start in range(0, len(ids), 500)]
    while True:
        for part in parts:
            await stream.write(part)
            await asyncio.sleep(every / len(parts))


# P8, P9: watching


async def p8(_: Lab) -> list[Row]:
    """One change, and everyone who watches."""
    times: list[float] = []
    synced = 0

    def on_message(_: int, message: bytes) -> None:
        nonlocal synced
        times.append(time.monotonic())
        if synced < WATCHERS:
            synced += pb.WatchServicesResponse.FromString(message).synced

    async with servers.luna() as server:
        await servers.fill(server.rest, servers.instance_ids(20))
        lines = await _watch(server.grpc, on_message, [[] for _ in range(WATCHERS)])
        await http2.until(lambda: synced == WATCHERS, "the snapshots")
        late = []
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
            for n in range(50):
                times.clear()
                began = time.monotonic()
                beat = pb.HeartbeatRequest(instance_id=servers.instance_ids(1)[0], status=pb.STATUS_DOWN if n % 2 else pb.STATUS_OK)
                await _stub(channel).Heartbeat(beat, metadata=METADATA)
                if n:  # the first changes nothing
                    await http2.until(lambda: len(times) == WATCHERS, "all are told")
                    late += [moment - began for moment in times]
                await asyncio.sleep(0.05)
        for line in lines:
            line.close()
    return [Row("P8", f"{WATCHERS:,} watchers, one change: each is told, p99", 1000 * percentile(late, 0.99), "ms", 100)]


async def _watch(port: int, on_message: http2.OnMessage, names: list[list[str]]) -> list[http2.Connection]:
    lines = [await http2.connect(port, on_message) for _ in range(10)]
    for n, wanted in enumerate(names):
        line = lines[n % len(lines)]
        line.open(SERVICE + "WatchServices", pb.WatchServicesRequest(names=wanted).SerializeToString(), end=True)
    for line in lines:
        line.flush()
    return lines


async def p9(lab: Lab) -> list[Row]:
    """1,000 changes a second, 1,000 watchers, and the heartbeats of P3 beside them."""
    services, seconds = 100, 30.0 * lab.size
    ids = servers.instance_ids(services * 20)
    late: list[float] = []

    def on_message(_: int, message: bytes) -> None:
        now = time.time()
        for event in pb.WatchServicesResponse.FromString(message).events:
            moment = event.instance.last_heartbeat
            late.append(now - moment.seconds - moment.nanos / 1e9)

    async with servers.luna() as server:
        await servers.fill(server.rest, ids)
        heartbeats = throughput.stream_heartbeats(lab, server.grpc, ids[:20], size=1, streams=300)
        alone = [await heartbeats() for _ in range(3)]
        lines = await _watch(server.grpc, on_message, [[f"service-{n % services}"] for n in range(WATCHERS)])
        await asyncio.sleep(3)
        changing = asyncio.create_task(_flip(server.grpc, ids, a_second=1000))
        await asyncio.sleep(seconds / 6)
        late.clear()
        began, memory = time.monotonic(), server.rss()
        beside = []
        while time.monotonic() - began < seconds:
            beside.append(await heartbeats())
        grown = server.rss() - memory
        if changing.done():
            await changing  # raises what went wrong with it
        changing.cancel()
        took = time.monotonic() - began
        for line in lines:
            line.close()
    expected = 10 * 1000 * took  # each change is told to ten watchers
    if not 0.8 * expected < len(late):
        raise load.LoadError(f"{len(late)} changes were told of {expected:.0f}")
    work = f"{WATCHERS:,} watchers of {services} services, 1,000 changes/s, heartbeats as in P3"
    return [
        Row("P9", f"{work}: a change is told, p99", 1000 * percentile(late, 0.99), "ms", 500),
        Row("P9", f"{work}: memory grown in {took:.0f} s", grown / 1e6, "MB", 10),
        Row("P9", f"{work}: heartbeats", sorted(beside)[len(beside) // 2], "messages/s", 0.6, "without watchers", sorted(alone)[1]),
    ]


async def _flip(port: int, ids: list[str], *, a_second: int) -> None:
    """Let instances report another status, ten in a message."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stream = _stub(channel).StreamHeartbeats(metadata=METADATA)
        began, sent = time.monotonic(), 0
        for chosen in _endless(ids):
            status = pb.STATUS_DOWN if sent // len(ids) % 2 == 0 else pb.STATUS_OK
            await stream.write(
                pb.StreamHeartbeatsRequest(heartbeats=[pb.HeartbeatRequest(instance_id=one, status=status) for one in chosen])
            )
            sent += len(chosen)
            await asyncio.sleep(began + sent / a_second - time.monotonic())


def _endless(ids: list[str]) -> Iterator[list[str]]:
    while True:
        for start in range(0, len(ids), 10):
            yield ids[start : start + 10]


# P10: the panel and the list


async def p10(lab: Lab) -> list[Row]:
    """The first page of a large panel, and a long list."""
    server, _ = await lab.filled()
    count = await server.instances()
    async with ClientSession(f"http://127.0.0.1:{server.rest}", headers={"Authorization": load.AUTHORIZATION}) as session:
        pages = []
        for _ in range(100):
            began = time.monotonic()
            async with session.get("/registry/v1/services/") as answer:
                text = await answer.text()
            pages.append(time.monotonic() - began)
        if f"{count:,}" not in text:
            raise load.LoadError("the panel does not count all instances")
    list_time, held = await _list(10_000)
    return [
        Row("P10", f"panel, first page, {lab.instances:,} instances, p95", 1000 * percentile(pages, 0.95), "ms", 50),
        Row("P10", "all of 10,000 instances as JSON", 1000 * list_time, "ms", 100),
        Row("P10", "the same: lists/s", 1 / list_time, "/s", 40, "the original Luna", 1 / ORIGINAL_LIST),
        Row("P10", "the same: the longest that another request waits", held, "ms", 20),
    ]


async def _list(count: int) -> tuple[float, float]:
    """Return the median of the seconds that the list takes, and the milliseconds that it held others at most."""
    async with servers.luna() as server, ClientSession(f"http://127.0.0.1:{server.rest}") as session:
        await servers.fill(server.rest, servers.instance_ids(count))
        await asyncio.sleep(1)
        times = []
        async with probing(server.rest) as probe:
            for _ in range(21):
                began = time.monotonic()
                async with session.get("/registry/v1/services/json", headers={"Authorization": load.AUTHORIZATION}) as answer:
                    body = await answer.read()
                times.append(time.monotonic() - began)
                if body.count(b'"instanceId"') != count:
                    raise load.LoadError("the list is not complete")
                await asyncio.sleep(0.05)
            return percentile(times, 0.5), probe.longest()
