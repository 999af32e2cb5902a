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

    def __init__(self) -> None:
        self.waits: list[float] = []
        """Seconds until each answer, without the time in which the server or this process waited for a processor."""

    @property
    def longest(self) -> float:
        """The longest wait, in milliseconds."""
        return 1000 * max(self.waits)


@asynccontextmanager
async def probing(server: Luna) -> AsyncIterator[Probe]:
    """Probe for as long as the context is open; the server must be there all the time."""
    host, _, port = server.rest.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    probe = Probe()

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
    with suppress(FileNotFoundError):  # a kernel without it
        return sum(int(Path(f"/proc/{each}/task/{each}/schedstat").read_text().split()[1]) for each in (pid, os.getpid())) / 1e9
    return 0.0
