"""The network between the registry and its clients is cut without a word, and heals."""

import asyncio
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from socket import inet_aton

from aiohttp import ClientSession, UnixConnector
from fleets import Fleet, Plan, fleet
from harness import HERE, Told, Watch, complaints, eventually, measured, soak, watching
from namespaces import CLIENT, SERVER, Cable, cable

from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import Luna, basic, channel, clean_environment, luna

TTL = soak(4.5, 30.0)
INTERVAL = TTL / 3
SLACK = 0.05
"""What a heartbeat through REST gets on top, as a share of the TTL."""
ROOM = 1.0
"""Seconds; by how much a busy machine may be late."""
CONNECTING = 1.0
"""Seconds; how long an attempt to connect may take that began just before the network healed. See `fleet.CONNECTING`."""
IDLE = soak(10.0, 75.0)
"""Seconds; LUNA_IDLE_TIMEOUT."""
STREAMS_END = 40.0 + ROOM
"""Seconds; when a server has found out at the latest, by keepalive, that a connection with streams is dead."""
CONNECTIONS_END = 40.0 + IDLE + ROOM
"""The same, and it is idle then: Python's gRPC keeps the connection of a call that was given up until the call is collected."""
KEEPING, BREAKING, PUTS = soak((10, 5, 10), (80, 10, 100))
OF_A_STREAM = 10
"""Instances."""
ESTABLISHED = "01"
COUNTING = """
import asyncio, json, signal, sys
from luna_grpc.cli import app
def tell(*_):
    print(json.dumps({"level": "info", "event": "tasks", "tasks": len(asyncio.all_tasks())}), file=sys.stderr, flush=True)
signal.signal(signal.SIGUSR1, tell)
app()
"""
"""A server that says how many tasks it has, when it is asked by a signal."""


class Seen:
    """What can be seen of a server from where its network is not cut."""

    def __init__(self, server: Luna, rest: ClientSession) -> None:
        self._server = server
        self._rest = rest

    async def statuses(self) -> Counter[str]:
        """Count the instances by their status."""
        async with self._rest.get("/registry/v1/services/json") as answer:
            return Counter(each["status"] for service in await answer.json() for each in service["instances"])

    async def streams(self) -> tuple[int, int]:
        """Return how many heartbeat streams and watches the server counts."""
        async with self._rest.get("/metrics") as answer:
            text = await answer.text()
        found = dict(re.findall(r"^luna_(heartbeat_streams|watchers) (\S+)$", text, re.MULTILINE))
        return round(float(found["heartbeat_streams"])), round(float(found["watchers"]))

    def connections(self) -> tuple[int, int]:
        """Return how many connections with the clients' end the kernel has for the server, at its gRPC and its REST door."""
        network = Path(f"/proc/{self._server.pid}/net")
        lines = [line.split() for name in ("tcp", "tcp6") for line in (network / name).read_text().splitlines()[1:]]
        theirs = inet_aton(CLIENT)[::-1].hex().upper()
        ports = [
            int(here.rpartition(":")[2], 16) for _, here, there, state, *_ in lines if state == ESTABLISHED and theirs in there
        ]
        grpc, rest = (int(address.rpartition(":")[2]) for address in (self._server.grpc, self._server.rest))
        return ports.count(grpc), ports.count(rest)

    async def held(self) -> tuple[int, int]:
        """Return how many tasks and open files the server has."""
        before = len(self._tasks())
        os.kill(self._server.pid, signal.SIGUSR1)
        told = await eventually(lambda: self._tasks()[before:], 10, "the number of tasks")
        return told[0], sum(1 for _ in Path(f"/proc/{self._server.pid}/fd").iterdir())

    def _tasks(self) -> list[int]:
        # Opened anew: with a file that it shares the server would write where this has read to.
        log = Path(f"/proc/{self._server.pid}/fd/2").read_bytes()
        return [json.loads(line)["tasks"] for line in log.splitlines() if b'"event": "tasks"' in line]


@asynccontextmanager
async def _near(server: Luna, ends: Cable) -> AsyncIterator[tuple[Watch, Seen]]:
    """Watch a server, and look at it, from within its namespace."""
    ports = [address.rpartition(":")[2] for address in (server.grpc, server.rest)]
    with tempfile.TemporaryDirectory() as folder:
        relay = await asyncio.create_subprocess_exec(
            *ends.at_server, sys.executable, HERE / "relay_process.py", SERVER, folder, *ports,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=clean_environment(),
        )  # fmt: skip
        try:
            assert relay.stdout is not None
            assert await asyncio.wait_for(relay.stdout.readline(), 20) == b"ready\n"
            grpc, rest = (f"{folder}/{port}" for port in ports)
            headers = {"Authorization": basic()}
            async with (
                channel(f"unix:{grpc}") as connection,
                ClientSession("http://localhost", connector=UnixConnector(rest, force_close=True), headers=headers) as session,
                watching(registry_pb2_grpc.RegistryStub(connection)) as watch,
            ):
                yield watch, Seen(server, session)
        finally:
            relay.kill()
            await relay.communicate()


async def test_a_cut_network_heals(record_property: Callable[[str, object], None]) -> None:
    """Who is cut off for two TTLs is DOWN on time, and back one interval after the network; no connection of before is left.

    The clients open another stream on another connection when they hear nothing, as the proto says. Some streams ask to be marked
    DOWN when they break: the ends of the old ones arrive when the new ones have renewed their instances, and must do nothing.
    """
    flags = ("--host", SERVER, "--insecure", "--lease-ttl", str(TTL), "--idle-timeout", str(IDLE))
    with cable() as ends, tempfile.TemporaryFile() as log:
        async with (
            luna(*flags, within=ends.at_server, program=("-c", COUNTING), stderr=log.fileno()) as server,
            _near(server, ends) as (watch, seen),
        ):
            await seen.statuses()
            held = await seen.held()
            keep = Plan(
                server.grpc, KEEPING, instances=OF_A_STREAM, name="keeping", anew=True, rest=server.rest, puts=PUTS, every=INTERVAL
            )
            down = Plan(
                server.grpc, BREAKING, instances=OF_A_STREAM, name="breaking", anew=True, on_disconnect=pb.ON_DISCONNECT_MARK_DOWN
            )
            async with fleet(keep, ends.at_client) as keeping, fleet(down, ends.at_client) as breaking:
                await asyncio.gather(keeping.all_alive(0, 60), breaking.all_alive(0, 60))
                await _cut(ends, watch, seen, [keeping, breaking], record_property)
            deadline = time.monotonic() + 20
            while (now := await seen.held()) != held:
                assert time.monotonic() < deadline, f"tasks and open files: {held} before there were clients, {now} after them"
                await asyncio.sleep(0.5)
            sys.stdout.write(f"tasks and open files before the clients came, and when they have gone: {held} and {now}\n")
        assert complaints(log) == []


async def _cut(ends: Cable, watch: Watch, seen: Seen, fleets: list[Fleet], record: Callable[[str, object], None]) -> None:
    """Cut the network and heal it; see who is DOWN, who is back, and what is left."""
    ids = {each for clients in fleets for each in clients.plan.ids()}
    assert [told for told in watch.told if told.down] == []
    ends.cut()
    await asyncio.sleep(2 * TTL)
    silences = [told.silence for told in _first(watch, lambda told: told.down).values()]
    assert await seen.statuses() == {"DOWN": len(ids)}
    measured(record, f"seconds from the last heartbeat to DOWN, with a TTL of {TTL} s", *silences)
    assert len(silences) == len(ids)
    assert min(silences) >= TTL
    assert max(silences) <= TTL * (1 + SLACK) + ROOM

    mark, healed = len(watch.told), time.time()
    ends.heal()
    since = time.monotonic()
    await asyncio.sleep(INTERVAL + CONNECTING + ROOM)
    returns = _first(watch, lambda told: told.ok, mark)
    measured(
        record, f"seconds from healing to OK, with an interval of {INTERVAL} s", *(told.at - healed for told in returns.values())
    )
    assert returns.keys() == ids
    await _nothing_is_stuck(seen, fleets, since, record)
    # The old streams have ended meanwhile, and nobody is DOWN for it.
    assert {told.id for told in watch.told[mark:] if told.down and told.at > returns[told.id].at} == set()
    await asyncio.gather(*(clients.all_alive(time.monotonic(), 2 * TTL) for clients in fleets))
    assert await seen.statuses() == {"OK": len(ids)}


def _first(watch: Watch, what: Callable[[Told], bool], after: int = 0) -> dict[str, Told]:
    """Return the first matching event of each instance."""
    return {told.id: told for told in reversed(watch.told[after:]) if what(told)}


async def _nothing_is_stuck(seen: Seen, fleets: list[Fleet], since: float, record: Callable[[str, object], None]) -> None:
    """Wait until the server has the streams and connections that the clients have, and no others."""
    streams, puts = sum(each.plan.connections for each in fleets), sum(each.plan.puts for each in fleets)
    while (counted := await seen.streams()) != (streams, 1):
        assert time.monotonic() < since + STREAMS_END, f"{counted} streams and watches instead of {(streams, 1)}"
        await asyncio.sleep(0.2)
    measured(record, f"seconds from healing until {streams} streams are counted and no other", time.monotonic() - since)
    while (left := seen.connections()) > (streams, puts) or left[1] > puts:
        assert time.monotonic() < since + CONNECTIONS_END, f"{left} connections instead of {(streams, puts)}"
        await asyncio.sleep(0.2)
    assert left[0] == streams
    measured(record, "the same, until there are no other connections", time.monotonic() - since)
    for each in fleets:
        sys.stdout.write(f"what went wrong for {each.plan.name}: {dict((await each.look(0)).troubles)}\n")
