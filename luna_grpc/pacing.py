"""Long work in the one event loop that everybody shares: it is done piece by piece, and in between others have several turns.

One turn is not enough. To take a gRPC call takes grpc.aio several turns of the loop, and the next call is taken only after that; to
answer it takes some eight more. With one turn between pieces of 3 ms, calls would queue up for seconds. Turns in which nobody
has anything to do take microseconds.
"""

import asyncio
import time
from contextvars import ContextVar
from typing import Final

PIECE: Final = 0.001
"""Seconds of work after which others are to have their turns."""
TURNS: Final = 12
"""How many turns of the loop they get."""
IDLE: Final = 0.0002
"""Seconds; when all those turns took no longer, nobody had anything to do."""
REST: Final = 0.001
"""Seconds that they get on top, if somebody had: time for what other threads bring, gRPC's among them."""
LONGEST_REST: Final = 0.02
"""Seconds after which the work goes on, even if the turns are not over."""

_began: Final[ContextVar[float | None]] = ContextVar("began", default=None)
_worked: Final[ContextVar[float]] = ContextVar("worked", default=0.0)
"""By the clock of the processor: what another process does meanwhile is no work of ours."""


async def let_others_run() -> None:
    """Return after some turns of the loop; see the module."""
    began = time.perf_counter()
    for _ in range(TURNS):
        await asyncio.sleep(0)
        if time.perf_counter() - began >= LONGEST_REST:
            return
    if time.perf_counter() - began > IDLE:
        await asyncio.sleep(REST)


class OneAtATime:
    """Lets long work be done piece by piece, however many ask for it: `async with` around each piece."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._began = 0.0
        self._worked = 0.0  # seconds since others had their turns

    async def __aenter__(self) -> None:
        await self._lock.acquire()
        self._began = time.perf_counter()
        _began.set(time.thread_time())

    async def __aexit__(self, *_: object) -> None:
        self._worked += time.perf_counter() - self._began
        _worked.set(worked())
        _began.set(None)
        try:
            if self._worked >= PIECE:
                self._worked = 0.0
                await let_others_run()
        finally:
            self._lock.release()


def worked() -> float:
    """Return how many seconds of such work this task has done so far; the turns of others do not count."""
    began = _began.get()
    return _worked.get() + (0.0 if began is None else time.thread_time() - began)
