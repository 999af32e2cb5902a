"""From the errors of the domain to the statuses of gRPC: one table."""

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status

from luna_grpc import errors

STATUS: Final[dict[type[errors.LunaError], grpc.StatusCode]] = {
    errors.InvalidArgumentError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    errors.SupersededError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.ResourceExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
}

_DETAILS_KEY: Final = "grpc-status-details-bin"
"""Where google.rpc.Status travels: https://grpc.io/docs/guides/error/#richer-error-model."""

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # only the stubs know it as generic
log = structlog.get_logger("luna.grpc")

S = TypeVar("S")
Q = TypeVar("Q")
R = TypeVar("R")


def status_code(error: errors.LunaError) -> grpc.StatusCode:
    """Return the status of an error, looking its class and then its bases up in the table."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


async def abort(context: Context, error: errors.LunaError) -> NoReturn:
    """End a call with what an error says, its field at fault as a BadRequest."""
    code = status_code(error)
    metadata: tuple[tuple[str, bytes], ...] = ()
    if error.field:
        detail = AnyMessage()
        detail.Pack(BadRequest(field_violations=[BadRequest.FieldViolation(field=error.field, description=error.message)]))
        status = Status(code=code.value[0], message=error.message, details=[detail])
        metadata = ((_DETAILS_KEY, status.SerializeToString()),)
    await context.abort(code, error.message, metadata)


def answers_errors(handler: Callable[[S, Q, Context], Coroutine[Any, Any, R]]) -> Callable[[S, Q, Context], Coroutine[Any, Any, R]]:
    """Let a handler raise errors of the domain."""

    @wraps(handler)
    async def wrapped(self: S, request: Q, context: Context) -> R:
        try:
            return await handler(self, request, context)
        except errors.LunaError as error:
            await abort(context, error)
        except grpc.aio.BaseError:  # the call is over already
            raise
        except Exception:
            log.exception("failed", rpc=handler.__name__)
            await context.abort(grpc.StatusCode.INTERNAL, "the registry failed; its log says how")

    return wrapped
