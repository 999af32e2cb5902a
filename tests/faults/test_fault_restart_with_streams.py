"""Thousands of streams lose their registry at one moment, and come back to one that knows nothing."""

import asyncio
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from harness import HERE, measured, soak
from probe import probing

from support import clean_environment, luna, session

CONNECTIONS, STREAMS = soak(20, 100), 50
ALL = CONNECTIONS * STREAMS
TTL = soak(9.0, 30.0)
INTERVAL = TTL / 3
LAG = 250
"""Milliseconds."""


@dataclass
class Seen:
    """What the clients say of themselves."""

    alive: int
    """How many were answered, and had nothing to register, since a moment."""
    registered: int
    """How many registrations were accepted in all."""
    troubles: Counter[str]


class Fleet:
    """The clients, in a process of their own; see fleet_process.py."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def look(self, since: float) -> Seen:
        """Ask how they have been since a moment."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{since}\n".encode())
        seen = json.loads(await asyncio.wait_for(self._process.stdout.readline(), 30))
        return Seen(seen["alive"], seen["registered"], Counter(seen["troubles"]))

    async def all_alive(self, since: float, within: float) -> Seen:
        """Wait until all of them have been alive since a moment."""
        deadline = time.monotonic() + within
        while (seen := await self.look(since)).alive < ALL:
            assert time.monotonic() < deadline, f"{seen.alive} of {ALL} are alive after {within} s: {seen.troubles}"
            await asyncio.sleep(0.05)
        return seen


@asynccontextmanager
async def _fleet(address: str) -> AsyncIterator[Fleet]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, HERE / "fleet_process.py", address, str(CONNECTIONS), str(STREAMS),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=clean_environment() | {"PYTHONPATH": str(HERE.parent)},
    )  # fmt: skip
    try:
        yield Fleet(process)
    finally:
        process.kill()
        await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_all_streams_come_back_after_a_restart(
    number: signal.Signals, record_property: Callable[[str, object], None]
) -> None:
    """Within two intervals all are registered and answered again, nobody is left behind, and the loop is never held for long."""
    flags = ("--lease-ttl", str(TTL), "--log-level", "warning")
    with tempfile.TemporaryFile() as errors:
        async with luna(*flags, stderr=errors.fileno()) as first, _fleet(first.grpc) as fleet:
            seen = await fleet.all_alive(since=0, within=60)
            assert seen.registered == ALL
            rest_port, grpc_port = (address.rpartition(":")[2] for address in (first.rest, first.grpc))
            assert await first.stop(number) == (0 if number is signal.SIGTERM else -number)
            ports = ("--port", rest_port, "--grpc-port", grpc_port)
            async with luna(*flags, *ports, stderr=errors.fileno()) as second, probing(second) as probe:
                ready = time.monotonic()
                await fleet.all_alive(since=ready, within=2 * INTERVAL)
                back = time.monotonic()
                seen = await fleet.all_alive(since=back, within=2 * INTERVAL)
                assert seen.registered == 2 * ALL
                async with session(second.rest) as rest, rest.get("/registry/v1/services/json") as answer:
                    listed = [instance["status"] for service in await answer.json() for instance in service["instances"]]
                assert Counter(listed) == {"OK": ALL}
                measured(record_property, f"seconds from ready until {ALL} streams are back", back - ready)
                measured(record_property, "milliseconds for which another request waits, at most", probe.longest)
                assert probe.longest <= LAG
        errors.seek(0)
        assert errors.read() == b""
