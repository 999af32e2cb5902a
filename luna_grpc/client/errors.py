"""What can go wrong for a program that uses Luna, in words for its author. All of them are `ClientError`s."""

from typing import Final

from google.rpc import code_pb2

OK: Final = code_pb2.OK
CANCELLED: Final = code_pb2.CANCELLED
INVALID_ARGUMENT: Final = code_pb2.INVALID_ARGUMENT
DEADLINE_EXCEEDED: Final = code_pb2.DEADLINE_EXCEEDED
NOT_FOUND: Final = code_pb2.NOT_FOUND
ALREADY_EXISTS: Final = code_pb2.ALREADY_EXISTS
PERMISSION_DENIED: Final = code_pb2.PERMISSION_DENIED
UNAUTHENTICATED: Final = code_pb2.UNAUTHENTICATED
RESOURCE_EXHAUSTED: Final = code_pb2.RESOURCE_EXHAUSTED
FAILED_PRECONDITION: Final = code_pb2.FAILED_PRECONDITION
UNIMPLEMENTED: Final = code_pb2.UNIMPLEMENTED
UNAVAILABLE: Final = code_pb2.UNAVAILABLE


class ClientError(Exception):
    """The base of all errors of `luna_grpc.client`."""


class ConfigurationError(ClientError):
    """What the program or its environment says of the connection cannot be used: an address, a file of TLS. Nothing was sent."""


class UnavailableError(ClientError):
    """No registry answered in time. It may be away; trying again later can help."""


class LimitError(UnavailableError):
    """The registry has reached a limit, which the message names. Trying again later can help."""


class CredentialsError(ClientError):
    """The registry does not know the user, or the password is wrong. Check LUNA_AUTH_USERNAME and LUNA_AUTH_PASSWORD."""


class NotAllowedError(ClientError):
    """The registry knows the user, whose role or prefix does not allow this."""


class InvalidArgumentError(ClientError):
    """The registry does not accept what was said of the instance; the message names the field."""


class AlreadyRegisteredError(ClientError):
    """The id is held by a live registration, and `replace=False` asked not to take it over."""


class SupersededError(ClientError):
    """Another process has taken the id over. The registration has ended for good, or the two would replace each other for ever."""


class NotALunaError(ClientError):
    """Something else than a Luna registry answers at the address; 50051 is the usual port of its gRPC API."""


class ForkedError(ClientError):
    """The object was made before this process was forked, and works in the parent only. Make another one after the fork."""


class StoppedError(ClientError):
    """The object is not started, or was stopped."""


class NoInstanceError(ClientError):
    """No instance of the service is OK."""


class InternalError(ClientError):
    """A bug in the client; the log has more."""


# What the registry would say again to the next try.
_FINAL: Final[dict[int, tuple[type[ClientError], str]]] = {
    UNAUTHENTICATED: (CredentialsError, "wrong credentials: check LUNA_AUTH_USERNAME and LUNA_AUTH_PASSWORD"),
    PERMISSION_DENIED: (NotAllowedError, "not allowed"),
    INVALID_ARGUMENT: (InvalidArgumentError, "not accepted"),
    ALREADY_EXISTS: (SupersededError, "another process has taken over"),
    FAILED_PRECONDITION: (SupersededError, "another process has taken over"),
}


# The same, to a process that was never registered.
_FINAL_AT_FIRST: Final[dict[int, tuple[type[ClientError], str]]] = _FINAL | {
    ALREADY_EXISTS: (AlreadyRegisteredError, "the id is taken"),
    UNIMPLEMENTED: (
        NotALunaError,
        "something else than a Luna registry answers: check LUNA_ADDRESS, whose port is the one of gRPC",
    ),
}


def passing(code: int, message: str) -> UnavailableError:
    """Return the error that a google.rpc code stands for when another try may succeed."""
    return LimitError(message) if code == RESOURCE_EXHAUSTED else UnavailableError(message)


def final(code: int, message: str, *, first: bool = False) -> ClientError | None:
    """Return the error that a google.rpc code stands for; None when another try may succeed.

    `first` is whether the process was never registered yet.
    """
    known = _FINAL_AT_FIRST if first else _FINAL
    if code not in known:
        return None
    cls, words = known[code]
    return cls(f"{words} ({message})")
