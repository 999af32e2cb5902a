"""The store in memory of several replicas, kept alike by one Redis.

Every replica has everything in memory, and reads, lists and watches from there. A change is decided from what is known here, by the
rules of `MemoryStore`; Redis makes it if nobody has changed the instance meanwhile, else it is decided anew. What was made comes
back as an entry of a stream, as it does to every other replica, and only that is carried out in memory: so all replicas tell
the same changes in the same order under the same revisions, and a token of one is good at another.

Heartbeats count here at once, and are told to Redis together, every `FLUSH` seconds. Whether a lease has run out only Redis says,
by its own clock, when some replica asks it to look. While Redis is away nothing expires and nothing can be changed.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final, NoReturn

import structlog

from luna_grpc import drains
from luna_grpc.capacity import RETRY_AFTER, UNLIMITED, Capacity
from luna_grpc.clock import Clock
from luna_grpc.drains import Drains
from luna_grpc.errors import NotFoundError, ResourceExhaustedError, UnavailableError
from luna_grpc.memory import Decided
from luna_grpc.model import ITSELF, Actor, Info, Status, StatusReason
from luna_grpc.redis_link import Link, Said, body, member, who
from luna_grpc.redis_replica import Replica
from luna_grpc.store import Registration, Swept, Terms

FLUSH: Final = 0.5
"""Seconds between two times at which Redis is told of heartbeats and asked what has run out."""
BATCH: Final = 500
"""Heartbeats told, or leases ended, by one script."""
BLOCK: Final = 2000
"""Milliseconds to wait for a change; below the client's timeout of a reply, which does not know that we wait."""
TOLD_LATE: Final = 100
"""Milliseconds by which Redis may think that a lease ends later than the replica that told it, for the telling takes time."""
AGAIN: Final = 0.5
"""Seconds until Redis is tried again."""
APPLIED_WITHIN: Final = 5.0
"""Seconds in which a change that was made has to come back."""

log = structlog.get_logger("luna.redis")


class RedisStore(Replica):
    """See the module, and `luna_grpc.store.Store` for the contract. To be started and closed.

    `ttl` is for how long everybody has a lease after Redis was away, in seconds; `evict_after` see `MemoryStore`.
    """

    def __init__(self, clock: Clock, link: Link, *, ttl: float, evict_after: float, capacity: Capacity = UNLIMITED) -> None:
        super().__init__(clock, evict_after=evict_after, capacity=capacity)
        self.beside: tuple[asyncio.Task[None], ...] = ()
        """What runs from `start` to `close`; without it a replica knows nothing of the others."""
        self._link = link
        self._capacity = capacity
        self._evict_ms = round(evict_after * 1000)
        self._ttl_ms = round(ttl * 1000)
        self._drains_revision = -1
        self._renewed: dict[Registration, None] = {}
        self._swept = Swept(0, 0, more=False)
        self._applied = asyncio.Condition()
        self._works = [self._follow, self._tick]
        self._stale = False  # whether everything has to be read anew
        self._holding = False  # whether Redis is to be told that nothing may expire for a while

    # Changing: decided here, made by Redis, and carried out when it comes back

    async def register(
        self, info: Info, reported: Status, *, owner: str, replace: bool, terms: Terms, actor: Actor
    ) -> Registration:
        """Register, once Redis has it."""

        def decide() -> Decided:
            return self._registering(info, reported, owner=owner, replace=replace, terms=terms, actor=actor)

        return await self._change(info.instance_id, decide, terms, actor)

    async def change(
        self, instance_id: str, *, generation: int, info: Info | None, reported: Status | None, terms: Terms, actor: Actor
    ) -> Registration:
        """Change, once Redis has it."""
        held = self.get(instance_id)
        # A change counts as a heartbeat at once, whatever becomes of it.
        current = held is not None and held.live and generation in (0, held.instance.generation)
        if held is not None and current and actor.user.covers(instance_id, held.instance.info.name):
            self.renew((held,), terms)

        def decide() -> Decided:
            return self._changing(instance_id, generation, info, reported, actor)

        return await self._change(instance_id, decide, terms, actor)

    async def _change(self, instance_id: str, decide: Callable[[], Decided], terms: Terms, actor: Actor) -> Registration:
        while True:
            held, now, owner = decide()
            new = held is None or held.instance.generation != now.generation
            moved = held is not None and held.instance.info.name != now.info.name
            arguments = (
                "" if new else now.generation,
                body(now.info, now.reported, owner, now.registered_at),
                self._left(terms.deadline),
                self._capacity.instances,
                int(moved),
                who(actor),
            )
            with self._room.kept(now.info.name, new=held is None, joins=held is None or moved):
                made = await self._made("change", instance_id, self.known(instance_id), *arguments)
            if made:
                break
        registration = self.get(instance_id)
        if registration is None or not registration.live:
            raise UnavailableError(f"{instance_id} was changed by someone else at the same moment; try again", retry_after=1)
        self.renew((registration,), terms)
        return registration

    async def end(self, registrations: Iterable[Registration], reason: StatusReason, *, now: float, actor: Actor) -> None:
        """End leases, once Redis has it."""
        del now  # Redis' clock counts
        members = [member(each) for each in registrations if each.live]
        for start in range(0, len(members), BATCH):
            part = members[start : start + BATCH]
            await self._catch_up(int(await self._ask("end", reason.value, self._evict_ms, who(actor), *part)))

    async def heard_only_here(self, registrations: Iterable[Registration]) -> list[Registration]:
        """Return those whose last heartbeat came to this replica, as far as Redis has been told."""
        await asyncio.sleep(2 * FLUSH)  # until the others have told what they have heard
        asked = [each for each in registrations if each.live]
        found: list[Registration] = []
        for start in range(0, len(asked), BATCH):
            part = asked[start : start + BATCH]
            latest = await self._ask("latest", *(member(each) for each in part))
            left = [self._left(each.deadline) + TOLD_LATE for each in part]
            found += [each for each, told, here in zip(part, latest, left, strict=True) if told is not None and int(told) <= here]
        return found

    async def deregister(self, instance_id: str, *, generation: int, actor: Actor) -> None:
        """Remove an instance, once Redis has forgotten it."""
        while True:
            self._current(instance_id, generation, actor)
            if await self._made("remove", instance_id, self.known(instance_id), who(actor)):
                return

    async def drain(self, instance_id: str, *, until: int, actor: Actor) -> Registration:
        """Take an instance out of service, once Redis has it."""
        while True:
            registration = self._draining(instance_id, actor)
            if await self._made("drain", instance_id, self.known(instance_id), until, drains.MOST, who(actor)):
                self._drains.add(instance_id, until)
                return self.get(instance_id) or registration

    async def undrain(self, instance_id: str, *, actor: Actor) -> Registration | None:
        """Put an instance back into service, once Redis has it."""
        answer = await self._ask("undrain", instance_id, who(actor), self.feed.revision)
        if answer[0] == b"LOST":
            self._give_up()
        if answer[0] == b"UNKNOWN":
            raise NotFoundError(f"{instance_id} is neither registered nor drained")
        await self._catch_up(int(answer[1]))
        self._drains.remove(instance_id)
        return self.get(instance_id)

    async def _made(self, script: str, *arguments: Said) -> bool:
        """Have a change made and wait until it is carried out here; return False when it is to be decided anew."""
        before = self.known(str(arguments[0]))
        answer = await self._ask(script, *arguments, self.feed.revision)
        if answer[0] == b"LOST":
            self._give_up()
        if answer[0] == b"FULL":
            raise ResourceExhaustedError(
                "the registry takes no more of these (LUNA_MAX_INSTANCES, or instances that are drained): remove some",
                retry_after=RETRY_AFTER,
            )
        await self._catch_up(int(answer[1]))
        if answer[0] == b"CONFLICT" and self.known(str(arguments[0])) == before:
            self._give_up()
        return bool(answer[0] == b"OK")

    def _give_up(self) -> NoReturn:
        """Have everything read anew: Redis knows something else than it did."""
        self._stale = True
        raise UnavailableError("Redis has lost what it had acknowledged, and is read anew; try again", retry_after=1)

    def _left(self, deadline: float) -> int:
        """Return how many milliseconds there are until a deadline and until Redis knows of a heartbeat that came by then."""
        return round((deadline - self._clock.now() + 2 * FLUSH) * 1000)

    async def _catch_up(self, revision: int) -> None:
        """Wait until everything up to a revision is carried out here."""
        try:
            async with asyncio.timeout(APPLIED_WITHIN), self._applied:
                await self._applied.wait_for(lambda: self.feed.revision >= revision)
        except TimeoutError:
            raise UnavailableError("Redis has made the change, and it does not come back from there", retry_after=1) from None

    async def _ask(self, script: str, *arguments: Said) -> Any:  # noqa: ANN401 - each script has its own answer
        try:
            return await self._link.ask(script, *arguments)
        except UnavailableError as error:
            self._lost(error)
            raise

    def _lost(self, error: Exception) -> None:
        if self.stale_since is None:
            self.stale_since = self._clock.now()
            log.error("Redis is away", reason=str(error), effect="changes are refused and nothing expires; reads go on")

    # Renewing

    def renew(self, registrations: Iterable[Registration], terms: Terms) -> None:
        """Move deadlines; Redis is told soon."""
        registrations = tuple(registrations)
        super().renew(registrations, terms)
        self._renewed.update(dict.fromkeys(registrations))

    # Time

    async def sweep(self, now: float, limit: int) -> Swept:
        """Return what Redis has found out since the last time, when this replica asked."""
        del now, limit
        swept, self._swept = self._swept, Swept(0, 0, more=False)
        return swept

    def hold(self, until: float) -> None:
        """Declare nothing expired before a moment, by Redis too."""
        super().hold(until)
        self._holding = True

    # Beside: telling Redis, and hearing of it

    async def load(self) -> None:
        """Read everything. To be called before anything else.

        Raises:
            UnavailableError: Redis does not answer.

        """
        known = self.feed.revision
        epoch, began = await self._ask("begin", secrets.token_hex(8), known)
        fresh = epoch.decode() != self.epoch
        self.epoch = epoch.decode()
        if fresh:  # what was known may never have been, as far as Redis remembers
            self.revisions.clear()
        revision = await self.take_all(self._link, int(began))
        await self._read_drains()
        self._stale = False
        # Whoever is missing in a registry that has lost its memory may only not have come back yet.
        self.feed.restart(self.epoch, revision, warming=fresh and bool(known))
        log.info("read from Redis", instances=self.count(), revision=revision, epoch=self.epoch, fresh=fresh)
        async with self._applied:
            self._applied.notify_all()

    async def start(self) -> None:
        """Read everything; from then on follow what others change, and tell Redis of heartbeats.

        Raises:
            UnavailableError: Redis does not answer.

        """
        await self.load()
        self.beside = tuple(asyncio.create_task(work()) for work in self._works)

    async def close(self) -> None:
        """Tell of the last heartbeats, and stop."""
        with suppress(UnavailableError):
            await self.tell()
        for task in self.beside:
            while not task.done():  # Python 3.11 can lose a cancellation (https://github.com/python/cpython/issues/86296)
                task.cancel()
                await asyncio.wait([task], timeout=0.1)
        await self._link.close()

    async def _follow(self) -> None:
        while True:
            try:
                if self._stale:
                    await self.load()
                entries = await self._link.changes(self.feed.revision, block=BLOCK)
            except UnavailableError as error:
                self._lost(error)
                await asyncio.sleep(AGAIN)
                continue
            if entries and entries[0][0] != self.feed.revision + 1:
                log.warning("changes of others were missed", after=self.feed.revision, next=entries[0][0])
                self._stale = True
                continue
            for number, fields in entries:
                self.apply(number, fields)
            if entries:
                async with self._applied:
                    self._applied.notify_all()

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await asyncio.sleep(FLUSH)
            paused = loop.time() - began > FLUSH + 1
            with suppress(UnavailableError):
                if self._holding or paused or self.stale_since is not None:
                    await self._ask("hold", self._ttl_ms)
                    self._holding = False
                    self._back()
                await self.tell()
                while (await self.look()).more:
                    await self.tell()

    def _back(self) -> None:
        if self.stale_since is not None:
            log.warning(
                "Redis is back", after=round(self._clock.now() - self.stale_since, 1), effect="no lease expires for one TTL"
            )
            self.stale_since = None

    async def tell(self) -> None:
        """Tell Redis of heartbeats."""
        waiting, self._renewed = list(self._renewed), {}
        for start in range(0, len(waiting), BATCH):
            part = [each for each in waiting[start : start + BATCH] if each.live]
            try:
                if part:
                    await self._ask("renew", *(said for each in part for said in (member(each), self._left(each.deadline))))
            except UnavailableError:
                self._renewed = dict.fromkeys(waiting[start:]) | self._renewed
                raise

    async def look(self, limit: int = BATCH) -> Swept:
        """Let Redis look whether something has run out."""
        expired, evicted, late, revision, drained, epoch = await self._ask(
            "sweep", limit, self._evict_ms, who(ITSELF), self._ttl_ms
        )
        if epoch.decode() != self.epoch or int(revision) < self.feed.revision:
            self._stale = True
        if int(drained) != self._drains_revision:
            await self._read_drains()
        before = self._swept
        more = limit in (expired, evicted)
        self._swept = Swept(before.expired + expired, before.evicted + evicted, more, max(before.late, late / 1000))
        try:
            await self._catch_up(int(revision))
        except UnavailableError:
            self._stale = True
        return self._swept

    async def _read_drains(self) -> None:
        self._drains_revision, ends = await self._link.drains()
        self._drains = Drains(ends)
