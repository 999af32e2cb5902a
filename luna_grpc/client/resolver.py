"""A live list of services as programs see it."""

import asyncio
import logging
import math
import random
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import grpc

from luna_grpc.client import errors
from luna_grpc.client.catalogue import Catalogue, Instance, RoundRobin
from luna_grpc.client.endpoint import Endpoint, Tls
from luna_grpc.client.errors import ClientError, ConfigurationError, NoInstanceError, StoppedError, UnavailableError
from luna_grpc.client.jitter import full_jitter
from luna_grpc.client.obstacles import given_up, outcome
from luna_grpc.client.outcome import Outcome
from luna_grpc.client.ownprocess import OwnProcess
from luna_grpc.v1 import registry_pb2_grpc

log: Final = logging.getLogger("luna_grpc.client")
LONGEST: Final = 5.0
"""The most seconds between two tries to reach the registry."""


@dataclass
class _Run:
    """What lasts from `start` to `stop`."""

    synced: Outcome[ClientError | None] = field(default_factory=Outcome)
    stopping: threading.Event = field(default_factory=threading.Event)
    call: Any = None

    def stop(self) -> None:
        """Let the thread end, soon."""
        self.stopping.set()
        if self.call is not None:
            self.call.cancel()


class ServiceResolver:
    """Knows the instances of services from `start` to `stop`, or within `with` or `async with`, and tells which one to ask next.

    A thread keeps the list up to date, so nothing here waits for the registry. While it is away the last list is served, and `age`
    says how old it is. All methods may be called from any thread.

    - `names`: the services; none: all.
    - `address`, `username`, `password`, `tls`: as with `Registration`.
    - `wait`: for how many seconds `start` waits for the first list; 0: not at all, there are no instances until it has come.
    """

    def __init__(
        self,
        *names: str,
        address: str | None = None,
        username: str | None = None,
        password: str | None = None,
        tls: Tls | None = None,
        wait: float = 10.0,
    ) -> None:
        self._endpoint = Endpoint.of(address, username, password, tls)
        self._wait = wait
        self._catalogue = Catalogue(names)
        self._random = random.Random()  # noqa: S311 - jitter
        self._turns: defaultdict[str, RoundRobin] = defaultdict(lambda: RoundRobin(self._random))
        self._process = OwnProcess()
        self._run: _Run | None = None
        self._last_thread: threading.Thread | None = None
        self._error: ClientError | None = None

    # Its life

    def start(self) -> None:
        """Get the list, and keep it up to date from now on.

        Raises:
            ConfigurationError: the files of TLS cannot be read, or it is started already.
            CredentialsError: the registry does not know the user and the password.
            ForkedError: it was started by the parent of this process.
            InvalidArgumentError: the registry does not accept a name.
            NotALunaError: something else answers at the address, or TLS is missing, not wanted or not trusted.
            UnavailableError: no registry answered within `wait` seconds.

        """
        run = self._begin()
        if self._wait:
            try:
                self._check(run.synced.wait(self._wait))
            except TimeoutError:
                raise self._given_up() from None
            except KeyboardInterrupt:  # nobody will stop it
                self.stop()
                raise

    async def start_async(self) -> None:
        """Do what `start` does."""
        run = self._begin()
        if self._wait:
            try:
                self._check(await run.synced.wait_async(self._wait))
            except TimeoutError:
                raise self._given_up() from None
            except asyncio.CancelledError:
                self.stop()
                raise

    def stop(self) -> None:
        """Keep the list up to date no longer, and give it to nobody: an old list would be taken for the present one."""
        self._process.check("the resolver")
        run, self._run = self._run, None
        if run is not None:
            run.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process.is_this:
            self.stop()

    async def __aenter__(self) -> Self:
        await self.start_async()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.__exit__(kind, error, trace)

    # Meanwhile

    @property
    def age(self) -> float:
        """For how many seconds changes may have been missed: 0 while connected, infinity before the first list has come.

        A connection that dies without a word is noticed after 15 s, and counts as connected until then.
        """
        return self._catalogue.age(time.monotonic())

    @property
    def error(self) -> ClientError | None:
        """What the registry, or the connection to it, has said last that was wrong; None while connected."""
        return self._error

    @property
    def services(self) -> tuple[str, ...]:
        """The names of the services that have instances.

        Raises:
            ForkedError: it was started by the parent of this process.
            StoppedError: it is not started, or was stopped.

        """
        self._check_running()
        return self._catalogue.services()

    def instances(self, name: str) -> tuple[Instance, ...]:
        """Return all instances of a service, those that are DOWN too, sorted by id; none when there is no such service.

        Raises:
            ConfigurationError: the service was not named at the beginning.
            ForkedError: it was started by the parent of this process.
            StoppedError: it is not started, or was stopped.

        """
        self._check_running()
        if self._catalogue.names and name not in self._catalogue.names:
            raise ConfigurationError(f"{name!r} is not watched: name it in ServiceResolver(…), which has {self._catalogue.names}")
        return self._catalogue.instances(name)

    def pick(self, name: str) -> Instance:
        """Return the instance to ask next, of those that are OK: by turns, heavier ones more often.

        Raises:
            ConfigurationError: the service was not named at the beginning.
            ForkedError: it was started by the parent of this process.
            NoInstanceError: none is OK, or there is none, or the first list has not come (with `wait=0`); the message says which.
            StoppedError: it is not started, or was stopped.

        """
        known = self.instances(name)
        picked = self._turns[name].pick(known) if known else None
        if picked is None:
            raise NoInstanceError(self._why_none(name, len(known)))
        return picked

    # Inside

    def _why_none(self, name: str, known: int) -> str:
        if known:
            return f"of the service {name!r} no instance is OK, and {known} are DOWN"
        if self.age == math.inf:
            return f"no instance of {name!r} is known yet: the first list has not come ({self._error or 'it is being asked for'})"
        return f"there is no instance of {name!r}: see that one is registered, and that the name is written as in luna services"

    def _check_running(self) -> None:
        self._process.check("the resolver")
        if self._run is None:
            raise StoppedError("the resolver is not started, or was stopped: call start, or use it within `with`")

    def _begin(self) -> _Run:
        self._process.check("the resolver")
        if self._run is not None:
            raise ConfigurationError("the resolver is started already: stop it first")
        self._endpoint.check()
        self._process.begin()
        run = self._run = _Run()
        before = self._last_thread
        self._last_thread = threading.Thread(target=self._keep_up, args=(run, before), name="luna resolver", daemon=True)
        self._last_thread.start()
        return run

    def _keep_up(self, run: _Run, before: threading.Thread | None) -> None:
        """Keep the list up to date, after the thread of the run before has let go of it."""
        if before is not None:
            before.join()
        self._error = None
        attempts = 0
        while not run.stopping.is_set():
            try:
                heard, code, message = self._watch(run)
            except Exception as error:
                log.exception("a bug in the client; the list of services is asked for again")
                heard, code, message = False, errors.UNAVAILABLE, f"a bug in the client: {error!r}"
            if run.stopping.is_set() or self._is_over(run, code, message):
                break
            attempts = 0 if heard else attempts + 1
            run.stopping.wait(full_jitter(self._random, attempts, LONGEST))
        self._catalogue.lost(time.monotonic())

    def _is_over(self, run: _Run, code: int, message: str) -> bool:
        """Note how a stream has ended, and say so once; return whether `start` raises it: else nobody would hear of the end."""
        self._catalogue.lost(time.monotonic())
        is_waited_for = self._wait > 0 and not run.synced.is_set
        final = errors.final(code, message, first=True)
        before, self._error = self._error, final or UnavailableError(message or "the registry has ended the connection")
        if is_waited_for and final is not None:
            run.synced.set(final)
            return True
        if not is_waited_for and str(before) != str(self._error):
            log.warning("the list of services is not kept up to date: %s", self._error)
        return False

    def _watch(self, run: _Run) -> tuple[bool, int, str]:
        """Apply what one stream tells; return whether it told anything, and how it ended."""
        heard = False
        try:
            channel = self._endpoint.connect()
        except ConfigurationError as error:
            return heard, errors.UNAVAILABLE, str(error)
        try:
            call: Any = registry_pb2_grpc.RegistryStub(channel).WatchServices(
                self._catalogue.request(), metadata=self._endpoint.metadata
            )
            run.call = call
            if run.stopping.is_set():
                call.cancel()
            for message in call:
                heard = True
                self._catalogue.apply(message)
                if message.synced:
                    self._error = None
                    run.synced.set(None)
        except grpc.RpcError:
            pass  # the call tells how it ended
        finally:
            channel.close()
        return heard, *outcome(call, self._endpoint)

    def _given_up(self) -> ClientError:
        reason = given_up(self._endpoint, self._error, self._wait)
        self.stop()
        return reason

    def _check(self, error: ClientError | None) -> None:
        if error is not None:
            self.stop()
            raise error
