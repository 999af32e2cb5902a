"""From the errors of the domain to the statuses of gRPC: one table."""

from typing import Any, Final, NoReturn, TypeAlias

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status

from luna_grpc import errors

STATUS: Final[dict[type[errors.LunaError], grpc.StatusCode]] = {
    errors.InvalidArgumentError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.NotRegisteredError: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    errors.SupersededError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.NoCredentialsError: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.ResourceExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
}

_STEPS: Final[dict[type[errors.LunaError], str]] = {
    errors.NoCredentialsError: ", with the metadata authorization: Basic BASE64 (of NAME:PASSWORD)",
}
"""How to put it right through this door."""

CODES: Final = (*dict.fromkeys(error.code for error in STATUS), "UNIMPLEMENTED", "INTERNAL")
"""Whatever a call can be refused with."""

_DETAILS_KEY: Final = "grpc-status-details-bin"
"""Where google.rpc.Status travels: https://grpc.io/docs/guides/error/#richer-error-model."""

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # only the stubs know it as generic


def status_code(error: errors.LunaError) -> grpc.StatusCode:
    """Return the status of an error, looking its class and then its bases up in the table."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


async def abort(context: Context, error: errors.LunaError) -> NoReturn:
    """End a call with what an error says: the field at fault as a BadRequest, when to try again as a RetryInfo."""
    code, message = status_code(error), error.message + _STEPS.get(type(error), "")
    details: list[AnyMessage] = []
    if error.field:
        details.append(_packed(BadRequest(field_violations=[BadRequest.FieldViolation(field=error.field, description=message)])))
    if error.retry_after:
        details.append(_packed(RetryInfo(retry_delay=Duration(seconds=error.retry_after))))
    metadata: tuple[tuple[str, bytes], ...] = ()
    if details:
        status = Status(code=code.value[0], message=message, details=details)
        metadata = ((_DETAILS_KEY, status.SerializeToString()),)
    await context.abort(code, message, metadata)


def _packed(message: Message) -> AnyMessage:
    detail = AnyMessage()
    detail.Pack(message)
    return detail
