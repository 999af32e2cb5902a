"""The table and the plots, as RESULTS.md shows them."""

from collections.abc import Sequence
from dataclasses import astuple
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Final

from matplotlib import pyplot as plt

from bench.growth import SAMPLE, Point
from bench.lab import RUNS, Row

RESULTS: Final = Path(__file__).with_name("RESULTS.md")
PACKAGES: Final = ("grpcio", "protobuf", "aiohttp", "uvloop", "orjson")
FEW: Final = 1000


HEAD: Final = """| target | work | Luna | beside | ratio | to reach | met |
|---|---|---|---|---|---|---|"""


def line(row: Row) -> str:
    """Write a row of the table."""
    met = "–" if not row.bound else "yes" if row.met else "**no**"
    if not row.beside:
        bound = f"≤ {_number(row.bound)}" if row.bound else ""
        return f"| {row.target} | {row.work} | {_number(row.figure)} {row.unit} | | | {bound} | {met} |"
    beside = f"{row.beside}: {_number(row.other)} {row.unit}"
    bound = f"≥ {row.bound:g} ×" if row.bound else ""
    return f"| {row.target} | {row.work} | {_number(row.figure)} {row.unit} | {beside} | {row.ratio:.2f} × | {bound} | {met} |"


def _number(figure: float) -> str:
    return f"{figure:,.3g}" if figure < FEW else f"{figure:,.0f}"


def write(rows: Sequence[Row], points: Sequence[Point], *, runs: int, instances: int) -> None:
    """Write RESULTS.md and the plot."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    table = "\n".join(map(line, rows))
    growth = "\n".join(f"| {' | '.join(map(_number, astuple(point)))} |" for point in points)
    command = "make bench" if runs == RUNS else f"RUNS={runs} make bench"
    _plot(points)
    RESULTS.write_text(f"""# Results

Written by `{command}` on {datetime.now(UTC):%Y-%m-%d}: {_processor()}, Python {python_version()}, {packages}. One line again:
`make bench ONLY=P3`. What is measured, and how: [README.md](README.md). Why a target is not met: [LIMITS.md](LIMITS.md).

A ratio is of two medians of {runs} runs, taken turn by turn, with one core for the server and another one for the load.

{HEAD}
{table}

## What more instances cost

![Heartbeats a second, memory and time of lists over the number of instances](growth.svg)

| instances | REST heartbeats/s | stream heartbeats/s | memory, MB | panel, first page, ms | ListServices, first page, ms |
|---|---|---|---|---|---|
{growth}

Figures are medians, of {runs} runs for the heartbeats and of 30 calls for the first pages. Memory is the resident memory of the
whole process, with all instances registered by REST. No more than {SAMPLE:,} of them, chosen by chance, have sent heartbeats;
at 1,000 and {instances:,} all have, for P5 was measured on the same server. Some 500 bytes of an instance come from its REST
heartbeats. The first page of ListServices has 100 services with 20 instances each.
""")


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text()
    return next((line.partition(": ")[2] for line in text.splitlines() if line.startswith("model name")), "unknown processor")


def _plot(points: Sequence[Point]) -> None:
    plt.rcParams["svg.hashsalt"] = "luna"  # so that the same figures give the same file
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.5), layout="constrained")
    sizes = [point.instances for point in points]
    plots = (
        ("heartbeats/s", {"stream, one a message": [p.stream for p in points], "REST": [p.put for p in points]}, "linear"),
        ("memory, MB", {"": [p.memory for p in points]}, "log"),
        ("first page, ms", {"panel": [p.panel for p in points], "ListServices": [p.page for p in points]}, "log"),
    )
    for axis, (title, lines, scale) in zip(axes, plots, strict=True):
        for label, values in lines.items():
            axis.plot(sizes, values, marker="o", label=label)
        axis.set(title=title, xlabel="instances", xscale="log", yscale=scale)
        axis.grid(visible=True, alpha=0.3)
        if len(lines) > 1:
            axis.legend()
        if scale == "linear":
            axis.set_ylim(bottom=0)
    figure.savefig(RESULTS.with_name("growth.svg"), metadata={"Date": None})
