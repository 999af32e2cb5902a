"""How the commands write: tables for people, JSON for programs, and nothing that a terminal would obey."""

import json
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from io import StringIO
from typing import Any, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

GOOD: Final = "green"
BAD: Final = "red"
COLOURS: Final = {"UP": GOOD, "OK": GOOD, "DOWN": BAD}
WIDEST: Final = 10_000
"""Characters; lines are not cut, terminals break them."""


class Output(StrEnum):
    """In which form."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], narrow: int, output: Output) -> None:
    """Write a table, with colours when it goes to a terminal; unless it is to be wide, of its first `narrow` columns only."""
    shown = len(columns) if output is Output.WIDE else narrow
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns[:shown]:
        made.add_column(column, no_wrap=True)
    for row in rows:
        made.add_row(*(Text(plain(cell), style=COLOURS.get(cell, "")) for cell in row[:shown]))
    written = StringIO()
    # `rich` knows when not to use colours: NO_COLOR, TERM=dumb.
    console = Console(file=written, width=WIDEST, force_terminal=sys.stdout is not None and sys.stdout.isatty())
    console.print(made)
    for line in written.getvalue().splitlines():
        typer.echo(line.rstrip())


def as_json(data: Any) -> None:  # noqa: ANN401 - whatever json takes
    """Write JSON for people and programs."""
    typer.echo(json.dumps(data, indent=2))


def as_json_line(data: Any) -> None:  # noqa: ANN401 - whatever json takes
    """Write JSON on a line of its own, at once."""
    typer.echo(json.dumps(data))  # which flushes


def plain(text: str) -> str:
    """Return a text without anything that a terminal would obey: others have written it."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
