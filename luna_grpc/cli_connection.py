"""What every command has in common that asks a running registry: its flags, and how it ends when it is refused."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, TypedDict

import typer

from luna_grpc.cli_output import plain

if TYPE_CHECKING:
    from luna_grpc.client.calls import Calls
    from luna_grpc.client.endpoint import Endpoint

EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_NOT_THERE: Final = 69
"""EX_UNAVAILABLE of sysexits.h; the next one is its EX_NOPERM."""
EXIT_NOT_ALLOWED: Final = 77
EXIT_CODES: Final = (
    "Exit codes: 0 done, 1 the registry refused it, 2 wrong flags, 69 no registry answers, 77 wrong credentials or not allowed."
)


InstanceId = Annotated[
    str, typer.Argument(help="serviceName:domain:port, for example orders:localhost:8080.", show_default=False, metavar="ID")
]


class Flags(TypedDict):
    """Where the registry is, and who asks; see `luna_grpc.client.endpoint.Endpoint`."""

    address: Annotated[str, typer.Option(envvar="LUNA_ADDRESS", help="The registry's gRPC door, as host:port.")]
    username: Annotated[str, typer.Option(envvar="LUNA_AUTH_USERNAME", help="Who asks; admin, or whom the certificate names.")]
    password: Annotated[
        str, typer.Option(envvar="LUNA_AUTH_PASSWORD", help="Better in the variable: others on the machine can see flags.")
    ]
    tls: Annotated[bool, typer.Option("--tls", envvar="LUNA_TLS", help="The registry has TLS.")]
    tls_ca: Annotated[str, typer.Option(envvar="LUNA_TLS_CA", help="File with the CA of its certificate, in PEM; implies --tls.")]
    tls_cert: Annotated[
        str, typer.Option(envvar="LUNA_TLS_CLIENT_CERT", help="File with a certificate to show, in PEM; implies --tls.")
    ]
    tls_key: Annotated[str, typer.Option(envvar="LUNA_TLS_CLIENT_KEY", help="File with its key, in PEM.")]


DEFAULTS: Final = Flags(address="127.0.0.1:50051", username="", password="", tls=False, tls_ca="", tls_cert="", tls_key="")


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags of a connection, and a connection (`Calls`) as its first argument."""
    return _flagged(command, _calls)


def aimed(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags of a connection, and where it leads to (`Endpoint`) as its first argument."""
    return _flagged(command, _endpoint)


def _flagged(command: Callable[..., None], made: Callable[[dict[str, Any]], AbstractContextManager[Any]]) -> Callable[..., None]:
    @wraps(command)
    def run(**values: Any) -> None:  # noqa: ANN401 - those of the command, and `Flags`
        given = {name: values.pop(name) for name in DEFAULTS}
        with made(given) as first:
            command(first, **values)

    del run.__wrapped__  # typer would look at it
    own = list(inspect.signature(command).parameters.values())[1:]
    flags = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=DEFAULTS[name], annotation=kind)  # type: ignore[literal-required]
        for name, kind in Flags.__annotations__.items()
    ]
    vars(run)["__signature__"] = inspect.Signature([*own, *flags])
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *flags)}
    return run


@contextmanager
def _calls(given: dict[str, Any]) -> Iterator["Calls"]:
    from luna_grpc.client.calls import Calls  # noqa: PLC0415 - gRPC takes a while

    with _endpoint(given) as endpoint, Calls(endpoint) as calls:
        yield calls


@contextmanager
def _endpoint(given: dict[str, Any]) -> Iterator["Endpoint"]:
    from luna_grpc.client.endpoint import Endpoint, Tls  # noqa: PLC0415 - see above

    files = Tls(given["tls_ca"], given["tls_cert"], given["tls_key"])
    tls = files if given["tls"] or files != Tls() else None
    with errors_end_it():
        yield Endpoint.of(given["address"], given["username"] or None, given["password"], tls)


@contextmanager
def errors_end_it() -> Iterator[None]:
    """End the program when the registry refuses or is not there, with the code that says which."""
    from luna_grpc.client import (  # noqa: PLC0415 - see above
        ClientError,
        CredentialsError,
        NotAllowedError,
        NotALunaError,
        UnavailableError,
    )

    try:
        yield
    except (NotALunaError, UnavailableError) as error:
        fail(error, EXIT_NOT_THERE)
    except (CredentialsError, NotAllowedError) as error:
        fail(error, EXIT_NOT_ALLOWED)
    except ClientError as error:
        fail(error, EXIT_REFUSED)


def fail(error: object, code: int) -> NoReturn:
    """End the program with one line on stderr."""
    typer.echo(f"luna: {plain(str(error))}", err=True)
    raise typer.Exit(code)
