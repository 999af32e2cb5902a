"""What the tests of faults share: watches that note when they heard what, and workers that can be killed."""

import asyncio
import json
import math
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO, Any, TypeVar

import grpc
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from luna_grpc.v1 import registry_pb2 as pb
from support import SOAK, Stub, basic, clean_environment

INSTANCES = "/registry/v1/instances/"
HERE = Path(__file__).parent
T = TypeVar("T")


def soak(short: T, long: T) -> T:
    """Return how much is to be done: `short` in every run of the tests, `long` in `make soak`."""
    return long if SOAK else short


def percentile(figures: Sequence[float], share: float) -> float:
    """Return the figure that this share of them does not exceed."""
    return sorted(figures)[max(0, math.ceil(share * len(figures)) - 1)]


def memory(pid: int) -> int:
    """Return the bytes of memory that a process takes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def complaints(log: IO[bytes]) -> list[dict[str, Any]]:
    """Return what a server has logged that is a problem of its own: not that the machine was busy, nor what strangers tried."""
    log.seek(0)
    lines = [json.loads(line) if line.startswith(b"{") else {"level": "none", "event": line.decode()} for line in log]
    return [line for line in lines if line["level"] not in {"debug", "info"} and line["event"] not in {"stalled", "login failed"}]


def seconds(moment: Timestamp) -> float:
    """Return seconds since the epoch."""
    return moment.seconds + moment.nanos / 1e9


def measured(record: Callable[[str, object], None], name: str, *figures: float) -> None:
    """Keep figures with the test's report, and show the span of them with `pytest -s`."""
    record(name, [round(figure, 4) for figure in figures])
    span = f"{figures[0]:.3f}" if len(figures) == 1 else f"{min(figures):.3f} to {max(figures):.3f}, median {median(figures):.3f}"
    sys.stdout.write(f"\n{name}: {span} ({len(figures)})\n")


async def eventually(look: Callable[[], T | None], within: float, what: str) -> T:
    """Look until there is something to see, and return it."""
    deadline = time.monotonic() + within
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        await asyncio.sleep(0.005)


@dataclass(frozen=True)
class Told:
    """One event of a watch."""

    at: float
    """When it arrived, in seconds since the epoch."""
    type: int
    instance: pb.Instance

    @property
    def id(self) -> str:
        return self.instance.instance_id

    @property
    def down(self) -> bool:
        return self.type == pb.EVENT_TYPE_UPSERTED and self.instance.status == pb.STATUS_DOWN

    @property
    def ok(self) -> bool:
        return self.type == pb.EVENT_TYPE_UPSERTED and self.instance.status == pb.STATUS_OK

    @property
    def removed(self) -> bool:
        return self.type == pb.EVENT_TYPE_REMOVED

    @property
    def silence(self) -> float:
        """Seconds from the instance's last heartbeat to the arrival of this event."""
        return self.at - seconds(self.instance.last_heartbeat)


class Watch:
    """A watch that goes on in the background."""

    def __init__(self, stub: Stub, names: Iterable[str], token: str) -> None:
        self.told: list[Told] = []
        self.messages: list[pb.WatchServicesResponse] = []
        self.synced_at: float | None = None
        self.token = ""
        self.code: grpc.StatusCode | None = None
        """With what the watch ended; None while it goes on."""
        self.call = stub.WatchServices(pb.WatchServicesRequest(names=names, resume_token=token))

    async def read(self) -> None:
        """Note what comes until the watch ends."""
        with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
            async for message in self.call:
                now = time.time()
                self.messages.append(message)
                self.told += [Told(now, event.type, event.instance) for event in message.events]
                self.token = message.resume_token or self.token
                if message.synced:
                    self.synced_at = now
        self.code = await self.call.code()

    def find(self, instance_id: str, what: Callable[[Told], bool], after: int = 0) -> Told | None:
        """Return the first matching event of an instance, leaving out the first `after` events of the watch."""
        return next((told for told in self.told[after:] if told.id == instance_id and what(told)), None)

    async def sees(self, instance_id: str, what: Callable[[Told], bool], within: float, after: int = 0) -> Told:
        """Wait for a matching event of an instance."""
        return await eventually(lambda: self.find(instance_id, what, after), within, f"the awaited event of {instance_id}")


@asynccontextmanager
async def watching(stub: Stub, *names: str, token: str = "", synced: bool = True) -> AsyncIterator[Watch]:
    """Watch; begin when the present state is known, unless told not to wait for that."""
    watch = Watch(stub, names, token)
    reader = asyncio.create_task(watch.read())
    try:
        if synced:
            await eventually(lambda: watch.synced_at, 10, "synced")
        yield watch
    finally:
        watch.call.cancel()
        await reader


async def register(stub: Stub, instance_id: str, *, replace: bool = False) -> pb.Instance:
    """Register an instance and return it."""
    request = pb.RegisterRequest(instance=pb.Instance(instance_id=instance_id), replace=replace)
    return (await stub.Register(request)).instance


async def look_up(stub: Stub, instance_id: str) -> pb.Instance:
    """Return an instance."""
    return (await stub.GetInstance(pb.GetInstanceRequest(instance_id=instance_id))).instance


class Worker:
    """A heartbeat client in a process of its own; see heartbeat_process.py."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def send(self, **message: Any) -> None:
        """Send a StreamHeartbeatsRequest."""
        line = json_format.MessageToJson(pb.StreamHeartbeatsRequest(**message), indent=None)
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    async def answer(self) -> pb.StreamHeartbeatsResponse:
        """Return the next answer."""
        return json_format.Parse(await self._line(), pb.StreamHeartbeatsResponse())

    async def half_close(self) -> str:
        """End the stream properly, wait for the process to end, and return the name of the stream's status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        line = ""
        while line.startswith("{") or not line:
            line = await self._line()
        assert await asyncio.wait_for(self._process.wait(), 10) == 0
        return line.strip()

    def kill(self) -> float:
        """Kill the process as the kernel would, and return the moment."""
        moment = time.time()
        self._process.kill()
        return moment

    async def over(self) -> None:
        """Wait for the end of the process, bringing it about if need be."""
        if self._process.returncode is None:
            self._process.kill()
        # What was written and never read would otherwise be complained of when the pipe is collected.
        with suppress(BrokenPipeError, ConnectionResetError):
            await self._process.communicate()

    async def _line(self) -> str:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 20)
        assert line, "the worker has ended"
        return line.decode()


@asynccontextmanager
async def worker(address: str) -> AsyncIterator[Worker]:
    """Run a worker of the server at `address`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, HERE / "heartbeat_process.py", address, basic(),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=clean_environment(),
    )  # fmt: skip
    started = Worker(process)
    try:
        yield started
    finally:
        await started.over()


@asynccontextmanager
async def workers(address: str, number: int) -> AsyncIterator[list[Worker]]:
    """Run several workers, which start up side by side."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(worker(address)) for _ in range(number)]
