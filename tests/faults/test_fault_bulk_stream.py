"""Many instances on one stream: a failure concerns one of them only."""

import asyncio
from typing import TypeAlias

import grpc
from harness import register, seconds, watching

from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import Stub, channel, luna

IDS = [f"bulk:localhost:{port}" for port in range(8000, 9000)]
SIZE = 100
Stream: TypeAlias = "grpc.aio.StreamStreamCall[pb.StreamHeartbeatsRequest, pb.StreamHeartbeatsResponse]"


async def _last_heartbeats(stub: Stub) -> dict[str, float]:
    [service] = (await stub.ListServices(pb.ListServicesRequest())).services
    return {instance.instance_id: seconds(instance.last_heartbeat) for instance in service.instances}


async def _half_close(stream: Stream) -> None:
    await stream.done_writing()
    # A half-close is answered once more, and the status comes only after everything was read.
    while await stream.read() is not grpc.aio.EOF:
        pass
    assert await stream.code() is grpc.StatusCode.OK


async def test_an_unknown_id_fails_alone() -> None:
    """1,000 instances in messages of 100: one unknown id in each renews the other 99 and is reported with code 5."""
    async with luna("--lease-ttl", "2") as server, channel(server.grpc) as connection:
        stub = registry_pb2_grpc.RegistryStub(connection)
        for start in range(0, len(IDS), SIZE):
            await asyncio.gather(*(register(stub, instance_id) for instance_id in IDS[start : start + SIZE]))
        registered = await _last_heartbeats(stub)
        assert len(registered) == len(IDS)
        left_out = IDS[7::SIZE]  # one in each message, whose place an unknown id takes
        stream = stub.StreamHeartbeats()
        async with watching(stub) as watch:
            sequence = 0
            for _ in range(6):  # for longer than one TTL
                for start in range(0, len(IDS), SIZE):
                    ids = IDS[start : start + SIZE]
                    ids[7] = unknown = f"unknown:localhost:{start + 1}"
                    sequence += 1
                    await stream.write(pb.StreamHeartbeatsRequest(instance_ids=ids, sequence=sequence))
                    answer = await stream.read()
                    assert isinstance(answer, pb.StreamHeartbeatsResponse)
                    assert answer.sequence == sequence
                    [failure] = answer.failures
                    assert (failure.instance_id, failure.code) == (unknown, 5)
                await asyncio.sleep(0.4)
            renewed = await _last_heartbeats(stub)
            assert {id_ for id_ in IDS if renewed[id_] == registered[id_]} == set(left_out)
            for instance_id in left_out:
                await watch.sees(instance_id, lambda told: told.down, 2)
            assert {told.id for told in watch.told if told.down} == set(left_out)
        await _half_close(stream)


async def test_messages_sent_without_waiting() -> None:
    """The same ten messages sent at once: cumulative answers name every unknown id, and the last one the last message."""
    async with luna() as server, channel(server.grpc) as connection:
        stub = registry_pb2_grpc.RegistryStub(connection)
        for start in range(0, len(IDS), SIZE):
            await asyncio.gather(*(register(stub, instance_id) for instance_id in IDS[start : start + SIZE]))
        stream = stub.StreamHeartbeats()
        for number in range(10):
            ids = [*IDS[number * SIZE : (number + 1) * SIZE - 1], f"unknown:localhost:{number + 1}"]
            await stream.write(pb.StreamHeartbeatsRequest(instance_ids=ids, sequence=number + 1))
        failures: dict[str, int] = {}
        answered = 0
        while answered < 10:
            answer = await stream.read()
            assert isinstance(answer, pb.StreamHeartbeatsResponse)
            assert answer.sequence > answered
            answered = answer.sequence
            failures |= {failure.instance_id: failure.code for failure in answer.failures}
        assert failures == {f"unknown:localhost:{number}": 5 for number in range(1, 11)}
        await _half_close(stream)
