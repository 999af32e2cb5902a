"""How long a server's event loop is held, seen from outside: something trivial is asked all the time."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from support import Luna

EVERY: Final = 0.003
"""Seconds between an answer and the next question."""


class Probe:
    """What was seen so far."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._began = time.monotonic()
        self._waited = _waited(pid), _waited(os.getpid())
        self.waits: list[float] = []
        """Seconds until each answer, without the time in which the server or this process waited for a processor."""

    @property
    def longest(self) -> float:
        """The longest wait, in milliseconds."""
        return 1000 * max(self.waits)

    @property
    def room(self) -> float:
        """How many times as long everything takes for sharing the processors with others; 1 on a quiet machine."""
        took = time.monotonic() - self._began
        waited = max(_waited(self._pid) - self._waited[0], _waited(os.getpid()) - self._waited[1])
        return took / max(took - waited, took / 10)


@asynccontextmanager
async def probing(server: Luna) -> AsyncIterator[Probe]:
    """Probe for as long as the context is open; the server must be there all the time."""
    host, _, port = server.rest.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    probe = Probe(server.pid)

    async def ask() -> None:
        while True:
            began, idle = time.monotonic(), kept_waiting(server.pid)
            writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.readuntil(b"ok\n")
            probe.waits.append(time.monotonic() - began - (kept_waiting(server.pid) - idle))
            await asyncio.sleep(EVERY)

    asking = asyncio.create_task(ask())
    try:
        yield probe
    finally:
        asking.cancel()
        writer.close()
        with suppress(asyncio.CancelledError):
            await asking


def kept_waiting(pid: int) -> float:
    """Return for how many seconds the server's main thread and this process have been ready to run while others ran."""
    return _waited(pid) + _waited(os.getpid())


def _waited(pid: int) -> float:
    """Return for how many seconds the main thread of a process has been ready to run while others ran."""
    with suppress(FileNotFoundError):  # a kernel without it
        return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9
    return 0.0
