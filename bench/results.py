"""The table and the plots, as RESULTS.md shows them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Final

from bench.lab import Row

RESULTS: Final = Path(__file__).with_name("RESULTS.md")
PACKAGES: Final = ("grpcio", "protobuf", "aiohttp", "uvloop", "orjson")
FEW: Final = 1000


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


async def write(rows: Sequence[Row], *, runs: int) -> None:
    """Write RESULTS.md."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    table = "\n".join(map(line, rows))
    RESULTS.write_text(f"""# Results

Made by `make bench` on {datetime.now(UTC):%Y-%m-%d}, Python {python_version()}, {packages}.

| target | work | Luna | beside | ratio | to reach | met |
|---|---|---|---|---|---|---|
{table}
""")
