"""Replicas that share a Redis: real processes, a real Redis, and what becomes of them when one goes away."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from harness import eventually, watching

from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from redises import RedisServer, redis_server
from support import Luna, Stub, channel, luna

TTL = 4.0
ID = "orders:h:1"


@dataclass
class Replica:
    """One of them, and a client of it."""

    server: Luna
    stub: Stub

    async def register(self, instance_id: str = ID, *, replace: bool = False, owner: str = "") -> pb.RegisterResponse:
        request = pb.RegisterRequest(instance=pb.Instance(instance_id=instance_id), replace=replace, owner=owner)
        return await self.stub.Register(request)

    async def get(self, instance_id: str = ID) -> pb.Instance:
        return (await self.stub.GetInstance(pb.GetInstanceRequest(instance_id=instance_id))).instance

    async def is_up(self, instance_id: str = ID) -> bool:
        try:
            return (await self.get(instance_id)).status == pb.STATUS_OK
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.NOT_FOUND
            return False

    async def until_up(self, wanted: bool, instance_id: str = ID, within: float = 30) -> None:
        deadline = time.monotonic() + within
        while await self.is_up(instance_id) is not wanted:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


@asynccontextmanager
async def replicas(redis: RedisServer, count: int) -> AsyncIterator[list[Replica]]:
    """Run some over one Redis."""
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(count):
            server = await stack.enter_async_context(luna("--store", redis.url, "--lease-ttl", str(TTL), "--warmup", "0"))
            connection = await stack.enter_async_context(channel(server.grpc))
            found.append(Replica(server, registry_pb2_grpc.RegistryStub(connection)))
        yield found


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    """Run a Redis of our own."""
    async with redis_server(tmp_path) as server:
        yield server


async def test_what_one_replica_knows_all_know(redis: RedisServer) -> None:
    """A change is there at once where it was made and soon at the others, under the same generation; an id is held for all."""
    async with replicas(redis, 2) as (one, two):
        made = (await one.register()).instance
        await two.until_up(True)
        assert (await two.get()).generation == made.generation
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await two.register()
        assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
        await two.stub.DrainInstance(pb.DrainInstanceRequest(instance_id=ID))
        assert not await two.is_up()
        await one.until_up(False)
        await one.stub.Deregister(pb.DeregisterRequest(instance_id=ID))
        assert (await two.register()).instance.status_reason == pb.STATUS_REASON_DRAINED


async def test_registrations_of_one_id_at_once(redis: RedisServer) -> None:
    """At every replica at the same moment: one is accepted, and all agree which."""
    async with replicas(redis, 2) as both:
        for number in range(1, 31):
            instance_id = f"orders:h:{number}"
            outcomes = await asyncio.gather(
                *(each.register(instance_id, owner=str(n)) for n, each in enumerate(both * 3)), return_exceptions=True
            )
            accepted = [each for each in outcomes if isinstance(each, pb.RegisterResponse)]
            assert len(accepted) == 1, outcomes
            for each in both:
                await each.until_up(True, instance_id)
                assert (await each.get(instance_id)).generation == accepted[0].instance.generation


async def test_heartbeats_count_whoever_hears_them(redis: RedisServer) -> None:
    """Registered at one replica and kept alive at the other one; silent, it is DOWN at both about a TTL later."""
    async with replicas(redis, 2) as (one, two):
        await one.register()
        await two.until_up(True)
        async with watching(one.stub) as watch:
            until = time.monotonic() + 2.5 * TTL
            while time.monotonic() < until:
                await two.stub.Heartbeat(pb.HeartbeatRequest(instance_id=ID))
                await asyncio.sleep(0.2)
            assert not any(told.down for told in watch.told)
            last = time.monotonic()
            await eventually(lambda: any(told.down for told in watch.told), 4 * TTL, "it is DOWN")
            assert TTL - 0.5 < time.monotonic() - last < TTL + 6
        assert not await two.is_up()


async def test_a_replica_that_is_killed_takes_nobody_down(redis: RedisServer) -> None:
    """Its clients go on at another one; a token of it is good there."""
    async with replicas(redis, 2) as (one, two):
        await one.register()
        async with watching(one.stub) as watch:
            await eventually(lambda: watch.token, 10, "a token")
            token = watch.token
        one.server.process.kill()
        until = time.monotonic() + 2 * TTL
        while time.monotonic() < until:
            await two.stub.Heartbeat(pb.HeartbeatRequest(instance_id=ID))
            assert await two.is_up()
            await asyncio.sleep(0.2)
        call = two.stub.WatchServices(pb.WatchServicesRequest(resume_token=token))
        first: Any = await call.read()
        assert (first.synced, first.reset) == (True, False)
        call.cancel()


async def test_while_redis_is_away(redis: RedisServer) -> None:
    """Nobody goes DOWN, lists are given, changes are refused; a Redis that has lost everything is told by another epoch."""
    async with replicas(redis, 2) as (one, two):
        epoch = (await one.register()).lease.epoch
        await two.until_up(True)
        await redis.stop()
        until = time.monotonic() + 1.5 * TTL
        while time.monotonic() < until:
            assert await one.is_up()
            assert await two.is_up()
            await asyncio.sleep(0.2)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await one.register("orders:h:2")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await redis.start()
        for each in (one, two):
            await each.until_up(False)
        deadline = time.monotonic() + 30
        while True:
            try:
                back = await two.register(owner="me")
                break
            except grpc.aio.AioRpcError:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.2)
        assert back.lease.epoch != epoch
        await one.until_up(True)
        assert (await one.register(replace=True)).lease.epoch == back.lease.epoch
