"""`luna config show`: with which settings a server would run from here, and where each comes from."""

import os
from typing import Annotated, Any

import typer

from luna_grpc import cli_output
from luna_grpc.cli_command import EXIT_USAGE, fail, tell
from luna_grpc.cli_output import Output
from luna_grpc.config import ConfigError, Settings, flag, load, variable, warnings

app = typer.Typer(no_args_is_help=True, help="The settings of luna serve.")


@app.command(epilog="Exit codes: 0 all settings are right, 2 one is wrong.")
def show(*, output: Annotated[Output, typer.Option("-o", "--output", help="table, wide or json.")] = Output.TABLE) -> None:
    """Show each setting and where it comes from.

    These are what luna serve would run with here, without flags of its own.

    Example: LUNA_PORT=8080 luna config show
    """
    try:
        settings = load({})
    except ConfigError as error:
        fail(*str(error).splitlines(), code=EXIT_USAGE)
    for warning in warnings(os.environ):
        tell(warning)
    rows = [_row(settings, name) for name in Settings.model_fields]
    if output is Output.JSON:
        cli_output.as_json([dict(zip(("variable", "flag", "value", "from", "meaning"), row, strict=True)) for row in rows])
        return
    columns = ["VARIABLE", "FLAG", "VALUE", "FROM", "MEANING"]
    cli_output.table(columns, rows, 4, output)


def _row(settings: Settings, name: str) -> list[str]:
    # An empty variable counts as none; Settings remembers what it was given.
    given = name in settings.model_fields_set
    where = "environment" if given and variable(name) in os.environ else "default"
    return [variable(name), flag(name), _shown(getattr(settings, name)), where, Settings.model_fields[name].description or ""]


def _shown(value: Any) -> str:  # noqa: ANN401 - whatever a setting can be; a secret shows as stars
    if value is None:
        return ""
    return ",".join(value) if isinstance(value, tuple) else str(value)
