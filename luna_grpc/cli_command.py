"""What all commands have in common: their exit codes, flags that are made from a table, and how they fail."""

import errno
import inspect
import os
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final, NoReturn

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from luna_grpc.cli_output import plain
from luna_grpc.config import flag, in_words, variable

EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_NOT_THERE: Final = 69
"""EX_UNAVAILABLE of sysexits.h; the next ones are its EX_TEMPFAIL and EX_NOPERM."""
EXIT_TRY_LATER: Final = 75
EXIT_NOT_ALLOWED: Final = 77
EXIT_CODES: Final = (
    "Exit codes: 0 done, 1 the registry refused it, 2 wrong flags, 69 no registry answers, 75 a limit is reached: try again later, "
    "77 wrong credentials or not allowed."
)


_CANNOT_WRITE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF})


class Commands(TyperGroup):
    """All commands: what is wrong with a flag is said as luna serve says it."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - the class of typer is not public
        """Run a command."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if isinstance(error.__cause__, ValidationError):
                error.message = in_words(error.__cause__.errors()[0])
            raise
        except OSError as error:
            if error.errno not in _CANNOT_WRITE:
                raise
            fail(f"what was found cannot be written: {error.strerror}", code=EXIT_REFUSED)


def option(name: str, kind: Any, default: object = None, **settings: Any) -> inspect.Parameter:  # noqa: ANN401 - those of typer.Option
    """Return a flag: `name` is that of the setting, `kind` the type of its value."""
    annotation = Annotated[kind, typer.Option(flag(name), **settings)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def with_parameters(command: Callable[..., None], parameters: Iterable[inspect.Parameter]) -> Callable[..., None]:
    """Return a command whose arguments and flags are these: typer reads them off its signature."""
    signature = inspect.Signature([*parameters])
    vars(command)["__signature__"] = signature
    command.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return command


def wrong(name: str, message: object) -> typer.BadParameter:
    """Return the error that a flag or its variable is wrong."""
    return typer.BadParameter(str(message), param_hint=f"{flag(name)} / {variable(name)}")


def quiet_grpc() -> None:
    """Keep gRPC's core, before it is imported, from writing to stderr: what it has to say comes as errors too."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def tell(line: object) -> None:
    """Say something to the person at the terminal, without disturbing what goes to stdout."""
    typer.echo(f"luna: {plain(str(line))}", err=True)


def fail(*lines: object, code: int) -> NoReturn:
    """End the program with what is wrong: most often one line."""
    for line in lines:
        tell(line)
    raise typer.Exit(code)
