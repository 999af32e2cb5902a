"""What the end of a heartbeat stream means, when its client process is killed and when it is not."""

import asyncio
from collections.abc import Callable

import grpc
import pytest
from harness import Told, look_up, measured, register, seconds, watching, worker, workers

from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import channel, luna

MARK_DOWN = pb.StreamOptions(on_disconnect=pb.ON_DISCONNECT_MARK_DOWN)


def _down(told: Told) -> bool:
    return told.down


async def test_mark_down_when_the_client_is_killed(record_property: Callable[[str, object], None]) -> None:
    """SIGKILL of a client with MARK_DOWN: DOWN within 1 s with the reason DISCONNECTED, each of 20 times, busy or idle."""
    ids = [f"killed:localhost:{port}" for port in range(8000, 8020)]
    async with luna() as server, channel(server.grpc) as connection, workers(server.grpc, len(ids)) as clients:
        stub = registry_pb2_grpc.RegistryStub(connection)
        async with watching(stub) as watch:
            for client, instance_id in zip(clients, ids, strict=True):
                await register(stub, instance_id)
                client.send(instance_ids=[instance_id], options=MARK_DOWN)
            for client in clients:
                assert not (await client.answer()).failures
            assert not [told for told in watch.told if told.down]
            delays = []
            for number, (client, instance_id) in enumerate(zip(clients, ids, strict=True)):
                if number % 2:
                    for sequence in range(50):
                        client.send(instance_ids=[instance_id], sequence=sequence)
                    await client.answer()  # so that it is killed amid its messages
                killed = client.kill()
                told = await watch.sees(instance_id, _down, 2)
                assert told.instance.status_reason == pb.STATUS_REASON_DISCONNECTED
                delays.append(told.at - killed)
            measured(record_property, "seconds from SIGKILL to DOWN", *delays)
            assert max(delays) < 1
            assert {told.id for told in watch.told if told.down} == set(ids)
            # A heartbeat by any other way brings it back.
            known = len(watch.told)
            await stub.Heartbeat(pb.HeartbeatRequest(instance_id=ids[0]))
            await watch.sees(ids[0], lambda told: told.ok, 1, after=known)


async def test_mark_down_for_all_instances_of_a_stream() -> None:
    """A stream takes down those of its instances that no one else renewed since, and all of them."""
    ids = [f"many:localhost:{port}" for port in range(8000, 8300)]
    elsewhere = ids[::3]
    async with luna() as server, channel(server.grpc) as connection, worker(server.grpc) as client:
        stub = registry_pb2_grpc.RegistryStub(connection)
        async with watching(stub) as watch:
            await asyncio.gather(*(register(stub, instance_id) for instance_id in ids))
            client.send(instance_ids=ids, options=MARK_DOWN)
            assert not (await client.answer()).failures
            for instance_id in elsewhere:
                await stub.Heartbeat(pb.HeartbeatRequest(instance_id=instance_id))
            client.kill()
            for instance_id in set(ids) - set(elsewhere):
                await watch.sees(instance_id, _down, 1)
            for instance_id in elsewhere:
                assert (await look_up(stub, instance_id)).status == pb.STATUS_OK
            assert not {told.id for told in watch.told if told.down} & set(elsewhere)


async def test_keep_when_the_client_is_killed() -> None:
    """SIGKILL of a client with KEEP, which is the default: DOWN only when the lease runs out."""
    options = {
        "kept:localhost:1": pb.StreamOptions(on_disconnect=pb.ON_DISCONNECT_KEEP),
        "kept:localhost:2": pb.StreamOptions(on_disconnect=pb.ON_DISCONNECT_UNSPECIFIED),
        "kept:localhost:3": None,
    }
    async with (
        luna("--lease-ttl", "1") as server,
        channel(server.grpc) as connection,
        workers(server.grpc, len(options)) as clients,
    ):
        stub = registry_pb2_grpc.RegistryStub(connection)
        async with watching(stub) as watch:
            for client, (instance_id, option) in zip(clients, options.items(), strict=True):
                await register(stub, instance_id)
                client.send(instance_ids=[instance_id], options=option)
            await asyncio.gather(*(client.answer() for client in clients))
            # Whoever has waited long for a slow worker renews, and is alive when its client is killed.
            for client, instance_id in zip(clients, options, strict=True):
                client.send(instance_ids=[instance_id])
                await client.answer()
                client.kill()
            known = len(watch.told)
            for instance_id in options:
                told = await watch.sees(instance_id, _down, 3, after=known)
                assert told.instance.status_reason == pb.STATUS_REASON_LEASE_EXPIRED
                assert 1.0 <= told.silence <= 1.5


async def test_deregister_when_the_client_is_killed() -> None:
    """SIGKILL of a client with DEREGISTER: the instance is gone within 1 s."""
    instance_id = "gone:localhost:80"
    async with luna() as server, channel(server.grpc) as connection, worker(server.grpc) as client:
        stub = registry_pb2_grpc.RegistryStub(connection)
        async with watching(stub) as watch:
            await register(stub, instance_id)
            client.send(instance_ids=[instance_id], options=pb.StreamOptions(on_disconnect=pb.ON_DISCONNECT_DEREGISTER))
            await client.answer()
            killed = client.kill()
            told = await watch.sees(instance_id, lambda told: told.removed, 2)
            assert told.at - killed < 1
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await look_up(stub, instance_id)
            assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
            assert not [told for told in watch.told if told.down]


@pytest.mark.parametrize("option", [pb.ON_DISCONNECT_MARK_DOWN, pb.ON_DISCONNECT_DEREGISTER])
async def test_a_half_close_is_not_a_break(option: pb.OnDisconnect.ValueType) -> None:
    """A client that half-closes its stream and exits leaves its instances OK; its last messages still count."""
    ids = [f"done:localhost:{port}" for port in range(8000, 8005)]
    async with luna() as server, channel(server.grpc) as connection, workers(server.grpc, len(ids)) as clients:
        stub = registry_pb2_grpc.RegistryStub(connection)
        async with watching(stub) as watch:
            for client, instance_id in zip(clients, ids, strict=True):
                await register(stub, instance_id)
                client.send(instance_ids=[instance_id], options=pb.StreamOptions(on_disconnect=option))
                # The last word right before the half-close is handled too.
                client.send(heartbeats=[pb.HeartbeatRequest(instance_id=instance_id, instance=pb.Instance(version="last"))])
            assert {await client.half_close() for client in clients} == {"OK"}
            for instance_id in ids:
                await watch.sees(instance_id, lambda told: told.instance.version == "last", 1)
            # The workers' processes are over; a break would show within a moment.
            await asyncio.sleep(0.5)
            assert {(await look_up(stub, instance_id)).status for instance_id in ids} == {pb.STATUS_OK}
            assert not [told for told in watch.told if told.down or told.removed]


async def test_who_was_replaced_renews_nothing() -> None:
    """Bare ids and old generations on a replaced worker's stream fail with code 9, and its successor's lease runs out."""
    bare, named, both = ids = [f"stale:localhost:{port}" for port in (1, 2, 3)]
    async with luna("--lease-ttl", "1") as server, channel(server.grpc) as connection, worker(server.grpc) as old:
        stub = registry_pb2_grpc.RegistryStub(connection)
        generations = {instance_id: (await register(stub, instance_id)).generation for instance_id in ids}
        heartbeats = [pb.HeartbeatRequest(instance_id=id_, generation=generations[id_]) for id_ in (named, both)]
        old.send(instance_ids=[bare, both], heartbeats=heartbeats, options=MARK_DOWN)
        assert not (await old.answer()).failures
        async with watching(stub) as watch:
            successors = {instance_id: await register(stub, instance_id, replace=True) for instance_id in ids}
            assert all(successors[instance_id].generation > generations[instance_id] for instance_id in ids)
            downs: dict[str, Told] = {}
            sequence = 0
            while len(downs) < len(ids):
                sequence += 1
                assert sequence < 100, "what the replaced worker sends keeps its successors alive"
                old.send(instance_ids=[bare, both], heartbeats=heartbeats, sequence=sequence)
                answer = await old.answer()
                assert answer.sequence == sequence
                assert {failure.instance_id: failure.code for failure in answer.failures} == dict.fromkeys(ids, 9)
                downs = {told.id: told for told in watch.told if told.down}
                await asyncio.sleep(0.05)
            for instance_id, told in downs.items():
                assert told.instance.generation == successors[instance_id].generation
                assert told.instance.status_reason == pb.STATUS_REASON_LEASE_EXPIRED
                # Not renewed by a hair: the last heartbeat is still the registration.
                assert told.instance.last_heartbeat == told.instance.registered_at
                assert 1.0 <= told.at - seconds(told.instance.registered_at) <= 1.5
            # Nor does it wake the dead.
            old.send(instance_ids=[bare, both], heartbeats=heartbeats, sequence=0)
            assert len((await old.answer()).failures) == 3
            assert {(await look_up(stub, instance_id)).status for instance_id in ids} == {pb.STATUS_DOWN}


@pytest.mark.parametrize("option", [pb.ON_DISCONNECT_MARK_DOWN, pb.ON_DISCONNECT_DEREGISTER])
async def test_who_was_replaced_takes_no_one_down(option: pb.OnDisconnect.ValueType) -> None:
    """A replaced worker's stream breaks before, while and after its successor registers: the successor stays OK."""
    # Seconds from the kill to the replacement; a negative one replaces first, and lets the old worker send stale heartbeats.
    delays = [-0.3, -0.1, -0.003, -0.001, 0.0, 0.0, 0.001, 0.002, 0.005, 0.3]
    ids = [f"taken:localhost:{port}" for port in range(8000, 8000 + len(delays))]
    async with luna() as server, channel(server.grpc) as connection, workers(server.grpc, len(ids)) as old_ones:
        stub = registry_pb2_grpc.RegistryStub(connection)
        async with watching(stub) as watch:
            successors: dict[str, int] = {}
            for number, (old, instance_id, delay) in enumerate(zip(old_ones, ids, delays, strict=True)):
                first = await register(stub, instance_id)
                heartbeat = pb.HeartbeatRequest(instance_id=instance_id, generation=first.generation)
                message: dict[str, object] = {"heartbeats": [heartbeat]} if number % 2 else {"instance_ids": [instance_id]}
                old.send(**message, options=pb.StreamOptions(on_disconnect=option))
                assert not (await old.answer()).failures
                if delay < 0:
                    successors[instance_id] = (await register(stub, instance_id, replace=True)).generation
                    if delay < -0.01:
                        old.send(**message)
                        [failure] = (await old.answer()).failures
                        assert failure.code == 9
                    await asyncio.sleep(-delay)
                    old.kill()
                else:
                    old.kill()
                    await asyncio.sleep(delay)
                    successors[instance_id] = (await register(stub, instance_id, replace=True)).generation
            # A break is handled within milliseconds; a successor taken down by it would show by now.
            await asyncio.sleep(0.7)
            for instance_id, generation in successors.items():
                now = await look_up(stub, instance_id)
                assert (now.generation, now.status) == (generation, pb.STATUS_OK)
            harmed = [
                told for told in watch.told if (told.down or told.removed) and told.instance.generation == successors[told.id]
            ]
            assert harmed == []
