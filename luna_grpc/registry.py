"""The use cases: what both edges call, and the only place where the rules of leases are decided.

Nothing here does I/O or reads the clock of the machine; time comes from the injected clock. Whoever runs a registry calls `sweep`
often (see `luna_grpc.sweeper`): only that turns instances DOWN, evicts them, and ends the time of warming up.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final, NamedTuple

from luna_grpc.clock import Clock
from luna_grpc.drains import DEFAULT, checked
from luna_grpc.errors import InvalidArgumentError, NotFoundError, NotRegisteredError, UnavailableError
from luna_grpc.histogram import Histogram
from luna_grpc.leases import LeasePolicy
from luna_grpc.model import (
    MAX_NAME,
    MAX_OWNER,
    Actor,
    Door,
    Info,
    Instance,
    ServiceStatus,
    Status,
    StatusReason,
    check_instance_id,
    shown,
)
from luna_grpc.store import Holder, Registration, Service, Store, Swept, Terms
from luna_grpc.watch import Watcher

MAX_WATCHED_NAMES: Final = 1000
SWEEP_LIMIT: Final = 64
"""The most leases that one slice of a sweep looks at."""
SWEEP_TELLINGS: Final = 20_000
"""The most times that one slice tells a watcher of something: some 10 ms."""
MAX_HOLD: Final = 3
"""For how many TTLs stalls can put off that anything expires."""
_REST: Final = Door.REST  # on Python 3.11, to name a member of an enum takes as long as to call a function


class Beat(NamedTuple):
    """A heartbeat that may say more than "alive"."""

    instance_id: str
    generation: int = 0
    """0: whatever is there."""
    status: Status | None = None
    """None: as reported before."""
    info: Info | None = None
    """None: as registered."""

    def repeats(self, instance: Instance) -> bool:
        """Whether it says nothing that is not known of an instance."""
        return (
            self.generation in (0, instance.generation)
            and (self.status is None or self.status is instance.reported)
            and (self.info is None or self.info == instance.info)
        )


class SweepReport(NamedTuple):
    """What one slice of a sweep found."""

    swept: Swept
    stalled: float = 0.0
    """Seconds for which the process was deaf; 0 when it was not."""


class Registry:
    """Who is there, and for how long."""

    def __init__(self, store: Store, clock: Clock, policy: LeasePolicy) -> None:
        self.store = store
        self.policy = policy
        self._rest_ttl = policy.rest_ttl
        self._clock = clock
        self.rest_heartbeats = 0
        """How many heartbeats were accepted through REST."""
        self.grpc_heartbeats = 0
        """How many through gRPC that came in calls of their own."""
        self.stream_heartbeats = 0
        """How many that came by heartbeat streams."""
        self.registrations: Counter[Door] = Counter()
        self.deregistrations: Counter[Door] = Counter()
        self.expired = 0
        self.evicted = 0
        self.lateness = Histogram()
        """From the moment at which a lease could have been declared ended, of the one that waited longest in each slice."""
        self.stalls = 0
        self.broken_streams = 0
        """How many heartbeat streams ended neither properly nor by the server."""
        self.loading = False
        """While True the store does not know everything that it knew before the start; nobody is to be answered."""
        self._warm_at = clock.now() + policy.warmup
        store.feed.observe_restarts(self._warm_up_again)
        self._held_since: float | None = None  # the first of the stalls that hold now

    def check_loaded(self) -> None:
        """Refuse to answer before everything is there: a part of it would be taken for the truth.

        Raises:
            UnavailableError: the store is still loading.

        """
        if self.loading:
            raise UnavailableError(
                "the registry is starting and has not read its state file to the end yet; try again", retry_after=1
            )

    # Leases

    async def register(self, info: Info, status: Status, *, replace: bool = False, owner: str = "", actor: Actor) -> Registration:
        """Register an instance and grant it a lease.

        `replace` takes over an id that is held by a live lease. `owner` names the registering process: it gets its own registration
        back, with the same generation.

        Raises:
            AlreadyExistsError: the id is held by a live lease.
            InvalidArgumentError: `owner` is too long.
            PermissionDeniedError: it is of a service that the user may not change.

        """
        if len(owner) > MAX_OWNER:
            raise InvalidArgumentError(f"owner has {len(owner)} characters; at most {MAX_OWNER} are allowed", field="owner")
        terms = self._terms(actor.door)
        registration = await self.store.register(info, status, owner=owner, replace=replace, terms=terms, actor=actor)
        self.registrations[actor.door] += 1
        return registration

    def renew(self, registrations: Collection[Registration], door: Door, holder: Holder | None = None) -> None:
        """Renew leases, all of them live, as they are: heartbeats that say nothing new.

        `holder` is the stream that they came by.
        """
        self.store.renew(registrations, self._terms(door, holder))
        self._heard(len(registrations), door, holder)

    def _heard(self, heartbeats: int, door: Door, holder: Holder | None) -> None:
        if holder is not None:
            self.stream_heartbeats += heartbeats
        elif door is _REST:
            self.rest_heartbeats += heartbeats
        else:
            self.grpc_heartbeats += heartbeats

    @property
    def heartbeats(self) -> int:
        """How many heartbeats were accepted since the start, whatever way they came."""
        return self.rest_heartbeats + self.grpc_heartbeats + self.stream_heartbeats

    async def heartbeat(self, beat: Beat, *, actor: Actor, holder: Holder | None = None) -> Registration:
        """Renew one lease, and change what the heartbeat says.

        Raises:
            NotFoundError: the id is unknown.
            PermissionDeniedError: it is of a service that the user may not change.
            SupersededError: the generation is not the current one.
            UnavailableError: what it changes cannot be kept now; the lease is renewed all the same.

        """
        registration = self.store.get(beat.instance_id)
        if registration is None:
            raise NotRegisteredError(f"{check_instance_id(beat.instance_id)} is not registered; register it first")
        actor.user.check_covers(beat.instance_id, registration.instance.info.name)
        if registration.live and beat.repeats(registration.instance) and not registration.changing:
            self.renew((registration,), actor.door, holder)
            return registration
        changed = await self.store.change(
            beat.instance_id,
            generation=beat.generation,
            info=beat.info,
            reported=beat.status,
            terms=self._terms(actor.door, holder),
            actor=actor,
        )
        self._heard(1, actor.door, holder)
        return changed

    async def deregister(self, instance_id: str, *, generation: int = 0, actor: Actor) -> None:
        """Remove an instance at once.

        Raises:
            NotFoundError: the id is unknown.
            PermissionDeniedError: it is of a service that the user may not change.
            SupersededError: the generation is not the current one.

        """
        check_instance_id(instance_id)
        await self.store.deregister(instance_id, generation=generation, actor=actor)
        self.deregistrations[actor.door] += 1

    async def drain(self, instance_id: str, seconds: float = DEFAULT, *, actor: Actor) -> Registration:
        """Take an instance out of service for so many seconds from now on, whatever it says itself; again: with another end.

        It holds for the id: for every later registration of it too, until its end or `undrain`.

        Raises:
            InvalidArgumentError: `duration` is no time that a drain may last.
            NotFoundError: the id is unknown.
            ResourceExhaustedError: too many are drained.
            UnavailableError: it cannot be kept now.

        """
        check_instance_id(instance_id)
        until = self._clock.wall_ms() + round(checked(seconds) * 1000)
        return await self.store.drain(instance_id, until=until, actor=actor)

    async def undrain(self, instance_id: str, *, actor: Actor) -> Registration | None:
        """Put an instance back into service; return it, if it is registered. One that is not drained stays as it is.

        Raises:
            NotFoundError: the id is neither registered nor drained.
            UnavailableError: it cannot be kept now.

        """
        return await self.store.undrain(check_instance_id(instance_id), actor=actor)

    async def disconnect(self, registrations: Iterable[Registration], actor: Actor) -> None:
        """End the leases of instances whose connection broke."""
        await self.store.end(registrations, StatusReason.DISCONNECTED, now=self._clock.now(), actor=actor)

    def _terms(self, door: Door, holder: Holder | None = None) -> Terms:
        """Return what a heartbeat grants that comes now."""
        ttl = self._rest_ttl if door is _REST else self.policy.ttl
        return Terms(self._clock.now() + ttl, self._clock.wall_ms(), holder)

    # Reading

    def get(self, instance_id: str) -> Registration:
        """Return one instance.

        Raises:
            InvalidArgumentError: the id is malformed.
            NotFoundError: the id is unknown.

        """
        registration = self.store.get(check_instance_id(instance_id))
        if registration is None:
            raise NotFoundError(f"{instance_id} is not registered")
        return registration

    def service(self, name: str) -> Service:
        """Return one service.

        Raises:
            NotFoundError: no instance has this name.

        """
        service = self.store.service(name)
        if service is None:
            raise NotFoundError(f"there is no service {shown(name)}")
        return service

    def count_services(self, *, prefix: str = "", status: ServiceStatus | None = None) -> int:
        """Return how many services there are."""
        if status is None:
            return self.store.count_services(prefix)
        if not prefix:
            totals = self.store.totals()
            return totals.services_up if status is ServiceStatus.UP else totals.services - totals.services_up
        return sum(1 for _ in self.services(prefix=prefix, status=status))

    def services(self, *, after: str = "", prefix: str = "", status: ServiceStatus | None = None) -> Iterator[Service]:
        """Yield services sorted by name, beginning at the name `after`; not to be carried across a suspension."""
        if len(prefix) > MAX_NAME:
            raise InvalidArgumentError(f"name_prefix has more than {MAX_NAME} characters", field="name_prefix")
        return (service for service in self.store.services(after, prefix) if status is None or service.status is status)

    def now_ms(self) -> int:
        """Return the time of the wall clock, in milliseconds since the epoch."""
        return self._clock.wall_ms()

    def time_left(self, registration: Registration) -> float:
        """Return after how many seconds the lease ends unless it is renewed; 0 when it has ended, or is about to."""
        return max(0.0, max(registration.deadline, self.store.held_until) - self._clock.now()) if registration.live else 0.0

    # Watching

    @property
    def warming(self) -> bool:
        """Whether the registry started empty so recently that who is missing may only not have come back yet."""
        return self.store.feed.warming

    def watch(self, names: Iterable[str], token: str, wake: Callable[[], None]) -> Watcher:
        """Watch services; see `luna_grpc.watch.Feed.watch`.

        Raises:
            InvalidArgumentError: too many names.

        """
        wanted = frozenset(names)
        if len(wanted) > MAX_WATCHED_NAMES:
            raise InvalidArgumentError(f"{len(wanted)} names are given; at most {MAX_WATCHED_NAMES} are allowed", field="names")
        return self.store.feed.watch(wanted, token, wake)

    @property
    def stale_for(self) -> float:
        """For how many seconds what is known here may be out of date already, because what replicas share is away; 0: it is not."""
        since = self.store.stale_since
        return 0.0 if since is None else self._clock.now() - since

    # Time

    def _warm_up_again(self) -> None:
        self._warm_at = self._clock.now() + self.policy.warmup

    @property
    def held(self) -> bool:
        """Whether nothing expires for now, because the registry has just been deaf or was started with what it knew before."""
        return self._clock.now() < self.store.held_until

    @property
    def deaf(self) -> bool:
        """Whether the process stood still so recently that clients may only not have got through."""
        return self._clock.since_tick() >= self.policy.stall or self.held

    async def sweep(self) -> SweepReport:
        """Do one slice of what time brings: find out about a stall, end leases, evict, end the warming up."""
        gap = self._clock.tick()
        now = self._clock.now()
        stalled = gap if gap >= self.policy.stall else 0.0
        if stalled:
            self.stalls += 1
            self._hold(now)
        if self.warming and now >= self._warm_at:
            self.store.feed.warmed()
        # Each of them may have to be told to every watcher.
        limit = max(1, min(SWEEP_LIMIT, SWEEP_TELLINGS // (1 + self.store.feed.audience)))
        swept = await self.store.sweep(now, limit)
        self.expired += swept.expired
        self.evicted += swept.evicted
        if swept.expired:
            self.lateness.observe(swept.late)
        if now >= self.store.held_until:
            self._held_since = None
        return SweepReport(swept, stalled)

    def _hold(self, now: float) -> None:
        """Give everyone a full TTL in which the registry listens.

        Stalls that follow each other closely hold for no more than `MAX_HOLD` TTLs of listening in all: a registry that stalls
        again and again must still find out who is gone.
        """
        self._held_since = now if self._held_since is None else self._held_since
        self.store.hold(min(now + self.policy.ttl, self._held_since + MAX_HOLD * self.policy.ttl))
