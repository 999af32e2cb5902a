"""What every measurement needs: rows of the table, turns, and a server that is filled once for all who want it."""

import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from statistics import median
from typing import Final, Self

from bench import servers
from bench.load import LoadError

Measure = Callable[[], Awaitable[float]]

RUNS: Final = 5
"""How often everything is measured in a whole run."""
SERVICE: Final = "/luna.registry.v1.Registry/"


@dataclass(frozen=True)
class Row:
    """One line of the results."""

    target: str
    work: str
    figure: float
    unit: str
    bound: float
    """The ratio to reach; for a figure alone, the most that it may be; 0 when it is only told."""
    beside: str = ""
    """What it was measured against, or empty."""
    other: float = 0.0

    @property
    def ratio(self) -> float:
        """Luna's figure over the other one."""
        return self.figure / self.other if self.beside else self.figure

    @property
    def met(self) -> bool:
        """Whether the target is reached."""
        return not self.bound or (self.ratio >= self.bound if self.beside else self.figure <= self.bound)


@dataclass
class Lab:
    """A run of the benchmark. To be used as a context; whatever it has started ends with it."""

    instances: int = 100_000
    """How many are registered while something is measured."""
    runs: int = 3
    """How often everything is measured; the median counts."""
    size: float = 1.0
    """How much work a run is."""
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _filled: dict[int, servers.Server] = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def filled(self, count: int = 0) -> tuple[servers.Server, list[str]]:
        """Return a server with so many instances (default: `instances`), and their ids, shuffled."""
        count = count or self.instances
        ids = servers.instance_ids(count)
        if count not in self._filled:
            server = await self._stack.enter_async_context(servers.luna())
            await servers.fill(server.rest, ids)
            self._filled[count] = server
        random.Random(1).shuffle(ids)
        return self._filled[count], ids

    async def bare(self, name: str, *flags: str) -> int:
        """Start a bare server and return its port."""
        return await self._stack.enter_async_context(servers.bare(name, *flags))

    async def in_turn(self, *measures: Measure) -> list[float]:
        """Measure things turn by turn and return their medians: one server alone varies by a third within an hour."""
        figures: list[list[float]] = [[] for _ in measures]
        for _ in range(self.runs):
            for measured, taken in zip(measures, figures, strict=True):
                taken.append(await measured())
        return [median(taken) for taken in figures]


def accepted(server: servers.Server, run: Measure, heartbeats: int = 0) -> Measure:
    """Let a run count only when the server says that it took so many heartbeats (0: any)."""

    async def checked() -> float:
        before = await server.heartbeats()
        figure = await run()
        taken = await server.heartbeats() - before
        if taken == 0 or (heartbeats and taken != heartbeats):
            raise LoadError(f"the server took {taken} heartbeats of {heartbeats or 'any'}")
        return figure

    return checked


def percentile(values: list[float], share: float) -> float:
    """Return the value that this share of them does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
