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
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

import orjson
import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from luna_grpc import drains, redis_scripts
from luna_grpc.access import Role, User
from luna_grpc.background import reported
from luna_grpc.capacity import RETRY_AFTER, UNLIMITED, Capacity
from luna_grpc.clock import Clock
from luna_grpc.drains import Drains
from luna_grpc.errors import NotFoundError, ResourceExhaustedError, UnavailableError
from luna_grpc.events import Change
from luna_grpc.memory import Decided, MemoryStore
from luna_grpc.model import ITSELF, Actor, Door, Info, Instance, Status, StatusReason
from luna_grpc.store import Registration, Swept, Terms

FLUSH: Final = 0.5
"""Seconds between two times at which Redis is told of heartbeats and asked what has run out."""
BATCH: Final = 500
"""Heartbeats told, or leases ended, by one script."""
BLOCK: Final = 2000
"""Milliseconds to wait for a change; below the client's timeout of a reply, which does not know that we wait."""
READ: Final = 1000
"""Entries of the stream read at a time."""
AGAIN: Final = 0.5
"""Seconds until Redis is tried again."""
APPLIED_WITHIN: Final = 5.0
"""Seconds in which a change that was made has to come back."""

log = structlog.get_logger("luna.redis")
_KINDS: Final = {change.value: change for change in Change}


class Value(NamedTuple):
    """What Redis keeps of an instance."""

    revision: int
    instance: Instance
    owner: str


def body(info: Info, reported: Status, owner: str, registered_at: int) -> bytes:
    """Write what does not change with a lease."""
    return orjson.dumps([
        info.instance_id, info.name, info.description, info.version, info.url, info.weight, dict(info.metadata), reported.value,
        owner, registered_at,
    ])  # fmt: skip


def read(value: bytes) -> Value:
    """Read a value."""
    revision, generation, ended, _, drained, said = value.split(b" ", 5)
    instance_id, name, description, version, url, weight, metadata, reported, owner, registered_at = orjson.loads(said)
    info = Info.of(instance_id, name=name, description=description, version=version, url=url, weight=weight, metadata=metadata)
    instance = Instance(
        info, Status(reported), None if ended == b"-" else StatusReason(ended.decode()), int(generation), registered_at,
        None if drained == b"-" else int(drained),
    )  # fmt: skip
    return Value(int(revision), instance, owner)


def connect(url: str) -> Redis:
    """Return a client that never sends anything twice: what is changed must not be changed again."""
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0), protocol=3, legacy_responses=False)


class RedisStore(MemoryStore):
    """See the module, and `luna_grpc.store.Store` for the contract. To be started and closed.

    `ttl` is for how long everybody has a lease after Redis was away; `now` is asked for the time in milliseconds since the epoch by
    tests only, else Redis' clock counts.
    """

    def __init__(
        self,
        clock: Clock,
        client: Redis,
        *,
        ttl: float,
        namespace: str = "luna",
        evict_after: float,
        capacity: Capacity = UNLIMITED,
        now: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(clock, evict_after=evict_after, capacity=capacity)
        self.away_since: float | None = None
        """Monotonic seconds; None while Redis answers."""
        self._client = client
        self._capacity = capacity
        self._evict_ms = round(evict_after * 1000)
        self._ttl_ms = round(ttl * 1000)
        self._now = now
        self._keys = [f"{{{namespace}}}:{key}" for key in redis_scripts.KEYS]  # the braces keep them on one node
        self._meta, self._instances, *_, self._drained, self._changes = self._keys
        self._scripts = {
            name: client.register_script(getattr(redis_scripts, name.upper()))
            for name in ("change", "remove", "end", "drain", "undrain", "renew", "hold", "sweep", "begin")
        }
        self._revisions: dict[str, int] = {}  # of each instance
        self._drains_revision = -1
        self._moved: dict[str, Registration] = {}  # those that have left a service and are to join another one
        self._renewed: dict[Registration, None] = {}
        self._swept = Swept(0, 0, more=False)
        self._applied = asyncio.Condition()
        self._beside: list[asyncio.Task[None]] = []
        self._works = {"changes of other replicas": self._follow, "heartbeats for Redis": self._tick}
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
        if held is not None and held.live and generation in (0, held.instance.generation):
            self._hear(held, terms, actor)

        def decide() -> Decided:
            return self._changing(instance_id, generation, info, reported, actor)

        return await self._change(instance_id, decide, terms, actor)

    def _hear(self, held: Registration, terms: Terms, actor: Actor) -> None:
        """Let a change count as a heartbeat at once, whatever becomes of it."""
        said = held.instance.info
        if actor.user.covers(said.instance_id, said.name):
            self.renew((held,), terms)

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
                _who(actor),
            )
            if await self._made("change", instance_id, self._known(instance_id), *arguments):
                break
        registration = self.get(instance_id)
        if registration is None or not registration.live:
            raise UnavailableError(f"{instance_id} was changed by someone else at the same moment; try again", retry_after=1)
        self.renew((registration,), terms)
        return registration

    async def end(self, registrations: Iterable[Registration], reason: StatusReason, *, now: float, actor: Actor) -> None:
        """End leases, once Redis has it."""
        del now  # Redis' clock counts
        members = [_member(each) for each in registrations if each.live]
        for start in range(0, len(members), BATCH):
            part = members[start : start + BATCH]
            await self._catch_up(int(await self._ask("end", reason.value, self._evict_ms, _who(actor), *part)))

    async def deregister(self, instance_id: str, *, generation: int, actor: Actor) -> None:
        """Remove an instance, once Redis has forgotten it."""
        while True:
            self._current(instance_id, generation, actor)
            if await self._made("remove", instance_id, self._known(instance_id), _who(actor)):
                return

    async def drain(self, instance_id: str, *, until: int, actor: Actor) -> Registration:
        """Take an instance out of service, once Redis has it."""
        while True:
            registration = self._draining(instance_id, actor)
            if await self._made("drain", instance_id, self._known(instance_id), until, drains.MOST, _who(actor)):
                self._drains.add(instance_id, until)
                return self.get(instance_id) or registration

    async def undrain(self, instance_id: str, *, actor: Actor) -> Registration | None:
        """Put an instance back into service, once Redis has it."""
        answer = await self._ask("undrain", instance_id, _who(actor))
        if answer[0] == b"UNKNOWN":
            raise NotFoundError(f"{instance_id} is neither registered nor drained")
        await self._catch_up(int(answer[1]))
        self._drains.remove(instance_id)
        return self.get(instance_id)

    async def _made(self, script: str, *arguments: str | bytes | float) -> bool:
        """Have a change made and wait until it is carried out here; return False when it is to be decided anew."""
        answer = await self._ask(script, *arguments)
        if answer[0] == b"FULL":
            raise ResourceExhaustedError(
                "the registry takes no more of these (LUNA_MAX_INSTANCES, or instances that are drained): remove some",
                retry_after=RETRY_AFTER,
            )
        await self._catch_up(int(answer[1]))
        return bool(answer[0] == b"OK")

    def _known(self, instance_id: str) -> int:
        return self._revisions.get(instance_id, 0)

    def _left(self, deadline: float) -> int:
        """Return how many milliseconds there are until a deadline."""
        return round((deadline - self._clock.now()) * 1000)

    async def _catch_up(self, revision: int) -> None:
        """Wait until everything up to a revision is carried out here."""
        try:
            async with asyncio.timeout(APPLIED_WITHIN), self._applied:
                await self._applied.wait_for(lambda: self.feed.revision >= revision)
        except TimeoutError:
            raise UnavailableError("Redis has made the change, and it does not come back from there", retry_after=1) from None

    async def _ask(self, script: str, *arguments: str | bytes | float) -> Any:  # noqa: ANN401 - each script has its own answer
        now = "" if self._now is None else self._now()
        try:
            answer = await self._scripts[script](keys=self._keys, args=[now, *arguments])
        except (RedisError, OSError, TimeoutError) as error:
            self._lost(error)
            raise UnavailableError(
                f"Redis does not answer, so nothing can be changed ({type(error).__name__}); heartbeats are kept", retry_after=1
            ) from error
        return answer

    def _lost(self, error: Exception) -> None:
        if self.away_since is None:
            self.away_since = self._clock.now()
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
        epoch, began = await self._ask("begin", secrets.token_hex(8), self.feed.revision)
        fresh = epoch.decode() != self.epoch
        self.epoch = epoch.decode()
        revision = int(began)
        seen = set()
        async for instance_id, value in self._client.hscan_iter(self._instances, count=READ):
            seen.add(instance_id.decode())
            self._take(read(value))
        for instance_id in [each for each in self._registrations if each not in seen]:
            self._drop(instance_id)
        while entries := await self._entries(revision):
            for number, fields in entries:
                if fields[b"value"]:
                    self._take(read(fields[b"value"]))
                else:
                    self._drop(fields[b"id"].decode(), number)
                revision = number
        await self._read_drains()
        self.feed.restart(self.epoch, revision)
        log.info("read from Redis", instances=self.count(), revision=revision, epoch=self.epoch, fresh=fresh)
        async with self._applied:
            self._applied.notify_all()

    async def start(self) -> None:
        """Read everything; from then on follow what others change, and tell Redis of heartbeats.

        Raises:
            UnavailableError: Redis does not answer.

        """
        await self.load()
        self._beside = [asyncio.create_task(reported(name, work)) for name, work in self._works.items()]

    async def close(self) -> None:
        """Tell of the last heartbeats, and stop."""
        with suppress(UnavailableError):
            await self.tell()
        for task in self._beside:
            while not task.done():  # Python 3.11 can lose a cancellation (https://github.com/python/cpython/issues/86296)
                task.cancel()
                await asyncio.wait([task], timeout=0.1)
        await self._client.aclose()

    async def _follow(self) -> None:
        while True:
            try:
                entries = await self._entries(self.feed.revision, block=BLOCK)
            except (RedisError, OSError, TimeoutError) as error:
                self._lost(error)
                await asyncio.sleep(AGAIN)
                continue
            if entries and entries[0][0] != self.feed.revision + 1:
                log.warning("changes of others were missed", after=self.feed.revision, next=entries[0][0])
                await self._load_again()
                continue
            for number, fields in entries:
                self._apply(number, fields)
            if entries:
                async with self._applied:
                    self._applied.notify_all()

    async def _entries(self, after: int, *, block: int | None = None) -> list[tuple[int, Mapping[bytes, bytes]]]:
        answer: Any = await self._client.xread({self._changes: f"{after}-0"}, count=READ, block=block)
        [found] = answer.values() if answer else ([],)
        return [(int(number.partition(b"-")[0]), fields) for number, fields in found]

    async def _tick(self) -> None:
        last = asyncio.get_running_loop().time()
        while True:
            await asyncio.sleep(FLUSH)
            now = asyncio.get_running_loop().time()
            paused, last = now - last > FLUSH + 1, now
            with suppress(UnavailableError):
                if self._holding or paused or self.away_since is not None:
                    await self._ask("hold", self._ttl_ms)
                    self._holding = False
                    self._back()
                await self.tell()
                await self.look()

    def _back(self) -> None:
        if self.away_since is not None:
            log.warning("Redis is back", after=round(self._clock.now() - self.away_since, 1), effect="no lease expires for one TTL")
            self.away_since = None

    async def tell(self) -> None:
        """Tell Redis of heartbeats."""
        while self._renewed:
            part = [self._renewed.popitem()[0] for _ in range(min(BATCH, len(self._renewed)))]
            pairs = [(_member(each), self._left(each.deadline)) for each in part if each.live]
            try:
                await self._ask("renew", *(each for pair in pairs for each in pair))
            except UnavailableError:
                self._renewed.update(dict.fromkeys(part))
                raise

    async def look(self, limit: int = BATCH) -> Swept:
        """Let Redis look whether something has run out."""
        expired, evicted, late, revision, drained, epoch = await self._ask("sweep", limit, self._evict_ms, _who(ITSELF))
        if epoch.decode() != self.epoch or int(revision) < self.feed.revision:
            await self._load_again()
        if int(drained) != self._drains_revision:
            await self._read_drains()
        await self._catch_up(int(revision))
        before = self._swept
        more = limit in (expired, evicted)
        self._swept = Swept(before.expired + expired, before.evicted + evicted, more, max(before.late, late / 1000))
        return self._swept

    async def _load_again(self) -> None:
        try:
            await self.load()
        except UnavailableError:
            await asyncio.sleep(AGAIN)

    async def _read_drains(self) -> None:
        self._drains_revision = int(await self._client.hget(self._meta, "drains") or 0)
        ends: Any = await self._client.zrange(self._drained, 0, -1, withscores=True)
        self._drains = Drains({instance_id.decode(): int(until) for instance_id, until in ends})

    # Carrying out

    def _apply(self, revision: int, fields: Mapping[bytes, bytes]) -> None:
        """Carry out a change that was made, and tell."""
        instance_id, change = fields[b"id"].decode(), _KINDS[fields[b"kind"].decode()]
        user, role, door, peer = orjson.loads(fields[b"who"])
        actor = Actor(User(user, Role(role)), Door(door), peer)
        held = self.get(instance_id)
        if not fields[b"value"]:
            self._revisions.pop(instance_id, None)
            if held is not None:
                self._remove(held, actor, change)
                if change is Change.MOVED:  # it comes back at once, into another service
                    self._moved[instance_id] = held
            return
        value = read(fields[b"value"])
        self._revisions[instance_id] = revision
        moved = self._moved.pop(instance_id, None)
        if moved is not None and moved.instance.generation == value.instance.generation:
            if moved.instance.up != value.instance.up:
                self._status_changes.note(value.instance)
            moved.instance, moved.live = value.instance, value.instance.ended is None
            self._place(None, moved, actor)
            return
        if held is not None and held.instance.generation == value.instance.generation:
            held.live = value.instance.ended is None
            self._update(held, value.instance, actor, None if change is Change.OTHER else change)
            return
        if held is not None:
            held.live = False
        self._place(held, self._made_of(value), actor)

    def _made_of(self, value: Value) -> Registration:
        # When its lease ends only the replica knows that hears of it, and Redis.
        registration = Registration(value.instance, value.owner, Terms(0.0, self._clock.wall_ms()))
        registration.live = value.instance.ended is None
        return registration

    def _take(self, value: Value) -> None:
        """Take on what is known of an instance, without telling: whoever watches starts over."""
        now = value.instance
        instance_id = now.info.instance_id
        if value.revision <= self._revisions.get(instance_id, -1):
            return
        held = self.get(instance_id)
        if held is not None:
            self._services.leave(held.instance)
        if held is not None and held.instance.generation == now.generation:
            held.instance, held.live = now, now.ended is None
        else:
            if held is not None:
                held.live = False
            held = self._registrations[instance_id] = self._made_of(value)
        self._services.join(held)
        self._revisions[instance_id] = value.revision

    def _drop(self, instance_id: str, revision: int | None = None) -> None:
        held = self.get(instance_id)
        if held is None or (revision is not None and self._revisions[instance_id] > revision):
            return
        held.live = False
        self._services.leave(held.instance)
        del self._registrations[instance_id], self._revisions[instance_id]


def _member(registration: Registration) -> str:
    return f"{registration.instance.info.instance_id}#{registration.instance.generation}"


def _who(actor: Actor) -> bytes:
    return orjson.dumps([actor.user.name, actor.user.role.value, actor.door.value, actor.peer])
