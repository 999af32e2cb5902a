"""`luna services`, `instances get`, `watch`, `deregister`, `check`: a running registry from the command line."""

import random
import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import typer

from luna_grpc import cli_output, drains
from luna_grpc.cli_command import EXIT_CODES, EXIT_REFUSED, fail, tell
from luna_grpc.cli_connection import InstanceId, anonymous, connected
from luna_grpc.cli_output import Output
from luna_grpc.errors import InvalidArgumentError

if TYPE_CHECKING:
    from luna_grpc.client.calls import Calls

Json: TypeAlias = Mapping[str, Any]

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_TIME: Final = re.compile(r"([0-9]{1,9})([smhd])", re.ASCII)
AGAIN_AFTER: Final = 2.0
"""Seconds at most until a watch tries again."""

Format = Annotated[Output, typer.Option("-o", "--output", help="table, wide (with more columns) or json.")]


def _seconds(text: str | float) -> float:
    """Read for how long to drain, as people write it."""
    if isinstance(text, float):
        return text
    found = _TIME.fullmatch(text)
    if not found:
        raise typer.BadParameter(f"{text!r} is not a time; write for example 90s, 15m, 2h or 7d")
    try:
        return drains.checked(int(found[1]) * _UNITS[found[2]])
    except InvalidArgumentError as error:
        raise typer.BadParameter(error.message) from None


Span = Annotated[
    float,
    typer.Option(
        "--for", parser=_seconds, help="For how long, at most 30d; an hour (1h) unless told.", metavar="TIME", show_default=False
    ),
]

app = typer.Typer()
instances = typer.Typer(no_args_is_help=True, help="Look at instances, take some out of service.")


@app.command(epilog=EXIT_CODES)
@connected
def services(
    registry: "Calls",
    name: Annotated[str, typer.Argument(help="Show the instances of this service.", show_default=False)] = "",
    *,
    output: Format = Output.TABLE,
) -> None:
    """List services, or the instances of one.

    Example: luna services orders -o wide
    """
    from luna_grpc.client.calls import as_json  # noqa: PLC0415 - gRPC takes a while

    if name:
        service = as_json(registry.service(name))
        if output is Output.JSON:
            cli_output.as_json(service)
        else:
            _table_of_instances(service["instances"], output)
        return
    services = [as_json(service) for service in registry.services()]
    if output is Output.JSON:
        cli_output.as_json(services)
    else:
        _table_of_services(services, output)


@instances.command("get", epilog=EXIT_CODES)
@connected
def get(registry: "Calls", instance_id: InstanceId, *, output: Format = Output.WIDE) -> None:
    """Show one instance.

    Example: luna instances get orders:localhost:8080 -o json
    """
    from luna_grpc.client.calls import as_json  # noqa: PLC0415 - gRPC takes a while

    instance = as_json(registry.instance(instance_id))
    if output is Output.JSON:
        cli_output.as_json(instance)
    else:
        _table_of_instances([instance], output)


@instances.command("list", epilog=EXIT_CODES)
@connected
def all_instances(registry: "Calls", *, output: Format = Output.TABLE) -> None:
    """List all instances.

    Example: luna instances list -o wide
    """
    from luna_grpc.client.calls import as_json  # noqa: PLC0415 - gRPC takes a while

    found = [instance for service in registry.services() for instance in as_json(service)["instances"]]
    if output is Output.JSON:
        cli_output.as_json(found)
    else:
        _table_of_instances(found, output)


@instances.command(epilog=EXIT_CODES)
@connected
def drain(
    registry: "Calls",
    instance_id: InstanceId,
    *,
    duration: Span = drains.DEFAULT,
) -> None:
    """Take an instance out of service for a time.

    It is DOWN for everyone, while it goes on sending heartbeats; also when it is registered anew. This takes the role admin.

    Example: luna instances drain orders:localhost:8080 --for 15m
    """
    until = registry.drain(instance_id, duration).drained_until.ToDatetime(UTC).astimezone()
    typer.echo(f"{instance_id} is drained until {until:%Y-%m-%d %H:%M:%S %Z}; luna instances undrain {instance_id} ends that")


@instances.command(epilog=EXIT_CODES)
@connected
def undrain(registry: "Calls", instance_id: InstanceId) -> None:
    """Put a drained instance back into service.

    It would come back by itself when its time is over.

    Example: luna instances undrain orders:localhost:8080
    """
    from luna_grpc.client.calls import as_json  # noqa: PLC0415 - gRPC takes a while

    instance = registry.undrain(instance_id)
    now = f"and is {_status(as_json(instance))}" if instance is not None else "and is not registered"
    typer.echo(f"{instance_id} is not drained {now}")


@app.command(epilog=EXIT_CODES)
@connected
def deregister(registry: "Calls", instance_id: InstanceId) -> None:
    """Remove an instance at once.

    A client that is alive registers it again.

    Example: luna deregister orders:localhost:8080
    """
    registry.deregister(instance_id)
    typer.echo(f"{instance_id} is deregistered")


@app.command(epilog="Exit codes: 0 it serves, 1 it does not, is not there or does not answer, 2 wrong flags.")
@anonymous
def check(registry: "Calls") -> None:
    """Ask a registry whether it serves.

    It needs no password.

    Example: luna check --address registry.internal:50051
    """
    from luna_grpc.client import ClientError  # noqa: PLC0415 - gRPC takes a while

    try:
        serving = registry.serving()
    except ClientError as error:
        fail(error, code=EXIT_REFUSED)
    if not serving:
        fail("the registry is starting or stopping: it does not serve now", code=EXIT_REFUSED)
    typer.echo("serving")


@app.command(epilog=EXIT_CODES)
@connected
def watch(
    registry: "Calls",
    names: Annotated[list[str] | None, typer.Argument(help="Services to watch; none: all.", show_default=False)] = None,
    *,
    output: Format = Output.TABLE,
) -> None:
    """Show what there is, then every change.

    It ends with Ctrl-C; while the registry is away it tries again.

    Example: luna watch orders -o json
    """
    for event in _events(registry, tuple(names or ())):
        cli_output.as_json_line(event) if output is Output.JSON else typer.echo(_line(event))


def _events(registry: "Calls", names: tuple[str, ...]) -> Iterator[Json]:
    """Yield what there is and what changes, for ever."""
    from luna_grpc.client import UnavailableError  # noqa: PLC0415 - gRPC takes a while
    from luna_grpc.client.calls import as_json  # noqa: PLC0415 - see above

    token, connected = "", False
    while True:
        try:
            for answer in registry.watch(names, token):
                if not connected:
                    tell(f"connected: what there is of {', '.join(names) or 'all services'}, and then every change, until Ctrl-C")
                    connected = True
                token = answer.resume_token or token
                yield from map(as_json, answer.events)
        except UnavailableError as error:
            if not token:
                raise
            if connected:
                tell(f"{error}; trying again")
                connected = False
        time.sleep(random.uniform(0, AGAIN_AFTER))  # noqa: S311 - so that not all come back at once


def _table_of_services(services: list[Json], output: Output) -> None:
    rows = [
        [
            service["name"],
            service["status"].removeprefix("SERVICE_STATUS_"),
            f"{service['instancesUp']}/{len(service['instances'])}",
            service["description"],
            " ".join(sorted({instance["version"] for instance in service["instances"]} - {""})),
        ]
        for service in services
    ]
    columns = ["NAME", "STATUS", "INSTANCES UP", "DESCRIPTION", "VERSIONS"]
    cli_output.table(columns, rows, 3, output)


def _table_of_instances(instances: list[Json], output: Output) -> None:
    now = datetime.now(UTC)
    rows = [
        [
            instance["instanceId"],
            _status(instance),
            _reason(instance),
            _ago(now, instance["lastHeartbeat"]),
            instance["url"],
            instance["version"],
            str(instance["balancerOptions"].get("weight") or ""),
            _ago(now, instance["registeredAt"]),
            instance["generation"],
            " ".join(f"{key}={value}" for key, value in sorted(instance["metadata"].items())),
        ]
        for instance in instances
    ]
    columns = ["ID", "STATUS", "REASON", "LAST HEARTBEAT", "URL", "VERSION", "WEIGHT", "REGISTERED", "GENERATION", "METADATA"]
    cli_output.table(columns, rows, 5, output)


def _line(event: Json) -> str:
    instance = event["instance"]
    now = datetime.now().astimezone().strftime("%H:%M:%S")
    what = f"{_status(instance)} {_reason(instance)}" if event["type"] == "EVENT_TYPE_UPSERTED" else "REMOVED"
    return cli_output.plain(f"{now} {instance['name']} {instance['instanceId']} {what}")


def _status(instance: Json) -> str:
    return str(instance["status"].removeprefix("STATUS_"))


def _reason(instance: Json) -> str:
    return str(instance["statusReason"].removeprefix("STATUS_REASON_"))


def _ago(now: datetime, moment: str) -> str:
    """Return how long ago a moment was, as `kubectl` writes it."""
    seconds = max(0, round((now - datetime.fromisoformat(moment)).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit} ago"
    return f"{seconds}s ago"
