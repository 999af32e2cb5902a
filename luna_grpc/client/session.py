"""The rules of staying registered, without I/O: told what happened and what time it is, it says what to do next.

One session holds all registrations of a process at one registry: one connection, and one heartbeat stream on it. Its methods take
`now` in monotonic seconds; after any of them `step` returns what is to be done, and `wakes_at` when to call it again.
"""

import math
from collections.abc import Iterator
from random import Random
from typing import Final

from luna_grpc.client import errors
from luna_grpc.client.actions import Action, Deregister, Drop, Finish, Register, Send, State, Tell
from luna_grpc.client.errors import ClientError
from luna_grpc.client.held import Held
from luna_grpc.client.lines import INTERVAL, Line, Lines
from luna_grpc.model import OnDisconnect
from luna_grpc.v1 import registry_pb2 as pb

CALL_TIMEOUT: Final = 5.0
"""Seconds that a registry has to answer a registration."""
PATIENCE: Final = 5.0
"""Seconds after which an attempt to deregister is given up: the lease will run out."""
_ON_DISCONNECT: Final = {
    OnDisconnect.KEEP: pb.ON_DISCONNECT_KEEP,
    OnDisconnect.MARK_DOWN: pb.ON_DISCONNECT_MARK_DOWN,
    OnDisconnect.DEREGISTER: pb.ON_DISCONNECT_DEREGISTER,
}


class Session:
    """All registrations of a process at one registry."""

    def __init__(self, owner: str, random: Random, on_disconnect: OnDisconnect = OnDisconnect.KEEP) -> None:
        """`owner` names the process: with it a registry gives it its own registrations back, and no one else's."""
        self._owner = owner
        self._on_disconnect = on_disconnect
        self._held: dict[str, Held] = {}
        self._lines = Lines(random)
        self._away = False
        self._actions: list[Action] = []

    @property
    def interval(self) -> float:
        """Seconds between heartbeats."""
        return self._lines.interval

    @property
    def over(self) -> bool:
        """Whether nothing is held and all connections are closed."""
        return not self._held and self._lines.over

    # What the program wants

    def add(self, now: float, held: Held) -> None:
        """Register an instance, and keep it registered."""
        self._held[held.id] = held
        held.pulse(now)
        self._lines.hurry(now)

    def remove(self, now: float, held: Held, *, drain: float = 0.0, patience: float = PATIENCE) -> None:
        """Report DOWN, deregister after `drain` seconds, and after another `patience` seconds leave it to the end of the lease."""
        if self._held.get(held.id) is held and not held.leaving:
            held.leave_at = now + drain
            held.give_up_at = held.leave_at + patience
            self._lines.hurry(now)

    def leave(self, now: float) -> None:
        """Deregister everything."""
        for held in self._held.values():
            self.remove(now, held)

    # What has happened

    def registered(self, connection: int, instance_id: str, response: pb.RegisterResponse) -> None:
        """Take the answer to `Register`."""
        held = self._asked(connection, instance_id)
        if held is not None:
            held.registered(response)
            self._learn(response.lease)
            self._lines.heard()

    def not_registered(self, now: float, connection: int, instance_id: str, code: int, message: str) -> None:
        """Take the failure of `Register`; `code` is of google.rpc."""
        held = self._asked(connection, instance_id)
        if held is None:
            return
        error = errors.final(code, message, first=not held.was_registered)
        if error is not None:
            self._lose(held, error)
        else:
            held.error = errors.passing(code, message)
            self._try_again(now, held, connection, code, message)

    def deregistered(self, now: float, connection: int, instance_id: str, code: int, message: str) -> None:
        """Take the outcome of `Deregister`."""
        held = self._asked(connection, instance_id)
        if held is None:
            return
        if code in {errors.OK, errors.NOT_FOUND, errors.FAILED_PRECONDITION}:
            self._gone(held, State.STOPPED)
        elif error := errors.final(code, message):
            self._gone(held, State.STOPPED, error)
        else:
            self._try_again(now, held, connection, code, message)

    def answered(self, now: float, connection: int, answer: pb.StreamHeartbeatsResponse) -> None:
        """Take an answer of a heartbeat stream. What is said on one that is being left, its successor is told too."""
        line = self._lines.line
        if line is None or line.number != connection:
            return
        self._learn(answer.lease)
        for failure in answer.failures:
            held = self._held.get(failure.instance_id)
            if held is not None and held.generation:
                self._failed(now, line, held, failure)
        for held in self._held.values():
            held.answered(answer.sequence)
            if held.generation and held.epoch != answer.lease.epoch:
                held.forget(now + self._lines.anywhen())
        if not line.heard:
            self._actions += [Finish(number) for number in self._lines.retired()]
        line.answer(now, answer.sequence)
        if answer.reconnect:
            self._lines.leave(now)
            self._start_anew(connection)
        else:
            self._lines.heard()

    def ended(self, now: float, connection: int, code: int, message: str) -> None:
        """Take the end of a heartbeat stream, whoever brought it about."""
        if self._lines.forget(connection):
            self._actions.append(Drop(connection))
        elif self._is_current(connection):
            self._break(now, connection, code, message)

    # What is to be done

    def step(self, now: float) -> list[Action]:
        """Return what is to be done now."""
        self._actions += [Drop(number) for number in self._lines.overdue(now)]
        line = self._lines.line
        if line is not None and self._lines.fallen_silent(now):
            self._away = True
            self._start_anew(line.number)
        for held in [*self._held.values()]:
            self._look_for_the_end(now, held)
        if self._held:
            self._lines.open(now)
        else:
            self._finish(now)
        if self._lines.line is not None:
            self._ask(now, self._lines.line)
            self._beat(now, self._lines.line)
        for held in self._held.values():
            self._tell(held)
        actions, self._actions = self._actions, []
        return actions

    def wakes_at(self, now: float) -> float:
        """Return when `step` has something to do, if nothing happens before."""
        moments = [*self._lines.moments(needed=bool(self._held))]
        for held in self._held.values():
            moments += self._moments(now, held)
        return min(moments, default=math.inf)

    def _moments(self, now: float, held: Held) -> Iterator[float]:
        yield held.give_up_at
        if held.asked_on is not None:
            return
        leaves_at = max(held.leave_at, held.ask_at)
        if self._lines.line is not None or now < leaves_at:
            yield leaves_at
        if self._lines.line is None or not held.alive(now, self.interval):
            return
        if not held.generation:
            if not held.leaving:  # else nothing is asked for any more
                yield held.ask_at
        elif held.report(now, self.interval) != held.told:
            yield held.change_at

    # Registering

    def _asked(self, connection: int, instance_id: str) -> Held | None:
        """Return what an outcome is for, if it is still waited for."""
        held = self._held.get(instance_id)
        if held is None or held.asked_on != connection:
            return None
        held.asked_on = None
        return held

    def _ask(self, now: float, line: Line) -> None:
        for held in self._held.values():
            if held.asked_on is not None or now < held.ask_at:
                continue
            if held.generation and now >= held.leave_at:
                held.asked_on = line.number
                request = pb.DeregisterRequest(instance_id=held.id, generation=held.generation)
                self._actions.append(Deregister(line.number, request, CALL_TIMEOUT))
            elif not held.generation and not held.leaving and held.alive(now, self.interval):
                held.asked_on = line.number
                self._actions.append(Register(line.number, held.request(now, self.interval, self._owner), CALL_TIMEOUT))

    def _try_again(self, now: float, held: Held, connection: int, code: int, message: str) -> None:
        """Go on after a failure of a call. Where there is a heartbeat stream, it tells whether the connection works."""
        line = self._lines.line
        if line is not None and line.number == connection and not line.sequence:
            self._break(now, connection, code, message)
        else:
            held.ask_at = now + self._lines.jitter(held.attempts)
            held.attempts += 1

    def _look_for_the_end(self, now: float, held: Held) -> None:
        if now >= held.give_up_at:
            late = errors.UnavailableError(f"{held.id} could not be deregistered in time; its lease will run out")
            self._gone(held, State.STOPPED, late if held.was_registered else None)
        elif now >= held.leave_at and not held.generation and held.asked_on is None:
            self._gone(held, State.STOPPED)

    def _lose(self, held: Held, error: ClientError) -> None:
        self._gone(held, State.STOPPED if held.leaving else State.LOST, error)

    def _gone(self, held: Held, state: State, error: ClientError | None = None) -> None:
        del self._held[held.id]
        self._actions.append(Tell(held.id, state, error))

    def _tell(self, held: Held) -> None:
        if not held.was_registered:
            state = State.STARTING
        elif held.generation and not self._away:
            state = State.REGISTERED
        else:
            state = State.AWAY
        if held.shown != (state, str(held.error)):
            held.shown = (state, str(held.error))
            self._actions.append(Tell(held.id, state, held.error))

    # Heartbeats

    def _beat(self, now: float, line: Line) -> None:
        due = line.is_due(now, self.interval)
        entries: list[pb.HeartbeatRequest] = []
        ids: list[str] = []
        for held in self._held.values():
            if not held.generation or held.asked_on is not None or not held.alive(now, self.interval):
                continue
            report = held.report(now, self.interval)
            if not line.binds(held) or (report != held.told and now >= held.change_at):
                entries.append(held.entry(report))
                held.sent(report, line.sequence + 1)
            elif due:
                ids.append(held.id)
        if entries or ids:
            message = line.send(now, entries, ids)
            if line.sequence == 1:
                message.options.on_disconnect = _ON_DISCONNECT[self._on_disconnect]
                line.beat_at = now + self._lines.anywhen()
            self._actions.append(Send(line.number, message))

    def _failed(self, now: float, line: Line, held: Held, failure: pb.HeartbeatFailure) -> None:
        if failure.code == errors.NOT_FOUND:
            held.forget(now + self._lines.anywhen())
        elif failure.code == errors.INVALID_ARGUMENT:
            held.take_back(errors.final(failure.code, failure.message))
        elif line.is_stale(held.id):
            line.bind_again(held.id)
        elif error := errors.final(failure.code, failure.message):
            self._lose(held, error)
        else:  # the lease was renewed, and the change was not made
            held.unsent(now + self.interval)

    def _learn(self, lease: pb.Lease) -> None:
        self._lines.interval = lease.heartbeat_interval.ToTimedelta().total_seconds() or INTERVAL
        self._away = False
        for held in self._held.values():
            if isinstance(held.error, errors.UnavailableError):
                held.error = None

    # Connections

    def _is_current(self, connection: int) -> bool:
        return self._lines.line is not None and self._lines.line.number == connection

    def _break(self, now: float, connection: int, code: int, message: str) -> None:
        self._actions.append(Drop(connection))
        self._lines.lost(now, properly=code == errors.OK)
        self._start_anew(connection)
        self._away = True
        error = errors.final(code, message)
        for held in [*self._held.values()]:
            if error is not None:
                self._lose(held, error)
            else:
                held.error = errors.passing(code, message or "the registry has ended the connection")

    def _finish(self, now: float) -> None:
        line = self._lines.line
        if line is not None:
            self._actions.append(Finish(line.number) if line.sequence else Drop(line.number))
        self._lines.finish(now)

    def _start_anew(self, connection: int) -> None:
        """Take what was under way on a connection for not done."""
        for held in self._held.values():
            held.unsent()
            if held.asked_on == connection:
                held.asked_on = None
