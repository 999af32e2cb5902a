"""An empty registry is not the truth right after a restart."""

import signal
import time
from collections.abc import Callable

import grpc
import pytest
from harness import eventually, measured, register, watching

from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import channel, luna, session

WARMUP = 1.5
OLD = [f"old:localhost:{port}" for port in (1, 2, 3)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_removals_wait_after_a_restart(number: signal.Signals, record_property: Callable[[str, object], None]) -> None:
    """After a restart with an empty memory a watcher with an old token is synced only after the warm-up, a fresh one at once."""
    async with luna() as first:
        rest_port, grpc_port = (address.rpartition(":")[2] for address in (first.rest, first.grpc))
        async with channel(first.grpc) as connection:
            stub = registry_pb2_grpc.RegistryStub(connection)
            async with watching(stub) as watch, watching(stub, "old") as named:
                for instance_id in OLD:
                    await register(stub, instance_id)
                    await watch.sees(instance_id, lambda told: told.ok, 2)
                await eventually(lambda: len(named.told) == len(OLD), 2, "the events by name")
                listed = (await stub.ListServices(pb.ListServicesRequest())).resume_token
                assert await first.stop(number) == (0 if number is signal.SIGTERM else -number)
                await eventually(lambda: watch.code is not None and named.code is not None, 5, "the end of the watches")
                if number is signal.SIGTERM:
                    assert (watch.code, named.code) == (grpc.StatusCode.OK, grpc.StatusCode.OK)
    assert watch.token
    assert named.token

    # The second one counts from some moment after this.
    started = time.time()
    flags = ("--port", rest_port, "--grpc-port", grpc_port, "--warmup", str(WARMUP))
    async with luna(*flags) as second, channel(second.grpc) as connection, session(second.rest) as rest:
        ready = time.time()
        stub = registry_pb2_grpc.RegistryStub(connection)
        async with (
            watching(stub, token=watch.token, synced=False) as old,
            watching(stub, "old", token=named.token, synced=False) as old_named,
            watching(stub, token=listed, synced=False) as old_listed,
            watching(stub) as fresh,
        ):
            assert fresh.synced_at is not None
            assert fresh.synced_at - started < WARMUP, "this machine is too slow to tell"
            assert (fresh.messages[0].reset, fresh.told, bool(fresh.token)) == (True, [], True)
            # Lists answer at once, and what they give is of this life.
            answer = await stub.ListServices(pb.ListServicesRequest())
            assert not answer.services
            async with watching(stub, token=answer.resume_token) as from_list:
                assert not from_list.messages[0].reset
            async with rest.get("/registry/v1/services/json") as response:
                assert await response.json() == []
            assert time.time() - started < WARMUP, "this machine is too slow to tell"

            # Who comes back is told of at once, to the watchers from before as well.
            waiting = [old, old_named, old_listed]
            await register(stub, OLD[0])
            for watcher in [*waiting, fresh]:
                await watcher.sees(OLD[0], lambda told: told.ok, 1)
            assert [watcher.synced_at for watcher in waiting] == [None, None, None]
            assert [watcher.token for watcher in waiting] == ["", "", ""]

            for watcher in waiting:
                synced_at = await eventually(lambda watcher=watcher: watcher.synced_at, WARMUP + 1, "synced")  # type: ignore[misc]
                measured(record_property, "seconds from ready to synced", synced_at - ready)
                assert synced_at >= started + WARMUP
                assert synced_at <= ready + WARMUP + 0.5
                assert watcher.messages[0].reset
                assert sum(message.reset for message in watcher.messages) == 1
                assert watcher.token
                # What was dropped is left to the watcher to find out: nothing was REMOVED here.
                assert {told.id for told in watcher.told} == {OLD[0]}
                assert not [told for told in watcher.told if told.removed]
            # And after that, old tokens need not wait any more.
            async with watching(stub, token=watch.token) as late:
                assert late.messages[0].reset
