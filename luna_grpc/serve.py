"""The composition root: the one place that knows both doors, and the life of the process.

Start: store, registry, both doors, which refuse everyone until the state file is read; only then does anything say ready. Stop:
both doors say that they are not ready, then (after `shutdown_delay`) streams say their last word, requests in flight finish, what
is left is written, and the process ends. On SIGHUP the users file and the TLS files are read again.
"""

import asyncio
import errno
import gc
import logging
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, TextIO, cast

import structlog
import uvloop

from gateway.app import RestServer
from luna_grpc import files, users
from luna_grpc.auth import Account, Authenticator
from luna_grpc.background import reported
from luna_grpc.capacity import Capacity
from luna_grpc.clock import Clock
from luna_grpc.config import Settings, flag, variable
from luna_grpc.durable import DurableStore
from luna_grpc.errors import UnavailableError
from luna_grpc.leases import LeasePolicy
from luna_grpc.logs import ChangeLog
from luna_grpc.memory import MemoryStore
from luna_grpc.metrics import Metrics
from luna_grpc.model import Door
from luna_grpc.registry import Registry
from luna_grpc.rpc.server import GrpcServer
from luna_grpc.statefile import StateFile
from luna_grpc.sweeper import Timings, sweep_forever
from luna_grpc.throttle import Throttle
from luna_grpc.tls import Certificates, Files, Identity

STOP: Final = (signal.SIGTERM, signal.SIGINT)

log = structlog.get_logger("luna")


class CannotListenError(Exception):
    """A port cannot be had; the message says which one and what to do."""


class StoreError(Exception):
    """The store that replicas share cannot be had; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers on both doors."""

    registry: Registry
    grpc: GrpcServer
    rest: RestServer
    authenticator: Authenticator
    certificates: Certificates | None
    grpc_port: int
    rest_port: int
    essential: tuple[asyncio.Task[None], ...]
    """What runs for as long as the server does: the sweeper, and what a store has beside it."""


def run(settings: Settings, stdout: TextIO = sys.stdout) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        CannotListenError: a port cannot be had.
        StateFileError: the state file cannot be used.
        TlsError: the TLS files cannot be used.
        UsersFileError: the users file cannot be used.

    """
    files.raise_limit()
    for warning in files.warnings(settings.max_connections):
        log.warning(warning)
    with suppress(asyncio.CancelledError):  # asked to stop before it was ready
        uvloop.run(_serve(settings, stdout))


async def _serve(settings: Settings, stdout: TextIO) -> None:
    loop, starting = asyncio.get_running_loop(), cast("asyncio.Task[None]", asyncio.current_task())
    for number in STOP:
        loop.add_signal_handler(number, starting.cancel)
    # Else it would end the process, which may take a while to read its state file.
    loop.add_signal_handler(signal.SIGHUP, log.warning, "not reloaded: not ready yet, send SIGHUP again when it is")
    async with running(settings) as server:
        stop = asyncio.Event()
        for number in STOP:
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, reload, settings, server.authenticator, server.certificates)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        scheme = "http" if server.certificates is None else "https"
        print(f"luna: ready rest={scheme}://{host}:{server.rest_port} grpc={host}:{server.grpc_port}", file=stdout, flush=True)

        def failed(task: asyncio.Task[None]) -> None:
            log.error(
                "stopping, for a part of the registry has failed", exc_info=task.exception() if not task.cancelled() else None
            )
            stop.set()

        # Without its sweeper a registry would list the dead as alive: then it is better to stop.
        for task in server.essential:
            task.add_done_callback(failed)
        await stop.wait()
        for task in server.essential:
            task.remove_done_callback(failed)
        for number in STOP:
            signal.signal(number, signal.SIG_DFL)  # who asks twice does not want to wait
        log.info("stopping", instances=server.registry.store.count())


@asynccontextmanager
async def running(settings: Settings, clock: Clock | None = None) -> AsyncIterator[Running]:
    """Serve on both doors for as long as the context is open, by the time of the machine or of another clock.

    Raises:
        CannotListenError: a port cannot be had.
        StateFileError: the state file cannot be used.
        TlsError: the TLS files cannot be used.
        UsersFileError: the users file cannot be used.

    """
    policy = LeasePolicy(ttl=settings.lease_ttl, rest_slack=settings.lease_slack, warmup=settings.effective_warmup)
    clock = clock or Clock()
    authenticator = _authenticator(settings)
    certificates = _certificates(settings)
    identity = certificates.identity if certificates is not None else None
    connections = files.connections(settings.max_connections)
    async with AsyncExitStack() as stack:
        stack.callback(authenticator.close)
        store = await stack.enter_async_context(_store(settings, clock, warming=policy.warmup > 0))
        registry = Registry(store, clock, policy)
        registry.loading = True
        grpc_server = GrpcServer(registry, authenticator, settings, connections)
        rest_server = RestServer(registry, authenticator, settings, connections)
        timings = Timings()
        rest_server.metrics = Metrics(
            registry,
            authenticator,
            timings,
            store.file if isinstance(store, DurableStore) else None,
            heartbeat_streams=grpc_server.service.heartbeat_streams,
            watches=grpc_server.service.watches,
            change_streams=rest_server.changes,
            refusals={Door.GRPC: grpc_server.refusals, Door.REST: rest_server.refusals},
            in_flight=rest_server.in_flight,
        )
        stack.push_async_callback(_stop, grpc_server, rest_server)
        with _refusal("REST", "port", settings.port, settings.host):
            rest_port = await rest_server.start(settings.host, settings.port, identity)
        with _refusal("gRPC", "grpc_port", settings.grpc_port, settings.host):
            grpc_port = rest_server.doors.grpc_port = await grpc_server.start(settings.host, settings.grpc_port, identity)
        if isinstance(store, DurableStore):
            await _load(store, policy)
        if logging.getLogger().isEnabledFor(logging.INFO):
            store.feed.observe(ChangeLog())
        registry.loading = False
        sweeper = await stack.enter_async_context(_beside(sweep_forever(registry, timings)))
        if certificates is not None:
            renew = partial(certificates.renew, partial(_renew, grpc_server, rest_server))
            await stack.enter_async_context(_beside(reported("certificates", renew)))
        await stack.enter_async_context(_beside(reported("open files", files.watch_forever)))
        # Only the store that replicas share has any, and its module takes a client that may not be there.
        essential = (sweeper, *getattr(store, "beside", ()))
        grpc_server.serving()
        rest_server.ready = True
        yield Running(registry, grpc_server, rest_server, authenticator, certificates, grpc_port, rest_port, essential)
        rest_server.ready = False
        grpc_server.not_serving()
        await asyncio.sleep(settings.shutdown_delay)


def _authenticator(settings: Settings) -> Authenticator:
    password = settings.auth_password.get_secret_value()
    accounts = _accounts(settings) if settings.users_file else None
    if accounts is not None and not password:
        log.info(
            "only users of the users file can log in",
            path=settings.users_file,
            reason=f"{variable('auth_password')} is not set, so {settings.auth_username!r} of the settings is no user",
        )
    if accounts is not None and password and settings.auth_username in accounts:
        log.warning(
            "a user of the users file is an admin too, by another password",
            user=settings.auth_username,
            step=f"unset {variable('auth_username')} and {variable('auth_password')}: commands that ask a registry read them too",
        )
    # With a users file or client certificates, a password that nobody has set lets nobody in.
    return Authenticator(
        settings.auth_username,
        password if password or settings.open_to_all else None,
        accounts,
        throttle=Throttle(settings.max_failed_logins),
    )


def _accounts(settings: Settings) -> dict[str, Account]:
    if users.readable_by_others(settings.users_file):
        log.warning("users file can be read by others", path=settings.users_file, step=f"chmod 600 {settings.users_file}")
    return users.read(settings.users_file)


def _certificates(settings: Settings) -> Certificates | None:
    files = Files(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    return Certificates(files) if settings.tls_cert else None


async def _renew(grpc_server: GrpcServer, rest_server: RestServer, identity: Identity) -> None:
    """Bring a new identity into use at both doors, or at none of them."""
    await grpc_server.check(identity)
    await rest_server.renew(identity)
    grpc_server.renew(identity)


def reload(settings: Settings, authenticator: Authenticator, certificates: Certificates | None) -> None:
    """Read again what the settings name; whatever is wrong there stays as it was."""
    if settings.users_file:
        _reload_users(settings, authenticator)
    if certificates is not None:
        certificates.look_now()
    if not settings.users_file and certificates is None:
        log.info("reload", effect="nothing: there is neither a users file nor a certificate")


def _reload_users(settings: Settings, authenticator: Authenticator) -> None:
    try:
        authenticator.replace(_accounts(settings))
    except users.UsersFileError as error:
        log.error("users file not reloaded", reason=str(error), effect="the users stay as they were")  # noqa: TRY400 - it says it all
    else:
        log.info("users file reloaded", path=settings.users_file)


@asynccontextmanager
async def _store(settings: Settings, clock: Clock, *, warming: bool) -> AsyncIterator[MemoryStore]:
    capacity = Capacity(settings.max_instances, settings.max_instances_per_service)
    if settings.store.get_secret_value():
        async with _shared_store(settings, clock, capacity) as shared:
            yield shared
        return
    if not settings.state_file:
        yield MemoryStore(clock, evict_after=settings.evict_after, capacity=capacity, warming=warming)
        return
    file = StateFile.open(settings.state_file)
    store = DurableStore(clock, file, evict_after=settings.evict_after, capacity=capacity, warming=warming)
    # Before anyone can be kept waiting by it: so the collector has little to walk while the file is read.
    gc.collect()
    gc.freeze()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def _shared_store(settings: Settings, clock: Clock, capacity: Capacity) -> AsyncIterator[MemoryStore]:
    try:
        from luna_grpc.redis_link import Link  # noqa: PLC0415 - whoever has one process needs none of it
        from luna_grpc.redis_store import RedisStore  # noqa: PLC0415 - whoever has one process needs none of it
    except ImportError as error:
        raise StoreError(f"{variable('store')} takes the client for Redis: pip install 'redis>=8.1,<9'") from error
    store = RedisStore(
        clock,
        Link(settings.store.get_secret_value(), settings.store_namespace),
        ttl=settings.lease_ttl * (1 + settings.lease_slack),
        evict_after=settings.evict_after,
        capacity=capacity,
    )
    try:
        await store.start()
        yield store
    except UnavailableError as error:
        raise StoreError(f"{error}: start it, or name another one with {flag('store')} or {variable('store')}") from error
    finally:
        await store.close()


async def _load(store: DurableStore, policy: LeasePolicy) -> None:
    log.info("state file made" if store.file.fresh else "reading state file", path=store.file.path)
    await store.load(policy.rest_ttl)
    log.info("state file read", path=store.file.path, instances=store.count(), epoch=store.epoch)


async def _stop(grpc_server: GrpcServer, rest_server: RestServer) -> None:
    await asyncio.gather(grpc_server.stop(), rest_server.stop())


@asynccontextmanager
async def _beside(work: Coroutine[object, object, None]) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


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
