"""The command line. The server is imported only by the command that runs it."""

import inspect
import os
from typing import Annotated, Any, Final

import structlog
import typer
from pydantic.fields import FieldInfo

from luna_grpc import __version__, cli_config, cli_register, cli_registry, cli_users
from luna_grpc.cli_command import EXIT_USAGE, Commands, fail, option, quiet_grpc, with_parameters
from luna_grpc.config import ConfigError, Settings, load, variable, warnings

EXIT_CANNOT_START: Final = 1

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its tables cut long flags off at 80 columns
)


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if wanted:
        typer.echo(f"luna {__version__}")
        raise typer.Exit


@app.callback(epilog="Start with: luna serve")
def main(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Luna, a service registry: gRPC and REST over one store, and a panel in the browser."""


def serve(**flags: Any) -> None:  # noqa: ANN401 - the flags are those of Settings, see below
    """Run the registry until SIGTERM or Ctrl-C.

    Exit codes: 0 stopped as asked, 1 a port or a file cannot be had, 2 a setting is wrong.

    Example: luna serve --port 4000 --grpc-port 50051
    """
    quiet_grpc()
    from luna_grpc import logs  # noqa: PLC0415 - the other commands need none of this
    from luna_grpc.serve import CannotListenError, StoreError, run  # noqa: PLC0415
    from luna_grpc.stateopen import StateFileError  # noqa: PLC0415
    from luna_grpc.tls import TlsError  # noqa: PLC0415
    from luna_grpc.users import UsersFileError  # noqa: PLC0415

    try:
        settings = load(flags)
    except ConfigError as error:
        fail(*str(error).splitlines(), code=EXIT_USAGE)
    logs.configure(settings.log_level)
    for warning in warnings(os.environ):
        structlog.get_logger("luna").warning(warning)
    try:
        run(settings)
    except (CannotListenError, StateFileError, StoreError, TlsError, UsersFileError) as error:
        fail(*str(error).splitlines(), code=EXIT_CANNOT_START)


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    """Make a flag of a setting, so that the two can never differ; what it holds is checked by Settings."""
    kind = bool if field.annotation is bool else str
    meaning = f"{field.description} [{variable(name)}{_default(field.get_default())}]"
    return option(name, kind | None, help=meaning, metavar=None if kind is bool else "VALUE")


def _default(value: object) -> str:
    return "" if value in (None, False, ()) or not str(value).strip("*") else f", default {value}"


app.command()(with_parameters(serve, [_option(name, field) for name, field in Settings.model_fields.items()]))
app.add_typer(cli_registry.app)
app.add_typer(cli_register.app)
app.add_typer(cli_registry.instances, name="instances")
app.add_typer(cli_users.app, name="user")
app.add_typer(cli_config.app, name="config")
