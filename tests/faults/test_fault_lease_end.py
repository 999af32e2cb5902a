"""An instance that falls silent is DOWN on time, everywhere, and comes back with a heartbeat."""

import asyncio
from collections.abc import Callable

import pytest
from aiohttp import ClientSession
from harness import INSTANCES, Watch, eventually, look_up, measured, register, watching

from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import Stub, channel, instance_json, luna, session

TTL = 1.0
ON_TIME = 1.2
"""By then four of five are to be DOWN, whatever else the machine has to do."""
AT_WORST = 1.5
"""What a slow machine may make of it."""


async def _json(rest: ClientSession, path: str) -> dict[str, str]:
    async with rest.get(path) as answer:
        assert answer.status == 200
        document: dict[str, str] = await answer.json()
        return document


async def _service(stub: Stub, name: str) -> pb.Service:
    [service] = (await stub.ListServices(pb.ListServicesRequest(name_prefix=name))).services
    return service


async def _rest_service_status(rest: ClientSession, name: str) -> str:
    async with rest.get("/registry/v1/services/json") as answer:
        return next(str(service["status"]) for service in await answer.json() if service["name"] == name)


async def _shown_by_all(stub: Stub, rest: ClientSession, instance_id: str) -> tuple[str, ...]:
    """Return the instance's status by GetInstance and REST, and its service's by ListServices and REST."""
    name = instance_id.partition(":")[0]
    return (
        pb.Status.Name((await look_up(stub, instance_id)).status),
        (await _json(rest, INSTANCES + instance_id))["status"],
        pb.ServiceStatus.Name((await _service(stub, name)).status),
        await _rest_service_status(rest, name),
    )


ALL_DOWN = ("STATUS_DOWN", "DOWN", "SERVICE_STATUS_DOWN", "DOWN")
ALL_OK = ("STATUS_OK", "OK", "SERVICE_STATUS_UP", "UP")


async def _silences(watch: Watch, ids: list[str]) -> list[float]:
    told = [await watch.sees(instance_id, lambda told: told.down, TTL + AT_WORST) for instance_id in ids]
    assert {event.instance.status_reason for event in told} == {pb.STATUS_REASON_LEASE_EXPIRED}
    return sorted(event.silence for event in told)


async def test_who_stops_is_down_after_one_ttl(record_property: Callable[[str, object], None]) -> None:
    """Instances that stop are DOWN 1.0 to 1.2 s after their last heartbeat, whatever kind of heartbeat that was."""
    ids = [f"stop{number:02}:localhost:{8000 + number}" for number in range(21)]
    async with luna("--lease-ttl", "1") as server, channel(server.grpc) as connection, session(server.rest) as rest:
        stub = registry_pb2_grpc.RegistryStub(connection)
        stream = stub.StreamHeartbeats()
        async with watching(stub) as watch:
            for number, instance_id in enumerate(ids):
                await register(stub, instance_id)
                if number % 3 == 1:
                    await stub.Heartbeat(pb.HeartbeatRequest(instance_id=instance_id))
                elif number % 3 == 2:
                    await stream.write(pb.StreamHeartbeatsRequest(instance_ids=[instance_id]))
                    await stream.read()
                # Spread over the sweeper's period, whose phase decides how late an end is declared.
                await asyncio.sleep(0.013)
            assert await _shown_by_all(stub, rest, ids[-1]) == ALL_OK

            silences = await _silences(watch, ids)
            measured(record_property, "seconds from the last heartbeat to DOWN", *silences)
            assert silences[0] >= TTL
            assert silences[len(silences) * 4 // 5] <= ON_TIME
            assert silences[-1] <= AT_WORST
            for instance_id in ids[:3]:
                assert await _shown_by_all(stub, rest, instance_id) == ALL_DOWN
            shown = await _json(rest, INSTANCES + ids[0])
            assert shown["statusReason"] == "LEASE_EXPIRED"
        stream.cancel()


async def test_a_silent_rest_client_gets_5_percent_more(record_property: Callable[[str, object], None]) -> None:
    """A lease renewed through REST ends 1.05 s after the PUT."""
    ids = [f"slack{number:02}:localhost:{8000 + number}" for number in range(10)]
    async with luna("--lease-ttl", "1") as server, channel(server.grpc) as connection, session(server.rest) as rest:
        stub = registry_pb2_grpc.RegistryStub(connection)
        async with watching(stub) as watch:
            for instance_id in ids:
                await register(stub, instance_id)
                async with rest.put(INSTANCES + instance_id, json=instance_json(instance_id)) as answer:
                    assert answer.status == 200
                await asyncio.sleep(0.013)
            silences = await _silences(watch, ids)
            measured(record_property, "seconds from the last heartbeat to DOWN", *silences)
            assert silences[0] >= TTL * 1.05
            assert silences[len(silences) * 4 // 5] <= ON_TIME + 0.05
            assert silences[-1] <= AT_WORST


@pytest.mark.parametrize("by", ["Heartbeat", "StreamHeartbeats", "PUT"])
async def test_a_heartbeat_brings_it_back(by: str) -> None:
    """After the end of its lease one heartbeat makes an instance and its service OK again, everywhere."""
    instance_id = "back:localhost:80"
    async with luna("--lease-ttl", "0.5") as server, channel(server.grpc) as connection, session(server.rest) as rest:
        stub = registry_pb2_grpc.RegistryStub(connection)
        async with watching(stub) as watch:
            generation = (await register(stub, instance_id)).generation
            await watch.sees(instance_id, lambda told: told.down, 5)
            known = len(watch.told)
            stream = stub.StreamHeartbeats()

            async def beat() -> None:
                if by == "Heartbeat":
                    await stub.Heartbeat(pb.HeartbeatRequest(instance_id=instance_id))
                elif by == "StreamHeartbeats":
                    await stream.write(pb.StreamHeartbeatsRequest(instance_ids=[instance_id]))
                else:
                    async with rest.put(INSTANCES + instance_id) as answer:
                        assert answer.status == 200

            await beat()
            back = await watch.sees(instance_id, lambda told: told.ok, 1, after=known)
            assert (back.instance.status_reason, back.instance.generation) == (pb.STATUS_REASON_REPORTED, generation)
            await beat()  # or the lease may be over again before everyone has been asked
            assert await _shown_by_all(stub, rest, instance_id) == ALL_OK
            stream.cancel()


async def test_a_reported_down_survives_heartbeats() -> None:
    """DOWN as reported stays, through heartbeats of every kind that name no status and through the end of a lease."""
    instance_id = "sick:localhost:80"
    async with luna("--lease-ttl", "1") as server, channel(server.grpc) as connection, session(server.rest) as rest:
        stub = registry_pb2_grpc.RegistryStub(connection)
        stream = stub.StreamHeartbeats()
        async with watching(stub) as watch:
            await register(stub, instance_id)
            await stub.Heartbeat(pb.HeartbeatRequest(instance_id=instance_id, status=pb.STATUS_DOWN))

            async def beat_and_look() -> None:
                await stub.Heartbeat(pb.HeartbeatRequest(instance_id=instance_id))
                await stub.Heartbeat(pb.HeartbeatRequest(instance_id=instance_id, instance=pb.Instance(version="2")))
                await stream.write(pb.StreamHeartbeatsRequest(instance_ids=[instance_id]))
                await stream.read()
                async with rest.put(INSTANCES + instance_id) as answer:
                    assert answer.status == 200
                assert await _shown_by_all(stub, rest, instance_id) == ALL_DOWN
                assert (await look_up(stub, instance_id)).status_reason == pb.STATUS_REASON_REPORTED

            await beat_and_look()
            await watch.sees(instance_id, lambda told: told.instance.status_reason == pb.STATUS_REASON_LEASE_EXPIRED, 5)
            await beat_and_look()
            reported = await eventually(lambda: [told for told in watch.told if told.instance.version == "2"], 1, "the version")
            assert not [told for told in watch.told[watch.told.index(reported[0]) :] if told.ok]
            await stub.Heartbeat(pb.HeartbeatRequest(instance_id=instance_id, status=pb.STATUS_OK))
            assert await _shown_by_all(stub, rest, instance_id) == ALL_OK
        stream.cancel()
