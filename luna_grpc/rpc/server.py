"""The gRPC server: its limits, its health, and how it stops."""

import asyncio
import logging
from collections import Counter
from typing import Final

import grpc

from luna_grpc.auth import Authenticator
from luna_grpc.config import Settings
from luna_grpc.registry import Registry
from luna_grpc.rpc import health, limits, reflect, tls
from luna_grpc.rpc.errors import CODES
from luna_grpc.rpc.guard import Guard
from luna_grpc.rpc.service import NAME, RegistryService
from luna_grpc.tls import Identity

OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    # On by default, and then two servers silently share a port.
    ("grpc.so_reuseport", 0),
    # A peer that dies without a word is found out within 40 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # How many calls may wait for this process to take them: after a restart all clients register at the same moment. Beyond the
    # defaults (1,000 and 3,000) gRPC ends them with CANCELLED, which nobody tries again.
    ("grpc.server.max_pending_requests", 1_000_000),
    ("grpc.server.max_pending_requests_hard_limit", 1_000_000),
    # No pings that measure the bandwidth: on an idle connection each heartbeat would be followed by one, and they are small.
    ("grpc.http2.bdp_probe", 0),
    # Clients may ping every 5 s, with or without calls.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)
AGE_MARGIN: Final = 1.5
"""How much older than its streams a connection may become: time enough to be asked, whatever the jitter."""
LAST_WORD: Final = 2.0
"""Seconds in which streams are to end before new calls are refused."""


# Handlers log their own failures; what is left are calls that broke while they were answered, and header fields that are not UTF-8,
# and strangers could fill the log with them.
_OF_STRANGERS: Final = (grpc.aio.BaseError, UnicodeDecodeError)
logging.getLogger("grpc._cython.cygrpc").addFilter(
    lambda record: not (record.exc_info and isinstance(record.exc_info[1], _OF_STRANGERS))
)


class GrpcServer:
    """Serves the registry, health and reflection on one port."""

    def __init__(self, registry: Registry, authenticator: Authenticator, settings: Settings, connections: int) -> None:
        self._grace = settings.shutdown_grace
        self._host = ""
        self._tls: tls.Renewable | None = None
        self._server = grpc.aio.server(
            options=[*OPTIONS, *limits.options(settings, connections), *_age(settings.max_connection_age)]
        )
        self.refusals = Counter(dict.fromkeys(CODES, 0))
        """How many calls, and heartbeats of streams, were refused, by the code of the answer."""
        count = limits.StreamCount(settings.max_streams_per_connection, settings.max_streams_per_address)
        self.service = RegistryService(registry, settings, count, self.refusals)
        self._health = health.HealthService("", NAME, count=count)
        self._reflection = reflect.ReflectionService(NAME, health.NAME, reflect.NAME, count=count)
        guard = Guard(registry, authenticator, self.refusals, limits.Turns(), certificates=bool(settings.tls_client_ca))
        self.handlers = {
            NAME: self.service.handlers(guard),
            health.NAME: self._health.handlers(guard),
            reflect.NAME: self._reflection.handlers(guard),
        }
        """The handler of each rpc, by the names of its service and its own."""
        self._server.add_generic_rpc_handlers(
            (
                *(grpc.method_handlers_generic_handler(name, handlers) for name, handlers in self.handlers.items()),
                guard.elsewhere(),
            )
        )
        authenticator.observe(lambda: self._recheck(authenticator))

    async def start(self, host: str, port: int, identity: Identity | None = None) -> int:
        """Listen, with TLS when there is an identity, and return the port; 0 picks a free one.

        Health says NOT_SERVING until `serving`.

        Raises:
            OSError: the port cannot be had.
            TlsError: gRPC cannot use the identity.

        """
        self._host = f"[{host}]" if ":" in host else host
        if identity is not None:
            await tls.check(identity, self._host)
            self._tls = tls.Renewable(identity)
        bound = self._listen(f"{self._host}:{port}")
        if not bound:
            raise OSError(f"cannot listen on {self._host}:{port}")
        await self._server.start()
        return bound

    def _listen(self, address: str) -> int:
        try:
            if self._tls is not None:
                return self._server.add_secure_port(address, self._tls.credentials)
            return self._server.add_insecure_port(address)
        except RuntimeError:
            return 0

    async def check(self, identity: Identity) -> None:
        """Let pass what `renew` can use.

        Raises:
            TlsError: it cannot.

        """
        await tls.check(identity, self._host)

    def renew(self, identity: Identity) -> None:
        """Use another identity for connections from now on. One that was not checked may be left unused without a word."""
        if self._tls is not None:
            self._tls.renew(identity)

    def serving(self) -> None:
        """Let health say SERVING."""
        self._health.set(serving=True)

    def not_serving(self) -> None:
        """Let health say NOT_SERVING."""
        self._health.set(serving=False)

    def _recheck(self, authenticator: Authenticator) -> None:
        self.service.heartbeat_streams.recheck(authenticator.is_current)
        self.service.watches.recheck(authenticator.is_current)
        self._reflection.streams.recheck(authenticator.is_current)

    async def stop(self) -> None:
        """Let streams say their last word and calls finish, for at most `shutdown_grace` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._grace
        streams = [self.service.heartbeat_streams, self.service.watches, self._health.watches, self._reflection.streams]
        # A client that does not read hears no last word; it and the others have until the deadline all the same.
        _, deaf = await asyncio.wait([asyncio.create_task(kind.drain()) for kind in streams], timeout=min(self._grace, LAST_WORD))
        await self._server.stop(max(0.0, deadline - loop.time()))
        for task in deaf:
            task.cancel()


def _age(seconds: float) -> list[tuple[str, int]]:
    """Return the options that end an old connection by force; its streams have been asked to go elsewhere before."""
    if not seconds:
        return []
    return [
        ("grpc.max_connection_age_ms", round(seconds * 1000 * AGE_MARGIN)),
        ("grpc.max_connection_age_grace_ms", round(LAST_WORD * 1000)),
    ]
