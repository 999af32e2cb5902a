"""Runs the benchmark: `python -m bench [P1 P3 … | quick]`. Only the whole run writes RESULTS.md."""

import asyncio
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from platform import python_version

from bench import targets

RESULTS = Path(__file__).with_name("RESULTS.md")


def main(wanted: Sequence[str]) -> int:
    """Measure the targets wanted, or all; return 1 when one is missed."""
    names = targets.QUICK if list(wanted) == ["quick"] else wanted or tuple(targets.ALL)
    rows: list[targets.Row] = []
    for name in names:
        for row in asyncio.run(targets.ALL[name]()):
            rows.append(row)
            sys.stdout.write(_line(row) + "\n")
            sys.stdout.flush()
    if not wanted:
        RESULTS.write_text(_page(rows))
    return 0 if all(row.met for row in rows) else 1


def _line(row: targets.Row) -> str:
    figure = f"{row.figure:,.3g}" if row.figure < 1000 else f"{row.figure:,.0f}"
    if not row.beside:
        return f"| {row.target} | {row.work} | {figure} {row.unit} | | | ≤ {row.bound:g} | {'yes' if row.met else '**no**'} |"
    beside = f"{row.beside}: {row.other:,.0f} {row.unit}"
    return (
        f"| {row.target} | {row.work} | {figure} {row.unit} | {beside} | {row.ratio:.2f} × | ≥ {row.bound:g} × "
        f"| {'yes' if row.met else '**no**'} |"
    )


def _page(rows: Sequence[targets.Row]) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("grpcio", "protobuf", "aiohttp", "uvloop", "orjson"))
    head = f"""# Results

Made by `make bench` on {datetime.now(UTC):%Y-%m-%d}, Python {python_version()}, {packages}. One line again: `make bench ONLY=P3`.

Each ratio is of two medians of {targets.RUNS} runs, taken turn by turn: server on one core, load on the other.

| target | work | Luna | beside | ratio | to reach | met |
|---|---|---|---|---|---|---|
"""
    return head + "\n".join(map(_line, rows)) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
