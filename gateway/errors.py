"""From the errors of the domain to the statuses of HTTP: one table."""

from typing import Any, Final

from luna_grpc import errors

STATUS: Final[dict[type[errors.LunaError], int]] = {
    errors.InvalidArgumentError: 400,
    errors.NotFoundError: 404,
    errors.NotRegisteredError: 404,
    errors.AlreadyExistsError: 400,  # as the original Luna; its clients know no 409
    errors.SupersededError: 409,
    errors.UnauthenticatedError: 401,
    errors.NoCredentialsError: 401,
    errors.PermissionDeniedError: 403,
    errors.ResourceExhaustedError: 429,
    errors.UnavailableError: 503,
}
CODES: Final = {
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "REQUEST_TIMEOUT",
    413: "PAYLOAD_TOO_LARGE",
    431: "HEADERS_TOO_LARGE",
}
"""For what HTTP alone refuses."""
INTERNAL: Final = "INTERNAL"
"""With 500: a bug."""
ALL_CODES: Final = (*dict.fromkeys([*(error.code for error in STATUS), *CODES.values(), INTERNAL]),)
"""Whatever a request can be refused with."""

# How to put it right through this door.
_STEPS: Final[dict[type[errors.LunaError], str]] = {
    errors.NotRegisteredError: ": POST it",
    errors.NoCredentialsError: ", for example curl -u NAME:PASSWORD",
}
# Where the JSON calls a field of the model otherwise.
_FIELDS: Final = {"instance_id": "instanceId", "weight": "balancerOptions.weight"}


def status(error: errors.LunaError) -> int:
    """Return the status of an error, looking its class and then its bases up in the table."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def body(error: errors.LunaError) -> dict[str, Any]:
    """Return what to answer: the message, its code, and the field at fault when there is one."""
    answer = {"error": error.message + _STEPS.get(type(error), ""), "code": error.code}
    if error.field:
        answer["field"] = _FIELDS.get(error.field, error.field)
    return answer
