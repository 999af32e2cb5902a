"""What a registry is to do, written down once more and as simply as possible: no queue, no log, no objects that are shared.

From the proto and docs/api.md, not from the code. Time is in seconds, and passes in `STEP`s.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

STEP = 0.5
TTL = 3.0
SLACK = 0.5
REST_TTL = TTL * (1 + SLACK)
EVICT_AFTER = 6.0
WARMUP = 2.0

OK, INVALID, NOT_FOUND, EXISTS, SUPERSEDED = "OK", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION"
MALFORMED = "a:h:0"


class Said(NamedTuple):
    """What an instance says of itself; complete, so that no defaults are to be filled in."""

    name: str
    description: str
    version: str = "1"
    url: str = "http://h:1/"
    weight: int = 0
    zone: str = ""


@dataclass
class Entry:
    """An instance."""

    instance_id: str
    said: Said
    reported: str
    owner: str
    registered_at: int
    last_heartbeat: int
    deadline: float
    joined: int
    """Its place among the instances of its service."""
    generation: int = 0
    """0 until the registry has told it."""
    ended: str = ""
    """Why it has no live lease; empty while it has one."""
    ended_at: float = 0.0
    holder: int = 0
    """The heartbeat stream that renewed it last; 0 when something else did."""
    drained_until: int = 0
    """Milliseconds since the epoch; 0: it is not drained."""

    def shown(self) -> dict[str, Any]:
        """Return what REST shows of it."""
        answer = {
            "instanceId": self.instance_id,
            "name": self.said.name,
            "description": self.said.description,
            "version": self.said.version,
            "url": self.said.url,
            "status": "DOWN" if self.ended or self.drained_until else self.reported,
            "balancerOptions": {"weight": self.said.weight} if self.said.weight else {},
            "statusReason": "DRAINED" if self.drained_until else self.ended or "REPORTED",
            "registeredAt": self.registered_at,
            "last_heartbeat": self.last_heartbeat,
        }
        if self.drained_until:
            answer["drainedUntil"] = self.drained_until
        return answer | ({"metadata": {"zone": self.said.zone}} if self.said.zone else {})


@dataclass
class Stream:
    """A heartbeat stream."""

    number: int
    on_disconnect: str
    bound: dict[str, int] = field(default_factory=dict)
    """The generation that each id stands for."""


@dataclass
class Beat:
    """A heartbeat."""

    instance_id: str
    generation: int = 0
    status: str = ""
    said: Said | None = None


class Reference:
    """A registry."""

    def __init__(self, *, durable: bool, now: float, wall_ms: int) -> None:
        self.entries: dict[str, Entry] = {}
        self.streams: dict[int, Stream] = {}
        self.drains: dict[str, int] = {}
        self.now = now
        self.wall_ms = wall_ms
        self.warm_at = now
        """From when on everyone is told of removals."""
        self._durable = durable
        self._order = count(1)
        self._numbers = count(1)
        self._last_generation = 0
        self._held_until = now

    # What is asked for

    def register(self, instance_id: str, said: Said, status: str, *, owner: str = "", replace: bool = False, rest: bool) -> str:
        """Register; return the outcome."""
        if instance_id == MALFORMED:
            return INVALID
        held = self.entries.get(instance_id)
        if held is not None and owner and held.owner == owner:
            return self._renewed(held, said, status, rest=rest, holder=0)
        if held is not None and not held.ended and not replace:
            return EXISTS
        joined = held.joined if held is not None and held.said.name == said.name else next(self._order)
        self.entries[instance_id] = Entry(
            instance_id,
            said,
            status,
            owner,
            self.wall_ms,
            self.wall_ms,
            self._deadline(rest=rest),
            joined,
            drained_until=self.drains.get(instance_id, 0),
        )
        return OK

    def heartbeat(self, beat: Beat, *, rest: bool, holder: int = 0) -> str:
        """Renew, and change what is said; return the outcome."""
        outcome = self._current(beat.instance_id, beat.generation)
        if outcome != OK:
            return outcome
        return self._renewed(self.entries[beat.instance_id], beat.said, beat.status, rest=rest, holder=holder)

    def deregister(self, instance_id: str, generation: int = 0) -> str:
        """Remove; return the outcome."""
        outcome = self._current(instance_id, generation)
        if outcome == OK:
            del self.entries[instance_id]
        return outcome

    def drain(self, instance_id: str, steps: int) -> str:
        """Take an instance out of service; return the outcome."""
        outcome = self._current(instance_id, 0)
        if outcome == OK:
            until = self.wall_ms + round(steps * STEP * 1000)
            self.drains[instance_id] = self.entries[instance_id].drained_until = until
        return outcome

    def undrain(self, instance_id: str) -> str:
        """Put an instance back into service; return the outcome."""
        outcome = OK if instance_id in self.drains else self._current(instance_id, 0)
        if outcome == OK:
            self._undrain(instance_id)
        return outcome

    # Streams

    def open(self, slot: int, on_disconnect: str) -> None:
        """Open a stream in a slot that is free."""
        self.streams[slot] = Stream(next(self._numbers), on_disconnect)

    def say(self, slot: int, beats: list[Beat], bare: list[str]) -> dict[str, str]:
        """Send heartbeats; return the outcomes that are failures."""
        stream = self.streams[slot]
        failures = {}
        for beat in [*beats, *map(Beat, bare)]:
            if beat.generation:
                stream.bound[beat.instance_id] = beat.generation
            beat.generation = stream.bound.get(beat.instance_id, 0)
            outcome = self.heartbeat(beat, rest=False, holder=stream.number)
            if outcome == OK:
                stream.bound[beat.instance_id] = self.entries[beat.instance_id].generation
            else:
                failures[beat.instance_id] = outcome
        return failures

    def half_close(self, slot: int) -> None:
        """End a stream well."""
        del self.streams[slot]

    def break_off(self, slot: int) -> None:
        """Let a stream break."""
        stream = self.streams.pop(slot)
        if self.now < self._held_until:
            return
        for instance_id, generation in stream.bound.items():
            entry = self.entries.get(instance_id)
            if entry is None or entry.ended or entry.generation != generation or entry.holder != stream.number:
                continue
            if stream.on_disconnect == "MARK_DOWN":
                entry.ended, entry.ended_at = "DISCONNECTED", self.now
            elif stream.on_disconnect == "DEREGISTER":
                del self.entries[instance_id]

    # Time

    def step(self) -> None:
        """Let a step of time pass."""
        self._pass()
        self._end_drains()
        if self.now < self._held_until:
            return
        for entry in list(self.entries.values()):
            if entry.ended and entry.ended_at + EVICT_AFTER <= self.now:
                del self.entries[entry.instance_id]
            elif not entry.ended and entry.deadline <= self.now:
                entry.ended, entry.ended_at = "LEASE_EXPIRED", self.now

    def restart(self) -> None:
        """Stop and start, which takes a step: without a state file everything is lost, with one nobody is blamed."""
        self._pass()
        self.streams.clear()
        if not self._durable:
            self.entries.clear()
            self.drains.clear()
            self.warm_at = self.now + WARMUP
            return
        self._end_drains()
        if self.entries:
            self._held_until = self.now + REST_TTL
        for entry in self.entries.values():
            entry.holder = 0
            entry.deadline = self.now + REST_TTL

    # What is seen

    def learn(self, instance_id: str, generation: int) -> None:
        """Take note of a generation: the same as before, or higher than any before."""
        entry = self.entries[instance_id]
        if entry.generation:
            assert generation == entry.generation, instance_id
        else:
            assert generation > self._last_generation, instance_id
            self._last_generation = entry.generation = generation

    def services(self) -> Iterator[tuple[str, list[Entry]]]:
        """Yield each service, sorted by name, with its instances; the one that joined first comes first."""
        for name in sorted({entry.said.name for entry in self.entries.values()}):
            members = [entry for entry in self.entries.values() if entry.said.name == name]
            yield name, sorted(members, key=lambda entry: entry.joined)

    # The rules

    def _pass(self) -> None:
        self.now += STEP
        self.wall_ms += round(STEP * 1000)

    def _undrain(self, instance_id: str) -> None:
        self.drains.pop(instance_id, None)
        if instance_id in self.entries:
            self.entries[instance_id].drained_until = 0

    def _end_drains(self) -> None:
        for instance_id in [each for each, until in self.drains.items() if until <= self.wall_ms]:
            self._undrain(instance_id)

    def _deadline(self, *, rest: bool) -> float:
        return self.now + (REST_TTL if rest else TTL)

    def _current(self, instance_id: str, generation: int) -> str:
        if instance_id == MALFORMED:
            return INVALID
        entry = self.entries.get(instance_id)
        if entry is None:
            return NOT_FOUND
        return OK if generation in (0, entry.generation) else SUPERSEDED

    def _renewed(self, entry: Entry, said: Said | None, status: str, *, rest: bool, holder: int) -> str:
        entry.deadline = max(entry.deadline, self._deadline(rest=rest))
        entry.last_heartbeat = self.wall_ms
        entry.holder = holder
        entry.ended = ""
        entry.reported = status or entry.reported
        if said is not None:
            if said.name != entry.said.name:
                entry.joined = next(self._order)
            entry.said = said
        return OK
