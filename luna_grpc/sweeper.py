"""The loop that drives a registry: it only ticks, in slices that never hold the event loop for long."""

import asyncio
import gc
import time
from typing import Final

import structlog

from luna_grpc.histogram import Histogram
from luna_grpc.pacing import PIECE, let_others_run
from luna_grpc.registry import Registry

TICK: Final = 0.05
"""Seconds between two sweeps, so an expiry is declared at most this long after its deadline, and a slice."""
FREEZE_AFTER: Final = 3
"""How many collections of the middle generation there may be, each after some 7,000 new objects, until what is alive is frozen."""

log = structlog.get_logger("luna.sweeper")


class Timings:
    """How long sweeping takes, and how punctual the event loop is."""

    def __init__(self) -> None:
        self.sweeps = Histogram()
        """From the beginning of a sweep until nothing is due, with the turns of others in between."""
        self.lag = Histogram()
        """By how much the loop comes back late to the sweeper, which asks for it once in a `TICK`."""


async def sweep_forever(registry: Registry, timings: Timings) -> None:
    """Sweep until cancelled."""
    collector = CollectorPolicy()
    while True:
        began = time.perf_counter()
        await sweep_once(registry, collector)
        ended = time.perf_counter()
        timings.sweeps.observe(ended - began)
        await asyncio.sleep(TICK)
        timings.lag.observe(max(0.0, time.perf_counter() - ended - TICK))


async def sweep_once(registry: Registry, collector: "CollectorPolicy") -> None:
    """Sweep until nothing is due, letting others run between slices."""
    expired = evicted = 0
    started = time.perf_counter()
    while True:
        report = await registry.sweep()
        if report.stalled:
            log.warning("stalled", seconds=round(report.stalled, 3), effect="no lease expires for one TTL")
        expired += report.swept.expired
        evicted += report.swept.evicted
        collector.tidy()
        if not report.swept.more:
            break
        if time.perf_counter() - started >= PIECE:
            await let_others_run()
            started = time.perf_counter()
    if expired or evicted:
        log.info("swept", expired=expired, evicted=evicted)


class CollectorPolicy:
    """Keeps the pauses of Python's cyclic garbage collector short however many instances and streams there are.

    A full collection walks every object that may be part of a cycle: 100 ms for 100,000 instances, 250 ms for 5,000 streams. What
    the registry keeps is never part of one, its memory comes back by reference counting. So whenever much has come about, what is
    alive is frozen: hidden from the collector. A collection goes first, so that no garbage is frozen with it; it walks only what
    came since the last time.
    """

    def __init__(self) -> None:
        gc.collect()
        gc.freeze()

    def tidy(self) -> None:
        """Freeze what is alive, when enough has come about."""
        if gc.get_count()[2] >= FREEZE_AFTER:
            gc.collect()
            gc.freeze()
