"""Connections to a registry: what was said on each, which one counts, and when to try another. No I/O."""

import math
from collections.abc import Iterator
from random import Random
from typing import Final

from luna_grpc.client.held import Held
from luna_grpc.client.jitter import full_jitter
from luna_grpc.v1 import registry_pb2 as pb

INTERVAL: Final = 10.0
"""Seconds between heartbeats until the registry names another number."""
SHORTEST_WAIT: Final = 1.0
"""Seconds that a new connection gets at least until its first answer, however short the interval is."""
LAST_WORD: Final = 1.0
"""Seconds that the registry has to end the last stream after it was half-closed."""


class Line:
    """A connection, and what was said on its heartbeat stream."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.sequence = 0  # of the last message; 0: none was sent
        self.heard = False
        self.waiting_since: float | None = None  # when the first message was sent that is not answered
        self.beat_at = math.inf  # when to send the next regular heartbeat
        self._answered = 0
        self._bound: dict[str, int] = {}  # the generation that each id stands for
        self._bound_anew: dict[str, int] = {}  # the message that named another generation than before

    def is_due(self, now: float, interval: float) -> bool:
        """Return whether it is time for the regular heartbeat, and note when the next one is."""
        if now < self.beat_at:
            return False
        late = now - self.beat_at > interval
        self.beat_at = (now if late else self.beat_at) + interval
        return True

    def binds(self, held: Held) -> bool:
        """Whether a bare id stands for the generation that we hold."""
        return self._bound.get(held.id) == held.generation

    def send(self, now: float, entries: list[pb.HeartbeatRequest], ids: list[str]) -> pb.StreamHeartbeatsRequest:
        """Return the next message."""
        self.sequence += 1
        for entry in entries:
            if self._bound.get(entry.instance_id, entry.generation) != entry.generation:
                self._bound_anew[entry.instance_id] = self.sequence
            self._bound[entry.instance_id] = entry.generation
        if self.waiting_since is None:
            self.waiting_since = now
        return pb.StreamHeartbeatsRequest(heartbeats=entries, instance_ids=ids, sequence=self.sequence)

    def is_stale(self, instance_id: str) -> bool:
        """Whether a failure may concern a generation that was named earlier: an answer covers all messages since the last."""
        return self._answered < self._bound_anew.get(instance_id, 0)

    def bind_again(self, instance_id: str) -> None:
        """Forget what an id stands for, so that it is said once more."""
        self._bound.pop(instance_id, None)

    def answer(self, now: float, sequence: int) -> None:
        """Note how far messages were answered."""
        self.heard = True
        self._answered = sequence
        self.waiting_since = None if sequence >= self.sequence else now


class Lines:
    """The connection that counts, and those that it follows: they are closed when it is known to work."""

    def __init__(self, random: Random) -> None:
        self.line: Line | None = None
        self.interval = INTERVAL
        self._random = random
        self._opened = 0
        self._retired: dict[int, float] = {}  # and until when they are kept
        self._attempts = 0  # to get an answer since the last one
        self._retry_at = -math.inf

    @property
    def over(self) -> bool:
        """Whether all of them are closed."""
        return self.line is None and not self._retired

    def open(self, now: float) -> None:
        """Begin with a connection, if there is none and it is time."""
        if self.line is None and now >= self._retry_at:
            self._opened += 1
            self.line = Line(self._opened)

    def hurry(self, now: float) -> None:
        """Try at once, whatever was waited for."""
        self._retry_at = min(self._retry_at, now)

    def jitter(self, attempts: int) -> float:
        """Return for how many seconds to wait after so many tries.

        It is half an interval at most: the other half and a little more are for registering again, so that whoever was forgotten is
        back within two intervals.
        """
        return full_jitter(self._random, attempts, self.interval / 2)

    def anywhen(self) -> float:
        """Return a part of an interval: for what all processes of a registry would else do at the same moment."""
        return self._random.uniform(0, self.interval)

    def back_off(self, now: float) -> None:
        """Wait for longer with each try."""
        self._retry_at = now + self.jitter(self._attempts)
        self._attempts += 1

    def heard(self) -> None:
        """Note that the registry answers."""
        self._attempts = 0

    def leave(self, now: float) -> None:
        """Go elsewhere, because the registry asks for it: nearly at once, unless it does so again and again."""
        self._retire(now + 2 * self.interval)
        if self._attempts:
            self.back_off(now)
        else:
            self._retry_at = now + self._random.uniform(0, self.interval / 10)
            self._attempts = 1

    def finish(self, now: float) -> None:
        """Let all connections end, because they are needed no more; one that has no stream is closed at once."""
        if self.line is not None and not self.line.sequence:
            self.line = None
        self._retire(now + LAST_WORD)
        self._retired = {number: min(until, now + LAST_WORD) for number, until in self._retired.items()}

    def fallen_silent(self, now: float) -> bool:
        """Leave a connection on which no answer came in time; return whether there was one.

        The one that had answered before is followed at once. It is kept for a while: to break it may take instances down.
        """
        if self.line is None or now < self._silent_at(self.line):
            return False
        if self.line.heard:
            self._retry_at = now
        else:
            self.back_off(now)
        self._retire(now + 2 * self.interval)
        return True

    def lost(self, now: float, *, properly: bool) -> None:
        """Note that the connection is gone; properly: the registry has ended it."""
        self.line = None
        if properly and not self._attempts:
            self._retry_at = now + self._random.uniform(0, self.interval / 10)
            self._attempts = 1
        else:
            self.back_off(now)

    def retired(self) -> list[int]:
        """Return those that are to be left."""
        return [*self._retired]

    def forget(self, number: int) -> bool:
        """Forget one that was left; return whether it was one."""
        return self._retired.pop(number, None) is not None

    def overdue(self, now: float) -> list[int]:
        """Forget those that were kept for long enough, and return them."""
        return [number for number, until in [*self._retired.items()] if until <= now and self.forget(number)]

    def moments(self, *, needed: bool) -> Iterator[float]:
        """Yield when there is something to do, if nothing happens before."""
        yield from self._retired.values()
        if self.line is not None:
            yield self._silent_at(self.line)
            yield self.line.beat_at
        elif needed:
            yield self._retry_at

    def _retire(self, until: float) -> None:
        if self.line is not None:
            self._retired[self.line.number] = until
            self.line = None

    def _silent_at(self, line: Line) -> float:
        if line.waiting_since is None:
            return math.inf
        return line.waiting_since + (self.interval if line.heard else max(self.interval, SHORTEST_WAIT))
