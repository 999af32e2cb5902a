"""How a registration learns whether its program is well: that its loop runs, and what its own check says."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Final

from luna_grpc.client.held import Held
from luna_grpc.client.runner import Runner

log: Final = logging.getLogger("luna_grpc.client")
SHORTEST: Final = 0.01
"""Seconds between two pulses, or two checks, at least."""
AT_FIRST: Final = 0.4
"""An interval to begin with, until the registry names one: shorter than most."""


class LoopPulse:
    """Tells several times in an interval that an event loop runs."""

    def __init__(self, loop: asyncio.AbstractEventLoop, beat: Callable[[], None], interval: Callable[[], float]) -> None:
        self._loop = loop
        self._beat = beat
        self._interval = interval
        self._stopped = False

    def start(self) -> None:
        """Begin, in the loop."""
        if not self._stopped:
            self._beat()
            self._loop.call_later(max(SHORTEST, self._interval() / 4), self.start)

    def stop(self) -> None:
        """Tell nothing more."""
        self._stopped = True


class HealthCheck:
    """Asks a function of the program in each interval, in a thread of its own: it may take its time, or hang."""

    def __init__(self, check: Callable[[], bool], report: Callable[[bool], None], interval: Callable[[], float]) -> None:
        self._check = check
        self._report = report
        self._interval = interval
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._run, name="luna health check", daemon=True).start()

    def stop(self) -> None:
        """Ask nothing more."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._report(self._ask())
            self._stopped.wait(max(SHORTEST, self._interval()))

    def _ask(self) -> bool:
        try:
            return bool(self._check())
        except Exception:
            log.exception("the health check has failed; the instance is reported DOWN")
            return False


def watch(
    held: Held, runner: Runner, loop: asyncio.AbstractEventLoop | None, check: Callable[[], bool] | None
) -> list[LoopPulse | HealthCheck]:
    """Let a registration depend on a loop, on a check, on both or on none; return what is to be stopped in the end."""

    def interval() -> float:
        return runner.session.interval if held.was_registered else AT_FIRST

    watching: list[LoopPulse | HealthCheck] = []
    if loop is not None:
        watching.append(LoopPulse(loop, lambda: runner.post(held.pulse), interval))
    if check is not None:
        watching.append(HealthCheck(check, lambda ok: runner.post(lambda now: held.health(now, ok=ok)), interval))
    for one in watching:
        one.start()
    return watching


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread, if one does."""
    with contextlib.suppress(RuntimeError):
        return asyncio.get_running_loop()
    return None
