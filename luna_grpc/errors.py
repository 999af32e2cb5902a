"""What can go wrong in the domain, in words for the person at the other end.

Each edge has one table from these classes to its own status. `code` is the canonical name (google.rpc.Code) that both share.
"""

from typing import ClassVar


class LunaError(Exception):
    """An expected refusal."""

    code: ClassVar[str]
    field: str = ""
    """The field at fault, as the model calls it (`url`, `weight`); empty when no single field is."""

    retry_after: int = 0
    """After how many seconds it may be worth trying again; 0: nobody knows."""

    def __init__(self, message: str, *, retry_after: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after


class InvalidArgumentError(LunaError):
    """What was sent is wrong in itself; sending it again cannot help."""

    code = "INVALID_ARGUMENT"

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class NotFoundError(LunaError):
    """There is no such instance or service (any more)."""

    code = "NOT_FOUND"


class NotRegisteredError(NotFoundError):
    """A heartbeat is of an instance that is not registered; it is to register first."""


class AlreadyExistsError(LunaError):
    """The id is held by a live lease."""

    code = "ALREADY_EXISTS"


class SupersededError(LunaError):
    """The generation named is not the current one: another registration has taken the id over."""

    code = "FAILED_PRECONDITION"


class UnauthenticatedError(LunaError):
    """Credentials are missing or wrong; which part of them is never said."""

    code = "UNAUTHENTICATED"


class NoCredentialsError(UnauthenticatedError):
    """None were sent."""


class PermissionDeniedError(LunaError):
    """Who asks may not do this."""

    code = "PERMISSION_DENIED"


class ResourceExhaustedError(LunaError):
    """A limit is reached; trying again later may help."""

    code = "RESOURCE_EXHAUSTED"


class UnavailableError(LunaError):
    """The registry cannot do this now; trying again will help."""

    code = "UNAVAILABLE"
