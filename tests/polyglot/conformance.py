"""What every client of Luna has to do, and a driver that tries it on a real one, in whatever language it is written.

A client is a command. Its environment has `LUNA_ADDRESS`, `INSTANCE_ID`, `LUNA_AUTH_USERNAME` and `LUNA_AUTH_PASSWORD`, and it
keeps that instance registered until SIGTERM. What it says of its health is the last line of its standard input, `OK` or `DOWN`.

Any command can be tried: `PYTHONPATH=tests .venv/bin/python tests/polyglot/conformance.py COMMAND...`
"""

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import SOAK, Luna, clean_environment, luna, session

TTL = 3.0
INTERVAL = TTL / 3
ROOM = 4.0
"""Seconds that a busy machine may add to what a client is allowed."""
START = 30.0
"""Seconds until a client has to be registered after its start, or to have ended."""
AWAY = 10.0 if SOAK or "CI" in os.environ else 3.0
"""For how many seconds the registry is away."""
INSTANCE_ID = "conformance:localhost:8080"


@dataclass(frozen=True)
class Client:
    """A program that keeps itself registered."""

    command: tuple[str, ...]
    folder: Path


class NonconformingError(Exception):
    """A client does not do what it has to do."""


class Stage:
    """A registry that a client is tried with; it comes back to its ports, with an empty memory."""

    def __init__(self, client: Client, server: Luna) -> None:
        self.client = client
        self._server = server
        self._flags = ("--port", server.rest.rpartition(":")[2], "--grpc-port", server.grpc.rpartition(":")[2])

    @asynccontextmanager
    async def running(self, password: str = "") -> AsyncIterator[Process]:
        """Run the client until the end of the context."""
        settings = {
            "LUNA_ADDRESS": self._server.grpc,
            "INSTANCE_ID": INSTANCE_ID,
            "LUNA_AUTH_USERNAME": "admin",
            "LUNA_AUTH_PASSWORD": password,
        }
        process = await asyncio.create_subprocess_exec(
            *self.client.command, cwd=self.client.folder, env=clean_environment() | settings,
            stdin=PIPE, stdout=DEVNULL, stderr=PIPE if password else None,
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            assert process.stdin is not None
            process.stdin.close()
            with suppress(BrokenPipeError, ConnectionResetError):
                await process.communicate()  # closes the pipes too

    @asynccontextmanager
    async def registered(self) -> AsyncIterator[Process]:
        """Run the client, beginning when it is registered and OK."""
        async with self.running() as process:
            await self.sees("OK", "REPORTED", START)
            yield process

    @asynccontextmanager
    async def away(self, seconds: float) -> AsyncIterator[None]:
        """Kill the registry, and begin when there is another one that knows nobody."""
        await self._server.stop(signal.SIGKILL)
        await asyncio.sleep(seconds)
        async with luna("--lease-ttl", str(TTL), *self._flags):
            yield

    async def sees(self, status: str, reason: str, within: float) -> float:
        """Wait until the client's instance has a status for a reason; return for how many seconds."""
        wanted: tuple[str | None, str | None] = (status, reason)
        start = time.monotonic()
        while (seen := await self.status()) != wanted:
            if time.monotonic() > start + within:
                raise NonconformingError(f"not {status} ({reason}) within {within:.0f} s, but {seen[0]} ({seen[1]})")
            await asyncio.sleep(0.05)
        return time.monotonic() - start

    async def stays(self, status: str, seconds: float) -> None:
        """Watch the client's instance have a status for some time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if (seen := await self.status())[0] != status:
                raise NonconformingError(f"not {status} all the time, but {seen[0]} ({seen[1]})")
            await asyncio.sleep(0.05)

    async def status(self) -> tuple[str | None, str | None]:
        """Return the status of the client's instance and the reason for it; None, None: it is not registered."""
        async with session(self._server.rest) as rest, rest.get(f"/registry/v1/instances/{INSTANCE_ID}") as answer:
            instance: dict[str, Any] = await answer.json() if answer.status == 200 else {}
        return instance.get("status"), instance.get("statusReason")

    async def failed_logins(self) -> float:
        """Return how many wrong passwords the registry was sent."""
        async with session(self._server.rest) as rest, rest.get("/metrics") as answer:
            lines = (await answer.text()).splitlines()
        counts = [
            float(line.split()[1])
            for line in lines
            if line.startswith(("luna_login_failures_total ", "luna_logins_throttled_total "))
        ]
        return sum(counts)


async def joins(stage: Stage) -> float:
    """It registers, and sends heartbeats in time."""
    start = time.monotonic()
    async with stage.registered():
        took = time.monotonic() - start
        await stage.stays("OK", 1.5 * TTL)
    return took


async def tells_its_health(stage: Stage) -> float:
    """It tells of a change with the next heartbeat at the latest."""
    async with stage.registered() as process:
        took = 0.0
        for health in ("DOWN", "OK", "DOWN"):
            _say(process, health)
            took = max(took, await stage.sees(health, "REPORTED", INTERVAL + ROOM))
        await stage.stays("DOWN", 1.5 * INTERVAL)
    return took


async def outlives_a_restart(stage: Stage) -> float:
    """A registry that was started anew has it back within two intervals, and keeps it."""
    async with stage.registered(), stage.away(0):
        took = await stage.sees("OK", "REPORTED", 2 * INTERVAL + ROOM)
        await stage.stays("OK", TTL)
    return took


async def outlives_an_absence(stage: Stage) -> float:
    """So has one that was away for longer; with what the client has said of its health before and meanwhile."""
    async with stage.registered() as process:
        _say(process, "DOWN")
        await stage.sees("DOWN", "REPORTED", INTERVAL + ROOM)
        async with stage.away(AWAY):
            took = await stage.sees("DOWN", "REPORTED", 2 * INTERVAL + ROOM)
            _say(process, "OK")
            await stage.sees("OK", "REPORTED", INTERVAL + ROOM)
    return took


async def leaves_on_sigterm(stage: Stage) -> float:
    """It deregisters, and ends with exit code 0."""
    async with stage.registered() as process:
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = await _ended(process, ROOM)
        took = time.monotonic() - start
        seen, _ = await stage.status()
    if (code, seen) != (0, None):
        raise NonconformingError(f"after SIGTERM the exit code is {code}, and the instance is {seen or 'gone'}")
    return took


async def expires_when_killed(stage: Stage) -> float:
    """It is missed at the end of its lease, and not before: a stream that breaks says nothing of the instance."""
    async with stage.registered() as process:
        process.kill()
        return await stage.sees("DOWN", "LEASE_EXPIRED", TTL + ROOM)


async def gives_up_with_a_wrong_password(stage: Stage) -> float:
    """It ends and says why, and does not try again and again."""
    start = time.monotonic()
    async with stage.running(password="wrong") as process:
        ending = asyncio.create_task(_ended(process, START))
        while not ending.done() and await stage.failed_logins() <= 2:  # noqa: ASYNC110 - it happens in other processes
            await asyncio.sleep(0.05)
        tried = await stage.failed_logins()
        if tried > 2:
            ending.cancel()
            raise NonconformingError(f"it sent the wrong password {tried:.0f} times")
        code = await ending
        took = time.monotonic() - start
        assert process.stderr is not None
        said = (await process.stderr.read()).decode()
    if tried == 0 or code <= 0 or "credentials" not in said or said.count("\n") > 2:
        raise NonconformingError(f"it tried {tried:.0f} times, ended with exit code {code} and said {said!r}")
    return took


STEPS: dict[str, Callable[[Stage], Awaitable[float]]] = {
    "joins and is UP": joins,
    "tells its health": tells_its_health,
    "registry restarted": outlives_a_restart,
    "registry away": outlives_an_absence,
    "SIGTERM": leaves_on_sigterm,
    "SIGKILL": expires_when_killed,
    "wrong password": gives_up_with_a_wrong_password,
}


async def check(client: Client, step: str) -> float:
    """Try one step on a client, with a registry of its own; return for how many seconds the client kept it waiting.

    Raises:
        NonconformingError: the client does not do what it has to do; says which step and what was seen.

    """
    async with luna("--lease-ttl", str(TTL)) as server:
        try:
            return await STEPS[step](Stage(client, server))
        except NonconformingError as error:
            raise NonconformingError(f"{step}: {error}") from None


def _say(process: Process, health: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{health}\n".encode())


async def _ended(process: Process, within: float) -> int:
    try:
        return await asyncio.wait_for(process.wait(), within)
    except TimeoutError:
        raise NonconformingError(f"it did not end within {within:.0f} s") from None


async def _check_all(client: Client) -> int:
    failures = 0
    for step in STEPS:
        try:
            took = await check(client, step)
        except NonconformingError as error:
            failures += 1
            print(f"FAILED  {error}", flush=True)  # noqa: T201 - this is what people run it for
        else:
            print(f"passed  {step} ({took:.1f} s)", flush=True)  # noqa: T201 - same
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(_check_all(Client(tuple(sys.argv[1:]), Path.cwd()))))
