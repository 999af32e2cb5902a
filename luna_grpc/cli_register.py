"""`luna register`: keeps an instance registered, most often for as long as a command runs."""

import logging
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from luna_grpc.cli_command import EXIT_CODES, EXIT_REFUSED, fail, tell
from luna_grpc.cli_connection import InstanceId, aimed
from luna_grpc.model import MAX_WEIGHT

if TYPE_CHECKING:
    from luna_grpc.client import ClientError
    from luna_grpc.client.endpoint import Endpoint

EXIT_CANNOT_RUN: Final = 126
"""What shells say of a command that is there and cannot be run; the next one, of a command that is not there."""
EXIT_NO_COMMAND: Final = 127
EXIT_BY_SIGNAL: Final = 128
"""To which shells add the number of the signal that has ended a command."""
PASSED_ON: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
BY_TERMINAL: Final = frozenset({signal.SIGINT, signal.SIGQUIT})
"""What a terminal sends to the command itself too."""

app = typer.Typer()


@app.command(epilog=f"{EXIT_CODES} With a command: its own, 126 or 127 when it cannot be run, 128 + n when signal n has ended it.")
@aimed
def register(
    registry: "Endpoint",
    instance_id: InstanceId,
    command: Annotated[
        list[str] | None, typer.Argument(help="Behind --: what is to run meanwhile.", show_default=False, metavar="-- COMMAND")
    ] = None,
    *,
    url: Annotated[str, typer.Option(help="Where it can be reached; by default http://domain:port/.", metavar="URL")] = "",
    name: Annotated[str, typer.Option(help="Its service; by default the serviceName of the id.", metavar="NAME")] = "",
    version: Annotated[str, typer.Option(help="Its version.", metavar="TEXT")] = "",
    description: Annotated[str, typer.Option(help="What it does.", metavar="TEXT")] = "",
    weight: Annotated[
        int, typer.Option(min=0, max=MAX_WEIGHT, help="Its share of the requests; 0: not told.", metavar="NUMBER")
    ] = 0,
    metadata: Annotated[list[str] | None, typer.Option(help="A label, as key=value; can be repeated.", metavar="KEY=VALUE")] = None,
) -> None:
    """Keep an instance registered.

    It is for as long as a command runs, or without one until Ctrl-C or SIGTERM. The command gets the signals; its exit code is
    passed on. It goes on when the registry is away or another process takes the id.

    Example: luna register orders:localhost:8080 --version 1.4 -- ./orders --port 8080
    """
    if command and shutil.which(command[0]) is None and not Path(command[0]).exists():  # one that is there may be no program
        fail(f"there is no command {command[0]}", code=EXIT_NO_COMMAND)
    from luna_grpc.client import Registration  # noqa: PLC0415 - gRPC takes a while

    signals = Signals()
    logging.getLogger("luna_grpc.client").addHandler(_Told())
    registration = Registration(
        instance_id,
        url=url,
        name=name,
        version=version,
        description=description,
        weight=weight or None,
        metadata=_labels(metadata or []),
        address=registry.address,
        username=registry.username,
        password=registry.password,
        tls=registry.tls,
        on_lost=signals.lost,
    )
    with registration:
        signals.keep()
        shown = f"luna services {shlex.quote(name or instance_id.partition(':')[0])} shows it"
        tell(f"{instance_id} is registered at {registry.address}: {shown}{'' if command else ', Ctrl-C ends it'}")
        code = _run(command, signals) if command else signals.wait()
    raise typer.Exit(code)


class _Told(logging.Handler):
    """Shows what the SDK logs: while the registry is away, why."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record as everything else is said; it tells of a warning or worse."""
        for line in self.format(record).splitlines():
            tell(line)


class Signals:
    """What this process is sent: its end until it is registered; then passed on to the command, or the end of waiting for none."""

    def __init__(self) -> None:
        self._kept = False
        self._came: deque[int] = deque()
        self._command: subprocess.Popen[bytes] | None = None
        self._over = threading.Event()
        self._code = 0
        for number in PASSED_ON:
            signal.signal(number, self._receive)

    def _receive(self, number: int, _: object) -> None:
        if not self._kept:
            _let_signals_kill()  # while a silent registry is told for some seconds that nothing is to be registered
            sys.exit(EXIT_BY_SIGNAL + number)
        if number in BY_TERMINAL and self._command is not None and sys.stdin.isatty():
            return
        self._came.append(number)
        self._over.set()
        self._deliver()

    def _deliver(self) -> None:
        with suppress(IndexError):  # another signal may come at any moment, and take out what it finds
            while self._command is not None:
                self._command.send_signal(self._came.popleft())

    def keep(self) -> None:
        """Note that it is registered: from now on a signal is for the command, or ends the waiting."""
        self._kept = True

    def pass_on_to(self, command: "subprocess.Popen[bytes]") -> None:
        """Send the command whatever comes from now on, and what has come before."""
        self._command = command
        self._deliver()

    def lost(self, error: "ClientError") -> None:
        """Say that the registration has ended for good; a command goes on without it."""
        tell(error)
        self._code = EXIT_REFUSED
        self._over.set()

    def wait(self) -> int:
        """Wait for a signal or the end of the registration; return the exit code."""
        self._over.wait()
        return self._code


def _let_signals_kill() -> None:
    for number in PASSED_ON:
        signal.signal(number, signal.SIG_DFL)


def _run(command: list[str], signals: Signals) -> int:
    """Run a command to its end and return its exit code as shells do."""
    try:
        process = subprocess.Popen(command)  # noqa: S603 - the user's own
    except OSError as error:
        fail(f"{command[0]} cannot be run: {error.strerror}", code=EXIT_CANNOT_RUN)
    signals.pass_on_to(process)
    code = process.wait()
    return code if code >= 0 else EXIT_BY_SIGNAL - code


def _labels(texts: list[str]) -> dict[str, str]:
    labels = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r} is not key=value", param_hint="--metadata")
        labels[key] = value
    return labels
