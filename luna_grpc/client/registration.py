"""A registration as programs see it."""

import asyncio
import inspect
import logging
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self

from luna_grpc.client import vitality
from luna_grpc.client.actions import State
from luna_grpc.client.description import described
from luna_grpc.client.endpoint import Endpoint, Tls
from luna_grpc.client.errors import (
    AlreadyRegisteredError,
    ClientError,
    ConfigurationError,
    LimitError,
    StoppedError,
    UnavailableError,
)
from luna_grpc.client.held import Held
from luna_grpc.client.outcome import Outcome
from luna_grpc.client.ownprocess import OwnProcess
from luna_grpc.client.runner import Runner, pool
from luna_grpc.client.session import PATIENCE
from luna_grpc.client.sigterm import SigtermHandler
from luna_grpc.model import OnDisconnect, Status
from luna_grpc.v1 import registry_pb2 as pb

log: Final = logging.getLogger("luna_grpc.client")


class Registration:
    """Keeps one instance registered from `start` to `stop`, or within `with` or `async with`.

    Heartbeats are sent by a thread, so they do not depend on the program's event loop. All methods may be called from any thread;
    those whose names end in `_async` are for event loops. Only the first argument is required:

    - `instance_id`: `serviceName:domain:port`, for example `orders:10.0.0.7:8080`.
    - `url`, `name`, `version`, `description`, `weight`, `metadata`: what the registry tells of it; see the proto.
    - `status`: what it reports at first; with `Status.DOWN` it is registered before it is ready.
    - `address`, `username`, `password`, `tls`: the registry, and who asks. By default LUNA_ADDRESS or `127.0.0.1:50051`,
      LUNA_AUTH_USERNAME or `admin`, LUNA_AUTH_PASSWORD or empty, and TLS when LUNA_TLS_CA names a file.
    - `replace`: whether to take the id over from whoever has it, most likely an earlier run that was killed.
    - `wait`: for how many seconds `start` waits for the registry; 0: not at all, it is waited for in the background.
    - `drain`: how many seconds before its end an instance reports DOWN, so that nobody sends it more.
    - `on_disconnect`: what the registry does when the connection breaks: nothing until the lease ends, by default.
    - `tied_to_loop`: heartbeats stop while the event loop that it was started in is blocked for longer than an interval.
    - `health`: a function without arguments, called in each interval in a thread; DOWN is reported unless it returns True.
    - `on_lost`: called with the error when the registration has ended for good: in the event loop that it was started in, or
      else in a thread that must not be held up.
    - `handle_sigterm`: whether SIGTERM stops it first, and then does what it would have done.
    """

    def __init__(
        self,
        instance_id: str,
        *,
        url: str | None = None,
        name: str | None = None,
        version: str | None = None,
        description: str | None = None,
        weight: int | None = None,
        metadata: Mapping[str, str] | None = None,
        status: Status = Status.OK,
        address: str | None = None,
        username: str | None = None,
        password: str | None = None,
        tls: Tls | None = None,
        replace: bool = True,
        wait: float = 10.0,
        drain: float = 0.0,
        on_disconnect: OnDisconnect = OnDisconnect.KEEP,
        tied_to_loop: bool = False,
        health: Callable[[], bool] | None = None,
        on_lost: Callable[[ClientError], None] | None = None,
        handle_sigterm: bool = False,
    ) -> None:
        if inspect.iscoroutinefunction(health):
            raise ConfigurationError("health is a coroutine function, and is called in a thread: it must be a plain function")
        self._instance = described(
            pb.Instance(instance_id=instance_id),
            url=url,
            name=name,
            version=version,
            description=description,
            weight=weight,
            metadata=metadata,
        )
        self._status = Status(status)
        self._endpoint = Endpoint.of(address, username, password, tls)
        self._replace = replace
        self._wait = wait
        self._drain = drain
        self._on_disconnect = on_disconnect
        self._tied = tied_to_loop
        self._health = health
        self._on_lost = on_lost
        self._sigterm = SigtermHandler(self._leave_and_wait) if handle_sigterm else None
        self._state = State.STOPPED
        self._error: ClientError | None = None
        self._process = OwnProcess()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._vitality: list[vitality.LoopPulse | vitality.HealthCheck] = []

    # Its life

    def start(self) -> None:
        """Register, and keep registered from now on.

        Raises:
            AlreadyRegisteredError: the id is taken, and `replace` is False; or this process has it registered.
            ConfigurationError: the files of TLS cannot be read, or an option needs another thread or an event loop.
            CredentialsError: the registry does not know the user and the password.
            ForkedError: it was started by the parent of this process.
            InvalidArgumentError: the registry does not accept what is said of the instance.
            NotALunaError: something else answers at the address.
            NotAllowedError: the user may not register this.
            UnavailableError: no registry answered within `wait` seconds; a LimitError, if it only had no room for that long.

        """
        self._begin()
        if self._wait:
            try:
                self._check(self._started.wait(self._wait))
            except TimeoutError:
                reason = self._give_up()
                self._ended.wait()
                raise reason from None
            except KeyboardInterrupt:  # nobody will stop it
                self._leave()
                self._over()
                raise

    async def start_async(self) -> None:
        """Do what `start` does."""
        self._begin()
        if self._wait:
            try:
                self._check(await self._started.wait_async(self._wait))
            except TimeoutError:
                reason = self._give_up()
                await self._ended.wait_async()
                raise reason from None
            except asyncio.CancelledError:
                self._leave()
                self._over()
                raise

    def stop(self) -> None:
        """Report DOWN for `drain` seconds, and deregister. A registry that is away is not waited for: the lease runs out.

        Raises:
            ForkedError: it was started by the parent of this process.

        """
        self._process.check(self.instance_id)
        self._leave_and_wait()
        self._over()

    async def stop_async(self) -> None:
        """Do what `stop` does."""
        self._process.check(self.instance_id)
        if self._state is not State.STOPPED:
            self._leave(self._drain)
            await self._ended.wait_async()
        self._over()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process.is_this:  # a child that leaves the block of its parent takes nothing back
            self.stop()

    async def __aenter__(self) -> Self:
        await self.start_async()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process.is_this:
            await self.stop_async()

    # Meanwhile

    @property
    def instance_id(self) -> str:
        """Its id."""
        return self._instance.instance_id

    @property
    def state(self) -> State:
        """How it is doing.

        Raises:
            ForkedError: it was started by the parent of this process.

        """
        self._process.check(self.instance_id)
        return self._state

    @property
    def error(self) -> ClientError | None:
        """Why it is LOST or not registered now, or why the last `set_info` was not accepted; None when all is well."""
        return self._error

    def raise_if_lost(self) -> None:
        """Raise the error with which it has ended for good, if it has.

        Raises:
            ClientError: most likely a SupersededError.

        """
        if self.state is State.LOST and self._error is not None:
            raise self._error

    async def until_lost(self) -> None:
        """Wait until it has ended: return when it was stopped.

        Raises:
            ClientError: it has ended for good; most likely a SupersededError.

        """
        self._check_running()
        await self._ended.wait_async()
        self.raise_if_lost()

    def set_status(self, status: Status) -> None:
        """Report another status, at once or as soon as the registry is there.

        Raises:
            ForkedError: it was started by the parent of this process.
            StoppedError: it is not started, or has ended.

        """
        self._check_running()
        held, said = self._held, Status(status)
        self._runner.post(lambda _: setattr(held, "status", said))

    def set_info(
        self,
        *,
        url: str | None = None,
        name: str | None = None,
        version: str | None = None,
        description: str | None = None,
        weight: int | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Tell the registry something else of the instance; what is None stays. What it does not accept is taken back: see `error`.

        Raises:
            ForkedError: it was started by the parent of this process.
            StoppedError: it is not started, or has ended.

        """
        self._check_running()
        self._instance = instance = described(
            self._instance, url=url, name=name, version=version, description=description, weight=weight, metadata=metadata
        )
        held = self._held
        self._runner.post(lambda _: setattr(held, "instance", instance))

    # Inside

    def _begin(self) -> None:
        self._process.check(self.instance_id)
        if self._state not in {State.STOPPED, State.LOST}:
            raise AlreadyRegisteredError(f"{self.instance_id} is started already")
        if self._endpoint.tls is not None:
            self._endpoint.credentials(self._endpoint.tls)
        self._loop = vitality.running_loop()
        if self._tied and self._loop is None:
            raise ConfigurationError("tied_to_loop=True needs an event loop: use `async with`, or call start within one")
        if self._sigterm is not None:
            self._sigterm.install()
        self._held = Held(self._instance, self._status, replace=self._replace, tied=self._tied, checked=self._health is not None)
        self._started: Outcome[ClientError | None] = Outcome()
        self._ended: Outcome[ClientError | None] = Outcome()
        self._state, self._error = State.STARTING, None
        try:
            self._runner: Runner = pool().add(self._endpoint, self._on_disconnect, self._held, self._told)
        except ClientError:
            self._state = State.STOPPED
            self._over()
            raise
        self._process.begin()
        self._vitality = vitality.watch(self._held, self._runner, self._loop if self._tied else None, self._health)

    def _told(self, state: State, error: ClientError | None) -> None:
        """Learn how it is doing, in the thread of the runner."""
        self._state, self._error = state, error
        if state is State.REGISTERED:
            self._started.set(None)
        elif state in {State.LOST, State.STOPPED}:
            self._started.set(error or StoppedError(f"{self.instance_id} was stopped before it was registered"))
            self._ended.set(error)
        if error is None:
            log.info("%s is %s", self.instance_id, state.value)
        else:
            log.warning("%s is %s: %s", self.instance_id, state.value, error)
        if state is State.LOST and error is not None:
            for helper in self._vitality:
                helper.stop()
            if self._on_lost is not None:
                self._tell_lost(self._on_lost, error)

    def _tell_lost(self, on_lost: Callable[[ClientError], None], error: ClientError) -> None:
        if self._loop is not None:
            vitality.in_loop(self._loop, lambda: on_lost(error))
            return
        try:
            on_lost(error)
        except Exception:
            log.exception("on_lost has failed")

    def _give_up(self) -> ClientError:
        reason = self._error or f"no answer within {self._wait:g} s"
        self._leave(patience=0)
        self._over()
        if isinstance(reason, LimitError):
            return reason
        return UnavailableError(f"no registry at {self._endpoint.address} ({reason}); see that it runs, or try again with wait=0")

    def _leave(self, drain: float = 0.0, patience: float = PATIENCE) -> None:
        runner, held = self._runner, self._held
        runner.post(lambda now: runner.session.remove(now, held, drain=drain, patience=patience))

    def _leave_and_wait(self) -> None:
        if self._state is not State.STOPPED:
            self._leave(self._drain)
            self._ended.wait(self._drain + 2 * PATIENCE)

    def _over(self) -> None:
        for helper in self._vitality:
            helper.stop()
        if self._sigterm is not None:
            self._sigterm.uninstall()

    def _check_running(self) -> None:
        self._process.check(self.instance_id)
        if self._state in {State.STOPPED, State.LOST}:
            raise StoppedError(f"{self.instance_id} is not registered: call start, or use it within `with`") from self._error

    def _check(self, error: ClientError | None) -> None:
        if error is not None:
            self._over()
            raise error
