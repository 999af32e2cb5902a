"""What stands before every rpc: who calls, may they do this, and in which words are they refused.

Requests come as bytes and are parsed here, once it is known who sent them; what is no message of the proto is refused like any
other mistake. A wrapper and no interceptor: an interceptor does not learn who the peer is, and costs more on each call.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from luna_grpc.access import NOBODY, Action, User
from luna_grpc.auth import Authenticator
from luna_grpc.errors import InvalidArgumentError, LunaError
from luna_grpc.model import Actor, Door
from luna_grpc.registry import Registry
from luna_grpc.rpc import tls
from luna_grpc.rpc.errors import Context, Handler, abort
from luna_grpc.rpc.limits import Turns, address, spelled

Q = TypeVar("Q", bound=Message)
AUTHORIZATION: Final = "authorization"

log = structlog.get_logger("luna.grpc")


Unary: TypeAlias = Callable[[Q, Actor], Awaitable[Message]]
Answering: TypeAlias = Callable[[Q, Actor, Context], Awaitable[None]]
Streaming: TypeAlias = Callable[[Actor, Context], Awaitable[None]]


class Guard:
    """Makes handlers that let in whoever may do an action; with None for it, everyone."""

    def __init__(
        self,
        registry: Registry,
        authenticator: Authenticator,
        refusals: Counter[str],
        turns: Turns,
        *,
        certificates: bool = False,
    ) -> None:
        """`refusals` counts the calls that were refused, by the code of the answer.

        `certificates`: whether clients have one, which can stand for a user.
        """
        self._refusals = refusals
        self._registry = registry
        self._authenticator = authenticator
        self._turns = turns
        self._certificates = certificates

    def unary(self, action: Action | None, kind: type[Q], handler: Unary[Q]) -> Handler:
        """Serve an rpc of one request and one answer."""

        async def guarded(body: bytes, context: Context) -> bytes:
            try:
                actor = await self._admitted(action, context)
                return (await handler(parsed(kind, body), actor)).SerializeToString()
            except Exception as error:
                await self._refuse(context, handler, error)
                raise

        return grpc.unary_unary_rpc_method_handler(guarded)

    def answering(self, action: Action | None, kind: type[Q], handler: Answering[Q]) -> Handler:
        """Serve an rpc of one request and a stream of answers, which the handler writes as bytes."""

        async def guarded(body: bytes, context: Context) -> None:
            try:
                actor = await self._admitted(action, context)
                await handler(parsed(kind, body), actor, context)
            except Exception as error:
                await self._refuse(context, handler, error)
                raise

        return grpc.unary_stream_rpc_method_handler(guarded)

    def streaming(self, action: Action, handler: Streaming) -> Handler:
        """Serve an rpc of two streams, which the handler reads and writes as bytes."""

        async def guarded(_: object, context: Context) -> None:
            try:
                await handler(await self._admitted(action, context), context)
            except Exception as error:
                await self._refuse(context, handler, error)
                raise

        return grpc.stream_stream_rpc_method_handler(guarded)

    def elsewhere(self) -> grpc.GenericRpcHandler:
        """Refuse what there is not; strangers need not know that either."""

        async def unknown(_: Actor, context: Context) -> None:
            self._refusals["UNIMPLEMENTED"] += 1
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "there is no such rpc here; reflection lists those that there are")

        return _Elsewhere(self.streaming(Action.READ, unknown))

    async def _admitted(self, action: Action | None, context: Context) -> Actor:
        """Return who is behind a call.

        Raises:
            LunaError: see `Authenticator`; the role does not allow it; or the registry is not ready to answer anyone.

        """
        peer = context.peer()
        if action is None:  # probes, which are to be answered whatever else is asked
            return Actor(NOBODY, Door.GRPC, spelled(peer))
        if not self._turns.is_due():
            await self._turns.wait(peer)
        authorization = _authorization(context)
        user = self._authenticator.known(authorization)
        if user is None:
            user = await self._unknown(authorization, context)
        user.check(action)
        self._registry.check_loaded()
        # Nearly always IPv4, and then a call can be saved.
        return Actor(user, Door.GRPC, peer[5:] if peer.startswith("ipv4:") else spelled(peer))

    async def _refuse(self, context: Context, handler: Callable[..., object], error: Exception) -> None:
        """End a call with what its handler raised; return when the call is over already."""
        if isinstance(error, LunaError):
            self._refusals[error.code] += 1
            await abort(context, error)
        if not isinstance(error, grpc.aio.BaseError):
            self._refusals["INTERNAL"] += 1
            log.error("failed", rpc=handler.__qualname__, exc_info=error)
            await context.abort(grpc.StatusCode.INTERNAL, "the registry failed; its log says how")

    async def _unknown(self, authorization: str | None, context: Context) -> User:
        if authorization is None and self._certificates:
            return self._authenticator.certified(tls.names(context))
        return await self._authenticator.verified(authorization, address(spelled(context.peer())))


class _Elsewhere(grpc.GenericRpcHandler):
    """Takes every call; to be asked last."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def service(self, _: grpc.HandlerCallDetails) -> Handler:
        """On the wire the four kinds of rpc are the same; a stream's handler answers without waiting for a message."""
        return self._handler


def parsed(kind: type[Q], body: bytes) -> Q:
    """Read a message.

    Raises:
        InvalidArgumentError: it is none.

    """
    try:
        return kind.FromString(body)
    except DecodeError:
        raise InvalidArgumentError(
            f"the bytes sent are no {kind.__name__}; are the stubs made from Luna's proto?", field=""
        ) from None


def _authorization(context: Context) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == AUTHORIZATION:
            return value if isinstance(value, str) else value.decode(errors="replace")
    return None
