"""Runs the benchmark: `python -m bench [P1 P3 … | quick]`. Only the whole run writes RESULTS.md and its plot."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from math import nan
from typing import Final

from bench import growth, latency, results, state, throughput
from bench.lab import RUNS, Lab, Row
from bench.load import LoadError

TARGETS: Final[dict[str, Callable[[Lab], Awaitable[list[Row]]]]] = {
    "P1": throughput.p1,
    "P2": throughput.p2,
    "P3": throughput.p3,
    "P3b": throughput.p3b,
    "P4": throughput.p4,
    "P5": throughput.p5,
    "P6": state.p6,
    "P7": latency.p7,
    "P8": latency.p8,
    "P9": latency.p9,
    "P10": latency.p10,
    "P11": state.p11,
    "P12": state.p12,
}
QUICK: Final = ("P1", "P2", "P3", "P4")
LOAD_CORE: Final = 1


async def main(wanted: Sequence[str]) -> int:
    """Measure the targets wanted, or all; return 1 when one is missed."""
    instances = int(os.environ.get("INSTANCES", "100000"))
    quick = list(wanted) == ["quick"]
    lab = Lab(instances=5_000, size=0.3) if quick else Lab(instances=instances, runs=int(os.environ.get("RUNS", RUNS)))
    rows: list[Row] = []
    print(f"{lab.instances:,} instances, medians of {lab.runs} runs; figures vary by a third, ratios less (bench/README.md)")
    print(results.HEAD, flush=True)
    async with lab:
        for name in QUICK if quick else wanted or TARGETS:
            try:
                measured = await TARGETS[name](lab)
            except LoadError as error:
                measured = [Row(name, f"does not count: {str(error).splitlines()[0]}", nan, "", 1)]
            rows += measured
            for row in measured:
                print(results.line(row), flush=True)
        if not wanted:
            results.write(rows, await growth.measure(lab), runs=lab.runs, instances=lab.instances)
    missed = [f"{row.target} ({row.work}{', beside ' + row.beside if row.beside else ''})" for row in rows if not row.met]
    if missed:
        print(f"below what is to be reached: {'; '.join(missed)}. Those that are known to be: bench/LIMITS.md.", file=sys.stderr)
    return 1 if missed else 0


@contextmanager
def awake() -> Iterator[None]:
    """Keep the core of the load from going to sleep, with a process that gives way to every other.

    A server pays for waking its client with each answer. The slower of two servers would pay more often, for its client sleeps
    more: 18 us of a request in the kernel instead of 12, here.
    """
    spin = "import os; os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", spin])
    try:
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    os.sched_setaffinity(0, {LOAD_CORE})
    # Thousands of connections need as many files, here and in the servers that are started from here.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # Else what it has started would go on without it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with awake():
        code = asyncio.run(main(sys.argv[1:]))
    sys.exit(code)
