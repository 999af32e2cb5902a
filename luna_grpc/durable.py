"""The store in memory whose changes are on disk before anyone is told of them.

A change waits for its turn (one at a time for each id), is decided, written, and only then carried out in memory: disk, memory,
watch, answer. It goes on to its end even if the one who asked has left, so disk and memory never differ by half a change.

What nobody waits for is written soon after: ended leases, those that come back, evictions. Heartbeats are not written at all. So a
disk that hangs or is full keeps changes from being made, and no heartbeat from counting.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from operator import itemgetter
from typing import Any, Final, TypeVar

from luna_grpc.clock import Clock
from luna_grpc.errors import LunaError
from luna_grpc.memory import Decided, MemoryStore
from luna_grpc.model import Actor, Info, Status
from luna_grpc.statefile import Kept, StateFile, Statement, forget, given, keep
from luna_grpc.store import Registration, Terms
from luna_grpc.watch import Event

SOON: Final = 0.1
"""Seconds until what nobody waits for is written."""
RETRY: Final = 1.0
"""The same, after the disk has failed."""
SLICE: Final = 500
"""Registrations written or read before others get their turn."""

T = TypeVar("T")


class DurableStore(MemoryStore):
    """See the module, and `luna_grpc.store.Store` for the contract. Its changes raise UnavailableError when the disk fails."""

    def __init__(self, clock: Clock, file: StateFile, *, evict_after: float, warming: bool = False) -> None:
        super().__init__(clock, evict_after=evict_after, warming=warming and file.fresh, epoch=file.epoch)
        self._last_generation = max(self._last_generation, file.last_generation)
        self._clock = clock
        self._file = file
        self._turns: dict[str, asyncio.Task[Any]] = {}  # the latest change of each id that has one under way
        self._unwritten: dict[str, None] = {}  # ids of which memory knows more than the disk
        self._on_disk = False  # whether memory just takes on what is on the disk
        self._flusher: asyncio.Task[None] | None = None
        self.feed.observe(self._note)

    # Starting and stopping

    async def load(self, ttl: float) -> None:
        """Read the file; every lease that was alive gets `ttl` seconds from the end of this.

        Raises:
            StateFileError: the file is damaged.

        """
        kept = self._file.read()
        ended: list[tuple[float, Registration]] = []
        while part := await asyncio.to_thread(lambda: list(islice(kept, SLICE))):
            for each in part:
                registration = self._restore(each)
                if not registration.live:
                    ended.append((each.ended_at or 0, registration))
        self._clock.tick()
        now, wall_ms = self._clock.now(), self._clock.wall_ms()
        for registration in self._registrations.values():
            if registration.live:
                registration.deadline = now + ttl
                self._leases.add(registration)
        self.hold(now + ttl)
        for ended_at, registration in sorted(ended, key=itemgetter(0)):
            self._await_eviction(registration, now - max(0.0, (wall_ms - ended_at) / 1000))

    async def close(self) -> None:
        """Write what is to be written, and let go of the file."""
        while self._turns:
            await asyncio.wait(self._turns.values())
        if self._flusher is not None:
            self._flusher.cancel()
            await asyncio.wait([self._flusher])
        with suppress(LunaError):
            while self._unwritten:
                await self._write_some()
        await self._file.close()

    def _restore(self, kept: Kept) -> Registration:
        registration = Registration(kept.instance, kept.owner, Terms(0.0, kept.last_heartbeat))
        registration.live = kept.instance.ended is None
        self._registrations[kept.instance.info.instance_id] = registration
        self._services.join(registration)
        return registration

    # Changing

    async def register(
        self, info: Info, reported: Status, *, owner: str, replace: bool, terms: Terms, actor: Actor
    ) -> Registration:
        """Register, once the disk has it."""

        async def step() -> Registration:
            decided = self._registering(info, reported, owner=owner, replace=replace, terms=terms, actor=actor)
            return await self._make_so(decided, terms, actor)

        return await self._in_turn(info.instance_id, step)

    async def change(
        self, instance_id: str, *, generation: int, info: Info | None, reported: Status | None, terms: Terms, actor: Actor
    ) -> Registration:
        """Change, once the disk has it."""

        async def step() -> Registration:
            return await self._make_so(self._changing(instance_id, generation, info, reported, actor), terms, actor)

        return await self._in_turn(instance_id, step)

    async def deregister(self, instance_id: str, *, generation: int, actor: Actor) -> None:
        """Remove an instance, once the disk has forgotten it."""

        async def step() -> None:
            self._current(instance_id, generation, actor)
            await self._write(forget(instance_id))
            registration = self.get(instance_id)
            if registration is not None:  # else it was evicted meanwhile
                with self._already_on_disk():
                    self._remove(registration, actor)

        await self._in_turn(instance_id, step)

    async def _make_so(self, decided: Decided, terms: Terms, actor: Actor) -> Registration:
        """Keep what is decided, and carry it out."""
        held, now, owner = decided
        kept = keep(Kept(now, owner, terms.wall_ms), moved=held is None or held.instance.info.name != now.info.name)
        if held is not None and held.instance.generation == now.generation:
            # It is a heartbeat as well, and as such it counts whatever the disk says.
            alive = held.instance._replace(ended=None)
            self._carry_out(Decided(held, alive, owner), terms, actor)
            if now != alive:
                await self._write(kept)
                self._current(now.info.instance_id, now.generation, actor)  # it may have been evicted meanwhile
                with self._already_on_disk():
                    # Nor does what was said before a lease ended bring it back.
                    self._update(held, now._replace(ended=held.instance.ended), actor)
            return held
        asked_at = self._clock.now()
        await self._write(kept, given(now.generation))
        # The disk may have taken long: nobody's lease is the shorter for it.
        terms = terms._replace(deadline=terms.deadline + self._clock.now() - asked_at)
        with self._already_on_disk():
            return self._carry_out(Decided(self.get(now.info.instance_id), now, owner), terms, actor)

    async def _in_turn(self, instance_id: str, step: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do a step after all that came before it for this id; to its end, even if nobody waits for it any more."""
        before = self._turns.get(instance_id)
        registration = self.get(instance_id)
        if registration is not None:
            registration.changing = True

        async def turn() -> T:
            try:
                if before is not None:
                    await asyncio.wait([before])
                return await step()
            finally:
                if self._turns[instance_id] is task:
                    del self._turns[instance_id]
                registration = self.get(instance_id)
                if registration is not None:
                    registration.changing = instance_id in self._turns

        task = self._turns[instance_id] = asyncio.create_task(turn())
        return await asyncio.shield(task)

    async def _write(self, *statements: Statement) -> None:
        try:
            await self._file.write(*statements)
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

    def _note(self, event: Event) -> None:
        if not self._on_disk:
            self._unwritten[event.instance.info.instance_id] = None
            self._flush_soon()

    def _flush_soon(self) -> None:
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())

    async def _flush(self) -> None:
        while self._unwritten or self._file.failure:
            await asyncio.sleep(RETRY if self._file.failure else SOON)
            with suppress(LunaError):
                await self._write_some()

    async def _write_some(self) -> None:
        """Write what memory knows of some ids; not of those that are changing, which the disk may know more of."""
        ids = list(islice((each for each in self._unwritten if each not in self._turns), SLICE))
        for each in ids:
            del self._unwritten[each]
        try:
            await self._file.write(given(self._last_generation), *map(self._as_it_is, ids))
        except LunaError:
            self._unwritten.update(dict.fromkeys(ids))
            raise

    def _as_it_is(self, instance_id: str) -> Statement:
        registration = self.get(instance_id)
        if registration is None:
            return forget(instance_id)
        ended_at = None if registration.live else self._clock.wall_ms()
        return keep(Kept(registration.instance, registration.owner, registration.last_heartbeat, ended_at))
