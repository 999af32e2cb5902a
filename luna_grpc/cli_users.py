"""`luna user`: the users file from the command line."""

import os
import sys
from typing import Annotated, Final

import typer

from luna_grpc import users
from luna_grpc.access import Role
from luna_grpc.cli_command import EXIT_REFUSED, fail, tell
from luna_grpc.config import variable

SHORT_PASSWORD: Final = 8
"""Characters; shorter ones are taken, and warned of."""
EXIT_CODES: Final = "Exit codes: 0 done, 1 the file or what is said of a user is wrong, 2 wrong flags."
VARIABLE: Final = variable("users_file")
RELOAD: Final = "A running registry reads the file again on SIGHUP: kill -HUP PID (pgrep -f 'luna serve' tells the PID)"

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Who may use the registry: the users file.",
)

File = Annotated[
    str,
    typer.Option("--file", envvar=VARIABLE, help="The file, as for luna serve --users-file.", show_default=False, metavar="FILE"),
]
Name = Annotated[str, typer.Argument(help="User name, without a colon.", show_default=False)]


@app.command(epilog=EXIT_CODES)
def add(
    name: Name,
    file: File,
    *,
    role: Annotated[
        Role, typer.Option(help="reader: sees everything; writer: also registers and deregisters; admin: everything.")
    ] = Role.WRITER,
    prefix: Annotated[
        list[str] | None,
        typer.Option(help="A writer may only change services whose names begin so; can be repeated.", metavar="TEXT"),
    ] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input instead of asking for it.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the user if there is one of this name.")] = False,
) -> None:
    """Add a user to the file, or make the file.

    Example: luna user add orders-ci --role writer --prefix orders --file users.toml
    """
    password = _piped() if password_stdin else _asked()
    try:
        users.add(file, name, role=role, prefixes=prefix or (), password=password, replace=replace)
    except users.UsersFileError as error:
        fail(error, code=EXIT_REFUSED)
    if len(password) < SHORT_PASSWORD:
        tell(f"the password is shorter than {SHORT_PASSWORD} characters and easy to guess: set a longer one with --replace")
    typer.echo(f"{name} is now a {role.value} in {file}. {RELOAD}")


@app.command(epilog=EXIT_CODES)
def remove(name: Name, file: File) -> None:
    """Remove a user from the file.

    Example: luna user remove orders-ci --file users.toml
    """
    try:
        users.remove(file, name)
    except users.UsersFileError as error:
        fail(error, code=EXIT_REFUSED)
    typer.echo(f"{name} is no longer in {file}. {RELOAD}")


@app.command("list", epilog=EXIT_CODES)
def list_(file: File) -> None:
    """List the users of the file.

    Each is a line with name, role and prefixes, and tabs between.

    Example: luna user list --file users.toml
    """
    try:
        accounts = users.read(file)
    except users.UsersFileError as error:
        fail(error, code=EXIT_REFUSED)
    for user, _ in accounts.values():
        typer.echo(f"{user.name}\t{user.role.value}\t{' '.join(user.prefixes)}".rstrip())


def _piped() -> str:
    try:
        return sys.stdin.readline().rstrip("\n")
    except UnicodeDecodeError:
        fail("what standard input holds is not text in UTF-8", code=EXIT_REFUSED)


def _asked() -> str:
    if not os.isatty(sys.stdin.fileno()):
        fail("there is no terminal to ask for the password on: use --password-stdin", code=EXIT_REFUSED)
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
