"""Who may call: one interceptor for all four kinds of rpc."""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Final

import grpc

from luna_grpc.auth import Authenticator
from luna_grpc.errors import LunaError
from luna_grpc.model import Actor, Door
from luna_grpc.rpc.errors import Context, Handler, abort

_OPEN_TO_ALL: Final = "/grpc.health.v1.Health/"
"""Load balancers and probes ask for health without credentials."""

_user: ContextVar[str] = ContextVar("user", default="")
"""Set by the interceptor; it runs in the task of the handler."""


def actor(context: Context) -> Actor:
    """Return who is behind the call being handled."""
    return Actor(_user.get(), Door.GRPC, context.peer())


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls without valid credentials before anything of them is read."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Check the `authorization` metadata."""
        if not handler_call_details.method.startswith(_OPEN_TO_ALL):
            try:
                _user.set(self._authenticator.user(_authorization(handler_call_details)))
            except LunaError as error:
                return _refuse(error)
        return await continuation(handler_call_details)


def _authorization(call: grpc.HandlerCallDetails) -> str | None:
    for key, value in call.invocation_metadata:
        if key == "authorization":
            return value if isinstance(value, str) else value.decode()
    return None


def _refuse(error: LunaError) -> Handler:
    async def refuse(_: object, context: Context) -> None:
        await abort(context, error)

    # On the wire the four kinds are the same; this one answers without waiting for a message.
    return grpc.stream_stream_rpc_method_handler(refuse)
