"""Fleets of clients in processes of their own, as the tests see them; see fleet_process.py for what runs there."""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

from harness import HERE

from luna_grpc.v1 import registry_pb2 as pb
from support import clean_environment


@dataclass(frozen=True)
class Plan:
    """Which clients there are to be."""

    grpc: str
    """The address of that door."""
    connections: int
    streams: int = 1
    """Of each connection."""
    instances: int = 1
    """Of each stream."""
    name: str = "fleet"
    """What the names of its services begin with: the rest is the number of the connection, or `put`."""
    anew: bool = False
    """Whether a stream that is opened again gets another connection, all its own."""
    on_disconnect: pb.OnDisconnect.ValueType = pb.ON_DISCONNECT_KEEP
    rest: str = ""
    """The URL of that door."""
    puts: int = 0
    """How many clients it has there, of one instance each."""
    every: float = 1.0
    """Seconds between two of their heartbeats. (The others are told.)"""

    def streamed(self) -> list[list[list[str]]]:
        """Return the ids of the instances of each stream of each connection."""
        return [
            [
                [f"{self.name}-{number}:localhost:{stream * self.instances + each + 1}" for each in range(self.instances)]
                for stream in range(self.streams)
            ]
            for number in range(self.connections)
        ]

    def put(self) -> list[str]:
        """Return the ids of the instances that are put."""
        return [f"{self.name}-put:localhost:{number + 1}" for number in range(self.puts)]

    def ids(self) -> set[str]:
        """Return the ids of all."""
        return {each for streams in self.streamed() for ids in streams for each in ids} | set(self.put())

    @property
    def clients(self) -> int:
        """How many clients there are."""
        return self.connections * self.streams + self.puts


@dataclass
class Seen:
    """What the clients say of themselves."""

    alive: int
    """How many were answered, and had nothing to register, since a moment."""
    registered: int
    """How many registrations were accepted in all."""
    troubles: Counter[str]


class Fleet:
    """The clients of one process."""

    def __init__(self, plan: Plan, process: asyncio.subprocess.Process) -> None:
        self.plan = plan
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
        while (seen := await self.look(since)).alive < self.plan.clients:
            what = f"{seen.alive} of {self.plan.clients} are alive after {within} s: {seen.troubles}"
            assert time.monotonic() < deadline, what
            await asyncio.sleep(0.05)
        return seen

    async def kill(self) -> None:
        """Kill the process, as the kernel would."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.communicate()


@asynccontextmanager
async def fleet(plan: Plan, within: Sequence[str] = ()) -> AsyncIterator[Fleet]:
    """Run clients; `within` is a command that is to run their process and becomes it."""
    process = await asyncio.create_subprocess_exec(
        *within, sys.executable, HERE / "fleet_process.py", json.dumps(asdict(plan)),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=clean_environment() | {"PYTHONPATH": str(HERE.parent)},
    )  # fmt: skip
    started = Fleet(plan, process)
    try:
        yield started
    finally:
        await started.kill()
