"""What every command has in common that asks a running registry: its flags, and how it ends when it is refused."""

import inspect
import os
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from luna_grpc.cli_command import (
    EXIT_NOT_ALLOWED,
    EXIT_NOT_THERE,
    EXIT_REFUSED,
    EXIT_TRY_LATER,
    fail,
    option,
    quiet_grpc,
    with_parameters,
    wrong,
)
from luna_grpc.config import flag, variable

if TYPE_CHECKING:
    from luna_grpc.client.calls import Calls
    from luna_grpc.client.endpoint import Endpoint

InstanceId = Annotated[
    str, typer.Argument(help="serviceName:domain:port, for example orders:localhost:8080.", show_default=False, metavar="ID")
]


def _option(name: str, metavar: str, meaning: str, default: str = "") -> inspect.Parameter:
    return option(name, str, default, envvar=variable(name), help=meaning, metavar=metavar)


# Where the registry is, and who asks; see `luna_grpc.client.endpoint.Endpoint`.
_REGISTRY: Final = (
    _option("address", "HOST:PORT", "The registry's gRPC door.", "127.0.0.1:50051"),
    option("tls", bool, default=False, envvar=variable("tls"), help="The registry has TLS, and the system trusts its CA."),
    _option("tls_ca", "FILE", "File with the CA of its certificate, in PEM; implies --tls."),
    _option("tls_client_cert", "FILE", "File with a certificate to show, in PEM; implies --tls."),
    _option("tls_client_key", "FILE", "File with its key, in PEM."),
)
_USER: Final = (
    _option("auth_username", "NAME", "Who asks; admin, or whom the certificate names."),
    _option("auth_password", "TEXT", "Better in the variable: others on the machine can see flags."),
)


_FILES: Final = ("tls_ca", "tls_client_cert", "tls_client_key")


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags of a connection, and a connection (`Calls`) as its first argument."""
    return _flagged(command, _calls, (*_REGISTRY, *_USER))


def aimed(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags of a connection, and where it leads to (`Endpoint`) as its first argument."""
    return _flagged(command, _endpoint, (*_REGISTRY, *_USER))


def anonymous(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that needs no user a connection (`Calls`) as its first argument, and the flags for that."""
    return _flagged(command, _calls, _REGISTRY)


def _flagged(
    command: Callable[..., None],
    made: Callable[[dict[str, Any]], AbstractContextManager[Any]],
    flags: Sequence[inspect.Parameter],
) -> Callable[..., None]:
    @wraps(command)
    def run(**values: Any) -> None:  # noqa: ANN401 - those of the command, and the flags
        quiet_grpc()
        given = {flag.name: values.pop(flag.name) for flag in flags}
        with made(given) as first:
            command(first, **values)

    del run.__wrapped__  # typer would look at it
    own = list(inspect.signature(command).parameters.values())[1:]
    return with_parameters(run, [*own, *flags])


@contextmanager
def _calls(given: dict[str, Any]) -> Iterator["Calls"]:
    from luna_grpc.client.calls import Calls  # noqa: PLC0415 - gRPC takes a while

    with _endpoint(given) as endpoint, Calls(endpoint) as calls:
        yield calls


@contextmanager
def _endpoint(given: dict[str, Any]) -> Iterator["Endpoint"]:
    from luna_grpc.client import ConfigurationError  # noqa: PLC0415 - see above
    from luna_grpc.client.endpoint import Endpoint, Tls  # noqa: PLC0415 - see above

    _check_files(given)
    files = Tls(given["tls_ca"], given["tls_client_cert"], given["tls_client_key"])
    tls = files if given["tls"] or files != Tls() else None
    try:
        endpoint = Endpoint.of(given["address"], given.get("auth_username") or None, given.get("auth_password"), tls)
    except ConfigurationError as error:
        raise wrong("address", error) from None
    with errors_end_it():
        yield endpoint


def _check_files(given: dict[str, Any]) -> None:
    """Try the files of TLS out: gRPC does not say which of them is wrong."""
    ca, cert, key = (given[name] for name in _FILES)
    for name in _FILES:
        try:
            Path(given[name] or os.devnull).read_bytes()
        except OSError as error:
            raise wrong(name, f"{given[name]} cannot be read: {error.strerror}") from None
    if bool(cert) != bool(key):
        missing, there = _FILES[2:0:-1] if cert else _FILES[1:]
        raise wrong(missing, f"it is missing: {flag(there)} is given, and a certificate goes with its key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if ca:
            context.load_verify_locations(ca)
    except ssl.SSLError:
        raise wrong("tls_ca", f"{ca} holds no certificate in PEM") from None
    try:
        if cert:
            context.load_cert_chain(cert, key, password="")
    except ssl.SSLError:
        raise wrong("tls_client_cert", f"{cert} and {key} are no certificate and its key in PEM, without a password") from None


@contextmanager
def errors_end_it() -> Iterator[None]:
    """End the program when the registry refuses or is not there, with the code that says which."""
    from luna_grpc import client  # noqa: PLC0415 - see above

    try:
        yield
    except client.LimitError as error:
        fail(error, code=EXIT_TRY_LATER)
    except client.UnavailableError as error:
        fail(error, code=EXIT_NOT_THERE)
    except (client.CredentialsError, client.NotAllowedError) as error:
        fail(error, code=EXIT_NOT_ALLOWED)
    except client.ClientError as error:
        fail(error, code=EXIT_REFUSED)
