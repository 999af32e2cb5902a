"""The composition root: the one place that knows both doors, and the life of the process.

Start: store, registry, gRPC door, REST door; only when both listen does anything say ready. Stop: both doors say that they are not
ready, then (after `shutdown_delay`) streams say their last word, requests in flight finish, and the process ends.
"""

import asyncio
import errno
import logging
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TextIO

import structlog
import uvloop

from gateway.app import RestServer
from luna_grpc.auth import Authenticator
from luna_grpc.clock import Clock
from luna_grpc.config import Settings, flag, variable
from luna_grpc.logs import ChangeLog
from luna_grpc.memory import MemoryStore
from luna_grpc.registry import LeasePolicy, Registry
from luna_grpc.rpc.server import GrpcServer
from luna_grpc.sweeper import sweep_forever

log = structlog.get_logger("luna")


class CannotListenError(Exception):
    """A port cannot be had; the message says which one and what to do."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers on both doors."""

    registry: Registry
    grpc: GrpcServer
    rest: RestServer
    grpc_port: int
    rest_port: int
    sweeper: asyncio.Task[None]
    """Runs for as long as the server does."""


def run(settings: Settings, stdout: TextIO = sys.stdout) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        CannotListenError: a port cannot be had.

    """
    uvloop.run(_serve(settings, stdout))


async def _serve(settings: Settings, stdout: TextIO) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running(settings) as server:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        print(f"luna: ready rest=http://{host}:{server.rest_port} grpc={host}:{server.grpc_port}", file=stdout, flush=True)
        # Without its sweeper a registry would list the dead as alive: then it is better to stop.
        server.sweeper.add_done_callback(lambda _: stop.set())
        await stop.wait()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)  # who asks twice does not want to wait
        log.info("stopping", instances=server.registry.store.count())


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """Serve on both doors for as long as the context is open.

    Raises:
        CannotListenError: a port cannot be had.

    """
    policy = LeasePolicy(ttl=settings.lease_ttl, rest_slack=settings.lease_slack, warmup=settings.effective_warmup)
    clock = Clock()
    registry = Registry(MemoryStore(clock, evict_after=settings.evict_after, warming=policy.warmup > 0), clock, policy)
    if logging.getLogger().isEnabledFor(logging.INFO):
        registry.store.feed.observe(ChangeLog())
    authenticator = Authenticator(settings.auth_username, settings.auth_password.get_secret_value())
    grpc_server = GrpcServer(registry, authenticator, settings)
    rest_server = RestServer(registry, authenticator, settings)
    sweeper = asyncio.create_task(sweep_forever(registry))
    try:
        with _refusal("REST", "port", settings.port, settings.host):
            rest_port = await rest_server.start(settings.host, settings.port)
        with _refusal("gRPC", "grpc_port", settings.grpc_port, settings.host):
            grpc_port = await grpc_server.start(settings.host, settings.grpc_port)
        grpc_server.serving()
        rest_server.ready = True
        yield Running(registry, grpc_server, rest_server, grpc_port, rest_port, sweeper)
        rest_server.ready = False
        grpc_server.not_serving()
        await asyncio.sleep(settings.shutdown_delay)
    finally:
        await asyncio.gather(grpc_server.stop(), rest_server.stop())
        sweeper.cancel()
        with suppress(asyncio.CancelledError):
            await sweeper


@contextmanager
def _refusal(door: str, setting: str, port: int, host: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES, None):  # gRPC gives no number; a wrong host was found out by REST before
            reason = "not allowed" if error.errno == errno.EACCES else "already in use"
            raise CannotListenError(
                f"the {door} port {port} cannot be had ({reason}): stop what uses it, or choose another with "
                f"{flag(setting)} or {variable(setting)} (0 picks a free one)"
            ) from error
        raise CannotListenError(
            f"cannot listen on {host!r} ({error.strerror}): name an address of this machine with --host or LUNA_HOST, "
            "for example 127.0.0.1 or ::1"
        ) from error
