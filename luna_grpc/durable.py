"""The store in memory whose changes are on disk before anyone is told of them.

A change waits for its turn (one at a time for each id), is decided, written, and only then carried out in memory: disk, memory,
watch, answer. It goes on to its end even if the one who asked has left, so disk and memory never differ by half a change. Meanwhile
the lease may end, and no more than that: nothing is evicted that is changing.

What nobody waits for is written soon after: ended leases, those that come back, evictions. Heartbeats are not written at all, and a
change counts as one at once. So a disk that hangs or is full keeps changes from being made, and no heartbeat from counting.
"""

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar

import structlog

from luna_grpc.capacity import UNLIMITED, Capacity
from luna_grpc.clock import Clock
from luna_grpc.drains import Drains
from luna_grpc.errors import LunaError, ResourceExhaustedError
from luna_grpc.events import Change, Event
from luna_grpc.memory import Decided, MemoryStore
from luna_grpc.model import Actor, Info, Instance, Status
from luna_grpc.statefile import RETRY_AFTER, StateFile
from luna_grpc.stateformat import Kept, Statement, forget, forget_drains, keep, note, trim, undrain
from luna_grpc.stateformat import drain as drained
from luna_grpc.store import Registration, Terms

SOON: Final = 0.1
"""Seconds until what nobody waits for is written."""
RETRY: Final = 1.0
"""The same, after the disk has failed."""
SLICE: Final = 500
"""Registrations written at a time of which nobody waits for one."""
MAX_CHANGES: Final = 20_000
"""The most changes under way; more are refused at once."""
PATIENCE: Final = 10.0
"""Seconds that a disk which does not answer gets when the registry stops."""

log = structlog.get_logger("luna.state")
T = TypeVar("T")


class _Asked(NamedTuple):
    """What comes with a change."""

    terms: Terms
    at: float
    """Monotonic seconds: when the terms were made."""
    actor: Actor
    heard: bool
    """Whether it has counted as a heartbeat already."""


class DurableStore(MemoryStore):
    """See the module, and `luna_grpc.store.Store` for the contract. Its changes raise UnavailableError when the disk fails."""

    def __init__(
        self, clock: Clock, file: StateFile, *, evict_after: float, capacity: Capacity = UNLIMITED, warming: bool = False
    ) -> None:
        super().__init__(clock, evict_after=evict_after, capacity=capacity, warming=warming and file.fresh, epoch=file.epoch)
        self.file = file
        self._last_generation = max(self._last_generation, file.last_generation)
        self._changes = 0  # how many are under way
        self._turns: dict[str, asyncio.Task[Any]] = {}  # the latest change of each id that has one under way
        self._unwritten: dict[str, None] = {}  # ids of which memory knows more than the disk
        self._journal_written = 0  # the number of the latest entry on the disk
        self._on_disk = False  # whether memory just takes on what is on the disk
        self._flusher: asyncio.Task[None] | None = None
        self.feed.observe(self._note)

    # Starting and stopping

    async def load(self, ttl: float) -> None:
        """Read the file; every lease that was alive gets `ttl` seconds from the end of this.

        Raises:
            StateFileError: the file is damaged.

        """
        wall_ms = self._clock.wall_ms()
        self._drains = Drains({each: until for each, until in (await self.file.read_drains()).items() if until > wall_ms})
        async for part in self.file.read():
            for kept in part:
                self._restore(kept, ttl)
            # There is no garbage in it, and the collector would walk all of it again and again; see `luna_grpc.sweeper`.
            gc.freeze()
        now = self._clock.now()
        async for ended in self.file.read_ended():
            for instance_id, at in ended:
                self._evictions.add(instance_id, now - max(0.0, (wall_ms - at) / 1000))
        async for entries in self.file.read_journal():
            self.journal.restore(entries)
        self._journal_written = self.journal.number
        self._clock.tick()
        if self._registrations:
            self.hold(self._clock.now() + ttl)

    async def close(self) -> None:
        """Write what is to be written, and let go of the file."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._finish()
                await self.file.close()
        except TimeoutError:
            log.error("state file not closed", path=self.file.path, reason="its disk does not answer")  # noqa: TRY400 - that is all

    async def _finish(self) -> None:
        while self._turns:
            await asyncio.wait(self._turns.values())
        if self._flusher is not None:
            self._flusher.cancel()
            await asyncio.wait([self._flusher])
        with suppress(LunaError):
            while self._turns or self._owing:  # what is changing is written by its change, so nothing else may be left
                if self._turns:
                    await asyncio.wait(self._turns.values())
                else:
                    await self._write_some()

    def _restore(self, kept: Kept, ttl: float) -> None:
        now = kept.instance._replace(drained_until=self._drains.get(kept.instance.info.instance_id))
        registration = Registration(now, kept.owner, Terms(self._clock.now() + ttl, kept.last_heartbeat))
        registration.live = now.ended is None
        self._registrations[now.info.instance_id] = registration
        self._services.join(registration)
        if registration.live:
            self._leases.add(registration)

    # Changing

    async def register(
        self, info: Info, reported: Status, *, owner: str, replace: bool, terms: Terms, actor: Actor
    ) -> Registration:
        """Register, once the disk has it."""
        held = self.get(info.instance_id)
        heard = held is not None and bool(owner) and held.owner == owner and self._hear(held, terms, actor)
        asked = _Asked(terms, self._clock.now(), actor, heard)

        async def step() -> Registration:
            decided = self._registering(info, reported, owner=owner, replace=replace, terms=terms, actor=actor)
            with self._room.kept(decided.now.info.name, new=decided.new, joins=decided.joins):
                return await self._make_so(decided, asked)

        return await self._in_turn(info.instance_id, step)

    async def change(
        self, instance_id: str, *, generation: int, info: Info | None, reported: Status | None, terms: Terms, actor: Actor
    ) -> Registration:
        """Change, once the disk has it."""
        held = self.get(instance_id)
        heard = held is not None and generation in (0, held.instance.generation) and self._hear(held, terms, actor)
        asked = _Asked(terms, self._clock.now(), actor, heard)

        async def step() -> Registration:
            decided = self._changing(instance_id, generation, info, reported, actor)
            with self._room.kept(decided.now.info.name, new=decided.new, joins=decided.joins):
                return await self._make_so(decided, asked)

        return await self._in_turn(instance_id, step)

    async def deregister(self, instance_id: str, *, generation: int, actor: Actor) -> None:
        """Remove an instance, once the disk has forgotten it."""

        async def step() -> None:
            registration = self._current(instance_id, generation, actor)
            await self._write(forget(instance_id))
            with self._already_on_disk():
                self._remove(registration, actor, Change.DEREGISTERED)

        await self._in_turn(instance_id, step)

    async def drain(self, instance_id: str, *, until: int, actor: Actor) -> Registration:
        """Take an instance out of service, once the disk has it."""

        async def step() -> Registration:
            registration = self._draining(instance_id, actor)
            await self._write(drained(instance_id, until), forget_drains(self._clock.wall_ms()))
            with self._already_on_disk():
                self._drain(registration, until, actor)
            return registration

        return await self._in_turn(instance_id, step)

    async def undrain(self, instance_id: str, *, actor: Actor) -> Registration | None:
        """Put an instance back into service, once the disk has it."""

        async def step() -> Registration | None:
            registration = self._undraining(instance_id)
            await self._write(undrain(instance_id))
            with self._already_on_disk():
                self._undrain(instance_id, actor)
            return registration

        return await self._in_turn(instance_id, step)

    def _hear(self, held: Registration, terms: Terms, actor: Actor) -> bool:
        """Let a change count as a heartbeat at once, whatever becomes of it and however long it waits; return whether it did."""
        said = held.instance.info
        # One that has ended comes back at once too, but not before what is under way: that may remove it.
        heard = (held.live or said.instance_id not in self._turns) and actor.user.covers(said.instance_id, said.name)
        if heard:
            self._renew_and_change(held, held.instance._replace(ended=None), terms, actor)
        return heard

    async def _make_so(self, decided: Decided, asked: _Asked) -> Registration:
        """Keep what is decided, and carry it out."""
        held, now, _ = decided
        if held is None or held.instance.generation != now.generation:
            return await self._hand_over(decided, asked)
        holder = asked.terms.holder
        if not held.live and not asked.heard and (holder is None or not holder.closed):
            self._renew_and_change(held, held.instance._replace(ended=None), self._granted(asked), asked.actor)
        now = _as_of(held, now)
        if now != held.instance:
            moved = now.info.name != held.instance.info.name
            await self._write(keep(self._kept(held, now), moved=moved))
            with self._already_on_disk():
                self._update(held, _as_of(held, now), asked.actor)
        return held

    async def _hand_over(self, decided: Decided, asked: _Asked) -> Registration:
        """Let a new generation have the id."""
        _, now, owner = decided
        await self._write(keep(Kept(now, owner, asked.terms.wall_ms), moved=decided.joins), generation=now.generation)
        with self._already_on_disk():
            return self._carry_out(decided, self._granted(asked), asked.actor)

    def _granted(self, asked: _Asked) -> Terms:
        """Return the terms as they are now: nobody's lease is the shorter because a change had to wait."""
        return asked.terms._replace(deadline=asked.terms.deadline + self._clock.now() - asked.at)

    async def _in_turn(self, instance_id: str, step: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do a step after all that came before it for this id; to its end, even if nobody waits for it any more."""
        if self._changes >= MAX_CHANGES:
            raise ResourceExhaustedError(
                f"{self._changes} changes wait for the disk of the state file already; try again later", retry_after=RETRY_AFTER
            )
        before = self._turns.get(instance_id)

        async def turn() -> T:
            try:
                if before is not None:
                    await asyncio.wait([before])
                return await step()
            finally:
                self._end_turn(instance_id, task)

        task = self._turns[instance_id] = asyncio.create_task(turn())
        self._changes += 1
        self._mark(instance_id)
        return await asyncio.shield(task)

    def _end_turn(self, instance_id: str, task: asyncio.Task[Any]) -> None:
        self._changes -= 1
        if self._turns[instance_id] is task:
            del self._turns[instance_id]
        self._mark(instance_id)

    def _mark(self, instance_id: str) -> None:
        """Say of a registration whether a change of it is under way."""
        registration = self.get(instance_id)
        if registration is not None:
            registration.changing = instance_id in self._turns

    async def _write(self, *statements: Statement, generation: int = 0) -> None:
        try:
            await self.file.write(*statements, generation=generation)
        except LunaError:
            self._flush_soon()  # which finds out when the disk is well again
            raise

    @contextmanager
    def _already_on_disk(self) -> Iterator[None]:
        self._on_disk = True
        try:
            yield
        finally:
            self._on_disk = False

    # Writing what nobody waits for

    @property
    def _owing(self) -> bool:
        """Whether memory knows more than the disk."""
        return bool(self._unwritten) or self._journal_written < self.journal.number

    def _note(self, event: Event) -> None:
        if not self._on_disk:
            self._unwritten[event.instance.info.instance_id] = None
        if self._owing:
            self._flush_soon()

    def _flush_soon(self) -> None:
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())

    async def _flush(self) -> None:
        while self._owing or self.file.failure:
            await asyncio.sleep(RETRY if self.file.failure else SOON)
            with suppress(LunaError):
                while await self._write_some():
                    pass

    async def _write_some(self) -> bool:
        """Write what memory knows of some ids; not of those that are changing, which the disk may know more of.

        Return whether there are so many that it is worth going on at once.
        """
        ids = list(islice((each for each in self._unwritten if each not in self._turns), SLICE))
        entries = list(islice(self.journal.after(self._journal_written), SLICE))
        if not ids and not entries and not self.file.failure:
            return False
        for each in ids:
            del self._unwritten[each]
        if self.file.failure:
            # One that nobody gets, so that there is something new to write: that finds out whether the disk is well again.
            self._last_generation += 1
        try:
            await self.file.write(
                *map(self._as_it_is, ids), *map(note, entries), trim(self.journal.number), generation=self._last_generation
            )
        except (LunaError, asyncio.CancelledError):
            self._unwritten |= dict.fromkeys(ids)
            raise
        if entries:
            self._journal_written = entries[-1].number
        return SLICE in (len(ids), len(entries))

    def _as_it_is(self, instance_id: str) -> Statement:
        registration = self.get(instance_id)
        return forget(instance_id) if registration is None else keep(self._kept(registration, registration.instance))

    def _kept(self, registration: Registration, now: Instance) -> Kept:
        ended_at = (
            None
            if now.ended is None
            else self._clock.wall_ms() - round(self._evictions.ended_for(now.info.instance_id, self._clock.now()) * 1000)
        )
        return Kept(now, registration.owner, registration.last_heartbeat, ended_at)


def _as_of(held: Registration, now: Instance) -> Instance:
    """Bring up to date what was decided before: what was said then neither brings back a lease that has ended nor a drain."""
    return now._replace(ended=held.instance.ended, drained_until=held.instance.drained_until)
