"""The composition root: the one place that knows both doors, and the life of the process.

Start: store, registry, both doors, which refuse everyone until the state file is read; only then does anything say ready. Stop:
both doors say that they are not ready, then (after `shutdown_delay`) streams say their last word, requests in flight finish, what
is left is written, and the process ends. On SIGHUP the users file is read again.
"""

import asyncio
import errno
import gc
import logging
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Final, TextIO, cast

import structlog
import uvloop

from gateway.app import RestServer
from luna_grpc import users
from luna_grpc.auth import Account, Authenticator
from luna_grpc.clock import Clock
from luna_grpc.config import Settings, flag, variable
from luna_grpc.durable import DurableStore
from luna_grpc.logs import ChangeLog
from luna_grpc.memory import MemoryStore
from luna_grpc.registry import LeasePolicy, Registry
from luna_grpc.rpc.server import GrpcServer
from luna_grpc.statefile import StateFile
from luna_grpc.sweeper import sweep_forever
from luna_grpc.throttle import Throttle

STOP: Final = (signal.SIGTERM, signal.SIGINT)

log = structlog.get_logger("luna")


class CannotListenError(Exception):
    """A port cannot be had; the message says which one and what to do."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers on both doors."""

    registry: Registry
    grpc: GrpcServer
    rest: RestServer
    authenticator: Authenticator
    grpc_port: int
    rest_port: int
    sweeper: asyncio.Task[None]
    """Runs for as long as the server does."""


def run(settings: Settings, stdout: TextIO = sys.stdout) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        CannotListenError: a port cannot be had.
        StateFileError: the state file cannot be used.
        UsersFileError: the users file cannot be used.

    """
    with suppress(asyncio.CancelledError):  # asked to stop before it was ready
        uvloop.run(_serve(settings, stdout))


async def _serve(settings: Settings, stdout: TextIO) -> None:
    loop, starting = asyncio.get_running_loop(), cast("asyncio.Task[None]", asyncio.current_task())
    for number in STOP:
        loop.add_signal_handler(number, starting.cancel)
    async with running(settings) as server:
        stop = asyncio.Event()
        for number in STOP:
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, reload, settings, server.authenticator)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        print(f"luna: ready rest=http://{host}:{server.rest_port} grpc={host}:{server.grpc_port}", file=stdout, flush=True)
        # Without its sweeper a registry would list the dead as alive: then it is better to stop.
        server.sweeper.add_done_callback(lambda _: stop.set())
        await stop.wait()
        for number in STOP:
            signal.signal(number, signal.SIG_DFL)  # who asks twice does not want to wait
        log.info("stopping", instances=server.registry.store.count())


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """Serve on both doors for as long as the context is open.

    Raises:
        CannotListenError: a port cannot be had.
        StateFileError: the state file cannot be used.
        UsersFileError: the users file cannot be used.

    """
    policy = LeasePolicy(ttl=settings.lease_ttl, rest_slack=settings.lease_slack, warmup=settings.effective_warmup)
    clock = Clock()
    authenticator = _authenticator(settings)
    async with AsyncExitStack() as stack:
        stack.callback(authenticator.close)
        store = await stack.enter_async_context(_store(settings, clock, warming=policy.warmup > 0))
        registry = Registry(store, clock, policy)
        registry.loading = True
        grpc_server = GrpcServer(registry, authenticator, settings)
        rest_server = RestServer(registry, authenticator, settings)
        stack.push_async_callback(_stop, grpc_server, rest_server)
        with _refusal("REST", "port", settings.port, settings.host):
            rest_port = await rest_server.start(settings.host, settings.port)
        with _refusal("gRPC", "grpc_port", settings.grpc_port, settings.host):
            grpc_port = await grpc_server.start(settings.host, settings.grpc_port)
        if isinstance(store, DurableStore):
            await _load(store, policy)
        if logging.getLogger().isEnabledFor(logging.INFO):
            store.feed.observe(ChangeLog())
        registry.loading = False
        sweeper = await stack.enter_async_context(_sweeping(registry))
        grpc_server.serving()
        rest_server.ready = True
        yield Running(registry, grpc_server, rest_server, authenticator, grpc_port, rest_port, sweeper)
        rest_server.ready = False
        grpc_server.not_serving()
        await asyncio.sleep(settings.shutdown_delay)


def _authenticator(settings: Settings) -> Authenticator:
    password = settings.auth_password.get_secret_value()
    accounts = _accounts(settings) if settings.users_file else None
    # With a users file, a password that nobody has set lets nobody in.
    return Authenticator(
        settings.auth_username,
        None if accounts is not None and not password else password,
        accounts,
        throttle=Throttle(settings.max_failed_logins),
    )


def _accounts(settings: Settings) -> dict[str, Account]:
    if users.readable_by_others(settings.users_file):
        log.warning("users file can be read by others", path=settings.users_file, step=f"chmod 600 {settings.users_file}")
    return users.read(settings.users_file)


def reload(settings: Settings, authenticator: Authenticator) -> None:
    """Read the users file again; when it is wrong, the users stay as they are."""
    if not settings.users_file:
        log.info("reload", effect="nothing: there is no users file")
        return
    try:
        authenticator.replace(_accounts(settings))
    except users.UsersFileError as error:
        log.error("users file not reloaded", reason=str(error), effect="the users stay as they were")  # noqa: TRY400 - it says it all
    else:
        log.info("users file reloaded", path=settings.users_file)


@asynccontextmanager
async def _store(settings: Settings, clock: Clock, *, warming: bool) -> AsyncIterator[MemoryStore]:
    if not settings.state_file:
        yield MemoryStore(clock, evict_after=settings.evict_after, warming=warming)
        return
    file = StateFile.open(settings.state_file)
    store = DurableStore(clock, file, evict_after=settings.evict_after, warming=warming)
    # Before anyone can be kept waiting by it: so the collector has little to walk while the file is read.
    gc.collect()
    gc.freeze()
    try:
        yield store
    finally:
        await store.close()


async def _load(store: DurableStore, policy: LeasePolicy) -> None:
    log.info("state file made" if store.file.fresh else "reading state file", path=store.file.path)
    await store.load(policy.rest_ttl)
    log.info("state file read", path=store.file.path, instances=store.count(), epoch=store.epoch)


async def _stop(grpc_server: GrpcServer, rest_server: RestServer) -> None:
    await asyncio.gather(grpc_server.stop(), rest_server.stop())


@asynccontextmanager
async def _sweeping(registry: Registry) -> AsyncIterator[asyncio.Task[None]]:
    sweeper = asyncio.create_task(sweep_forever(registry))
    try:
        yield sweeper
    finally:
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
