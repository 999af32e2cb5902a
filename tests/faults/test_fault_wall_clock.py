"""The wall clock of a real server jumps by an hour, as when someone sets it: it is only ever shown."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

import pytest
from fleets import Fleet, Plan, fleet
from harness import Watch, complaints, look_up, measured, register, seconds, soak, watching

from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import Stub, channel, luna, need, session

TTL = soak(3.0, 6.0)
HOUR = 3600
ROOM = 1.0
"""Seconds; by how much a busy machine may be late."""
HELD = 4 * TTL + ROOM
"""Seconds; how long a lease lasts at most when pauses of the server put off its end."""
SILENT = "silent:localhost:1"
CLOCKS = """
import sys, time
for _ in sys.stdin:
    print(time.time(), time.time_ns() / 1e9, time.monotonic(), time.perf_counter(), flush=True)
"""


class WallClock:
    """The wall clock of processes that are started with its environment; their monotonic clock is left alone."""

    def __init__(self, folder: Path) -> None:
        need("faketime")
        self._file = folder / "offset"
        self.set(0)
        preload = subprocess.run(["faketime", "-f", "+0", "sh", "-c", 'printf %s "$LD_PRELOAD"'], check=True, capture_output=True)
        self.environment = {
            "LD_PRELOAD": preload.stdout.decode(),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, offset: int) -> None:
        """Let it be wrong by so many seconds."""
        # At once, for it is read all the time, and nobody is to find it empty.
        written = self._file.with_suffix(".new")
        written.write_text(f"{offset:+d}")
        written.rename(self._file)


@pytest.fixture
def wall_clock(tmp_path: Path) -> WallClock:
    """Return a clock that is right."""
    return WallClock(tmp_path)


def test_only_the_wall_clock_is_moved(wall_clock: WallClock) -> None:
    """The tests below would hold of a clock that stands still, and fail of nothing if all clocks were moved."""
    with subprocess.Popen(
        [sys.executable, "-c", CLOCKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **wall_clock.environment}
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for offset in (0, HOUR, -HOUR):
            wall_clock.set(offset)
            before = time.time() + offset, time.time() + offset, time.monotonic(), time.perf_counter()
            process.stdin.write(b"\n")
            process.stdin.flush()
            shown = [float(each) for each in process.stdout.readline().split()]
            assert [round(moment - known) for moment, known in zip(shown, before, strict=True)] == [0, 0, 0, 0]
        process.stdin.close()


async def test_a_jump_blames_no_one(wall_clock: WallClock, record_property: Callable[[str, object], None]) -> None:
    """An hour forth, then two back: who sends heartbeats stays OK, who stops is DOWN on time, and generations go on growing."""
    with tempfile.TemporaryFile() as log:
        async with (
            luna("--lease-ttl", str(TTL), env=wall_clock.environment, stderr=log.fileno()) as server,
            channel(server.grpc) as connection,
            fleet(_plan(server.grpc, server.rest)) as clients,
        ):
            stub = registry_pb2_grpc.RegistryStub(connection)
            registered = (await clients.all_alive(0, 30)).registered
            async with watching(stub) as watch, session(server.rest) as rest:
                generations = [max(await _generations(stub, clients.plan.ids()))]
                stopped = [await _jump(wall_clock, offset, stub, watch, clients, generations) for offset in (HOUR, -HOUR)]
                assert generations == sorted(set(generations))
                assert {told.id for told in watch.told if told.down} == {
                    f"stopping{offset}:localhost:1" for offset in (HOUR, -HOUR)
                }
                async with rest.get("/registry/v1/services/json") as answer:
                    listed = [each for service in await answer.json() for each in service["instances"]]
                assert {each["instanceId"] for each in listed if each["status"] == "OK"} >= clients.plan.ids()
                # Those that were put are shown as they were heard of by that clock.
                shown = [each["last_heartbeat"] / 1000 - time.time() for each in listed if "put" in each["instanceId"]]
                assert {round(each / 60) for each in shown} == {-60}
            seen = await clients.look(0)
            assert seen.registered == registered
        assert complaints(log) == []
        # A monotonic clock that jumped would have been taken for a pause, in which nothing expires.
        assert max(_stalls(log), default=0) < HOUR / 2
        assert max(stopped) <= _latest(log)
    sys.stdout.write(f"\nwhat went wrong for {len(clients.plan.ids())} instances: {dict(seen.troubles)}")
    measured(record_property, f"seconds to DOWN of who stopped, with a TTL of {TTL} s, over a jump forth and one back", *stopped)


def _plan(grpc: str, rest: str) -> Plan:
    return Plan(grpc, soak(4, 16), instances=10, anew=True, rest=rest, puts=soak(20, 80), every=TTL / 3)


async def _jump(wall_clock: WallClock, offset: int, stub: Stub, watch: Watch, clients: Fleet, generations: list[int]) -> float:
    """Set the clock and see what becomes of it; return after how many seconds one that stopped was DOWN.

    The generations of what is registered before that and after it are added to those known.
    """
    stopping = f"stopping{offset}:localhost:1"
    registered, since = await register(stub, stopping), time.monotonic()
    wall_clock.set(offset)
    jumped = time.monotonic()
    await watch.sees(stopping, lambda told: told.down, HELD)
    took = time.monotonic() - since
    assert took >= TTL - 0.001  # the clock of the test is asked a little later
    # The same instances have been heard of since, by a clock that says something else.
    await clients.all_alive(jumped + TTL, 2 * TTL)
    for instance_id in clients.plan.ids():
        heard = seconds((await look_up(stub, instance_id)).last_heartbeat) - time.time()
        assert offset - TTL < heard <= offset + 1
    replaced = [await register(stub, stopping, replace=True) for _ in range(2)]
    assert abs(seconds(replaced[-1].registered_at) - time.time() - offset) < 60
    generations += [each.generation for each in (registered, *replaced)]
    await asyncio.sleep(TTL)
    return took


def _latest(log: IO[bytes]) -> float:
    """Return for how many seconds a lease may have lasted: longer only on a machine so busy that the server stood still."""
    return HELD if _stalls(log) else TTL + ROOM


async def _generations(stub: Stub, ids: Iterable[str]) -> list[int]:
    return [(await look_up(stub, instance_id)).generation for instance_id in ids]


def _stalls(log: IO[bytes]) -> list[float]:
    """Return for how many seconds the server thought that it had stood still, each time."""
    log.seek(0)
    return [line["seconds"] for line in map(json.loads, log) if line["event"] == "stalled"]


@pytest.mark.parametrize("offset", [HOUR, -HOUR])
async def test_a_state_file_outlives_a_jump(offset: int, wall_clock: WallClock, tmp_path: Path) -> None:
    """The clock jumps, the server is started again: no generation comes twice, and every lease lasts a full TTL from there."""
    flags = ("--lease-ttl", str(TTL), "--state-file", str(tmp_path / "state.db"), "--log-level", "warning")
    with tempfile.TemporaryFile() as log:
        async with luna(*flags, env=wall_clock.environment) as first, fleet(_plan(first.grpc, first.rest)) as clients:
            registered = (await clients.all_alive(0, 30)).registered
            async with channel(first.grpc) as connection:
                stub = registry_pb2_grpc.RegistryStub(connection)
                kept = await _generations(stub, clients.plan.ids())
                wall_clock.set(offset)
                silent = [(await register(stub, SILENT, replace=True)).generation for _ in range(3)]
            rest_port, grpc_port = (address.rpartition(":")[2] for address in (first.rest, first.grpc))
            assert await first.stop() == 0
            ports = ("--port", rest_port, "--grpc-port", grpc_port)
            async with (
                luna(*flags, *ports, env=wall_clock.environment, stderr=log.fileno()) as second,
                channel(second.grpc) as connection,
            ):
                ready = time.time()
                stub = registry_pb2_grpc.RegistryStub(connection)
                async with watching(stub) as watch:
                    told = await watch.sees(SILENT, lambda told: told.down, HELD)
                    assert TTL - ROOM <= told.at - ready <= _latest(log)
                    assert told.instance.status_reason == pb.STATUS_REASON_LEASE_EXPIRED
                    new = [(await register(stub, SILENT, replace=True)).generation for _ in range(2)]
                    assert abs(seconds((await look_up(stub, SILENT)).registered_at) - time.time() - offset) < 60
                    await clients.all_alive(time.monotonic(), 4 * TTL)
                    assert {told.id for told in watch.told if told.down} == {SILENT}
                assert max(kept) < silent[0]
                assert silent + new == sorted({*silent, *new})
                assert await _generations(stub, clients.plan.ids()) == kept
                assert (await clients.look(0)).registered == registered
        assert complaints(log) == []
