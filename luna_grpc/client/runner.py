"""One thread for each registry that a process is registered at: it drives the session, whatever the program's own loop does."""

import atexit
import logging
import os
import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Final, TypeAlias

import grpc

from luna_grpc.client.actions import State, Tell
from luna_grpc.client.endpoint import Endpoint
from luna_grpc.client.errors import AlreadyRegisteredError, ClientError, InternalError
from luna_grpc.client.held import Held
from luna_grpc.client.session import PATIENCE, Session
from luna_grpc.client.transport import Input, Transport
from luna_grpc.model import OnDisconnect

log: Final = logging.getLogger("luna_grpc.client")
Listener: TypeAlias = Callable[[State, ClientError | None], None]
Key: TypeAlias = tuple[Endpoint, OnDisconnect]


class Runner:
    """A session, and the thread that drives it for as long as something is registered."""

    def __init__(
        self,
        endpoint: Endpoint,
        on_disconnect: OnDisconnect,
        owner: str,
        *,
        connect: Callable[[], grpc.Channel] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`connect` and `clock` are for tests."""
        self.session = Session(owner, random.Random(), on_disconnect)  # noqa: S311 - jitter
        self.listeners: dict[str, Listener] = {}
        self._clock = clock
        self._inbox: SimpleQueue[Input] = SimpleQueue()  # its `put` may be called within itself, as by a handler of signals
        self._transport = Transport(endpoint, connect or endpoint.connect, self.session, self.post)
        self._is_needed: Callable[[], bool] = lambda: False
        self._thread = threading.Thread(target=self._run, name="luna registrations", daemon=True)

    def start(self, is_needed: Callable[[], bool]) -> None:
        """Begin to run; `is_needed` is asked whether to go on when there is nothing left to do."""
        self._is_needed = is_needed
        self._thread.start()

    def post(self, happened: Input) -> None:
        """Let the thread know that something has happened; from any thread."""
        self._inbox.put(happened)

    @property
    def idle(self) -> bool:
        """Whether nothing waits for the thread."""
        return self._inbox.empty()

    def leave(self) -> None:
        """Deregister all there is."""
        self.post(self.session.leave)

    def join(self, seconds: float) -> None:
        """Wait for the end of the thread for so long."""
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            while not self.session.over or not self.idle or self._is_needed():
                self._turn(self._clock)
        except Exception as error:
            log.exception("the heartbeats to the registry have ended because of a bug")
            self._fail(error)
        finally:
            self._transport.close()

    def _turn(self, clock: Callable[[], float]) -> None:
        """Wait for something to happen or for its time to come, and do what is to be done."""
        now = clock()
        try:
            happened = self._inbox.get(timeout=min(max(0.0, self.session.wakes_at(now) - now), threading.TIMEOUT_MAX))
            happened(clock())
            while not self._inbox.empty():
                self._inbox.get()(clock())
        except Empty:
            pass
        for action in self.session.step(clock()):
            self._transport.do(action)
            if isinstance(action, Tell):
                self._tell(action)

    def _tell(self, told: Tell) -> None:
        over = told.state in {State.LOST, State.STOPPED}
        listener = self.listeners.pop(told.instance_id) if over else self.listeners[told.instance_id]
        listener(told.state, told.error)

    def _fail(self, error: Exception) -> None:
        _pool.forget(self)
        for instance_id in [*self.listeners]:
            self._tell(Tell(instance_id, State.LOST, InternalError(f"a bug in the client: {error!r}; its log has more")))


@dataclass
class Pool:
    """The runners of this process. A lock that can be taken again: a handler of signals may come in between."""

    running: dict[Key, Runner] = field(default_factory=dict)
    owner: str = field(default_factory=lambda: str(uuid.uuid4()))
    lock: threading.RLock = field(default_factory=threading.RLock)

    def add(self, endpoint: Endpoint, on_disconnect: OnDisconnect, held: Held, listener: Listener) -> Runner:
        """Register an instance by the runner of its registry.

        Raises:
            AlreadyRegisteredError: this process has it registered.

        """
        with self.lock:
            key = (endpoint, on_disconnect)
            if any(held.id in other.listeners for (where, _), other in self.running.items() if where == endpoint):
                raise AlreadyRegisteredError(f"{held.id} is registered by this process already; stop that registration first")
            runner = self.running.get(key)
            if runner is None:
                runner = self.running[key] = Runner(endpoint, on_disconnect, self.owner)
                runner.start(lambda: self._is_needed(key))
            runner.listeners[held.id] = listener
            runner.post(lambda now: runner.session.add(now, held))
            return runner

    def leave(self) -> None:
        """Deregister whatever the program has left registered at its end."""
        runners = [*self.running.values()]
        for runner in runners:
            runner.leave()
        for runner in runners:
            runner.join(PATIENCE + 1)

    def forget(self, runner: Runner) -> None:
        """Use a runner for nothing new."""
        with self.lock:
            self.running = {key: other for key, other in self.running.items() if other is not runner}

    def _is_needed(self, key: Key) -> bool:
        with self.lock:
            if self.running[key].idle:
                del self.running[key]
                return False
            return True


_pool = Pool()
_inherited: list[Pool] = []
"""Never looked at again. It keeps alive what a fork copied: gRPC's objects must not be taken down where their threads are not."""


def pool() -> Pool:
    """Return the runners of this process."""
    return _pool


def _forked() -> None:
    global _pool  # noqa: PLW0603 - a child is another process with its own owner
    _inherited.append(_pool)
    _pool = Pool()


os.register_at_fork(after_in_child=_forked)
atexit.register(lambda: _pool.leave())  # noqa: PLW0108 - the one of the process that ends
