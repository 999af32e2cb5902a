"""The store in this process's memory: the default. No call of it ever suspends."""

import secrets
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Final, NamedTuple

from luna_grpc.capacity import UNLIMITED, Capacity, Room
from luna_grpc.clock import Clock
from luna_grpc.drains import Drains
from luna_grpc.errors import AlreadyExistsError, NotFoundError, SupersededError
from luna_grpc.events import Change, Event, EventType
from luna_grpc.journal import Journal
from luna_grpc.leases import NEVER, Evictions, LeaseQueue
from luna_grpc.model import ITSELF, Actor, Info, Instance, Status, StatusReason
from luna_grpc.services import Services, StatusChanges
from luna_grpc.store import Registration, Service, Swept, Terms, Totals
from luna_grpc.watch import Feed

_DEADLINE: Final = attrgetter("deadline")
# On Python 3.11, to name a member of an enum takes as long as to call a function; and 100,000 leases may end at once.
_EXPIRED: Final = StatusReason.LEASE_EXPIRED
_UPSERTED: Final = EventType.UPSERTED
_REMOVED: Final = EventType.REMOVED
_STATUS: Final = Change.STATUS
_OTHER: Final = Change.OTHER


class Decided(NamedTuple):
    """What is to become of an id, by what the store knows now."""

    held: Registration | None
    """Who holds the id; with the same generation as `now`, it stays and takes that on."""
    now: Instance
    owner: str

    @property
    def new(self) -> bool:
        """Whether nobody holds the id."""
        return self.held is None

    @property
    def joins(self) -> bool:
        """Whether the service has an instance more then."""
        return self.held is None or self.held.instance.info.name != self.now.info.name


class MemoryStore:
    """See `luna_grpc.store.Store` for the contract.

    `evict_after` is in seconds, counted from the end of a lease.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        evict_after: float = NEVER,
        capacity: Capacity = UNLIMITED,
        warming: bool = False,
        epoch: str = "",
    ) -> None:
        self.epoch = epoch or secrets.token_hex(8)
        self.feed = Feed(self._present, warming=warming)
        self._clock = clock
        self._room = Room(capacity)
        self._registrations: dict[str, Registration] = {}
        self._services = Services()
        self._drains = Drains()
        self.journal = Journal(self._services.up_in, clock.wall_ms)
        self.feed.observe(self.journal.note)
        self._status_changes = StatusChanges()
        self._leases: LeaseQueue[Registration] = LeaseQueue()
        self._evictions = Evictions(evict_after)
        self.stale_since: float | None = None  # what is known here is always the truth
        # From the wall clock, so that no restart ever hands out a generation again.
        self._last_generation = clock.wall_ms() * 1000

    # Reading

    def get(self, instance_id: str) -> Registration | None:
        """Return the current registration of an id."""
        return self._registrations.get(instance_id)

    def service(self, name: str) -> Service | None:
        """Return one service; None when it has no instance."""
        service = self._services.get(name)
        return None if service is None else Service(name, service.members.values(), service.up)

    def services(self, after: str = "", prefix: str = "") -> Iterator[Service]:
        """Return services sorted by name."""
        return self._services.sorted(after, prefix)

    def count_services(self, prefix: str = "") -> int:
        """Return how many services have a name that begins with `prefix`."""
        return self._services.count(prefix)

    def count(self) -> int:
        """Return how many instances are registered."""
        return len(self._registrations)

    def totals(self) -> Totals:
        """Return how many instances and services there are."""
        return Totals(len(self._registrations), self._services.instances_up, len(self._services), self._services.up)

    def drains(self) -> Mapping[str, int]:
        """Return the ids that are drained, and until when."""
        return self._drains

    def status_changes(self) -> Mapping[tuple[Status, StatusReason], int]:
        """Return how often the effective status of an instance has changed."""
        return self._status_changes.counts()

    def _present(self, names: frozenset[str]) -> Iterator[Event]:
        for name in sorted(names) if names else self._services.names():
            service = self._services.get(name)
            for registration in list(service.members.values()) if service else ():
                yield Event(_UPSERTED, registration.instance, registration.last_heartbeat)

    # Renewing

    def renew(self, registrations: Iterable[Registration], terms: Terms) -> None:
        """Move deadlines."""
        deadline, wall_ms, holder = terms
        for registration in registrations:
            if deadline > registration.deadline:  # noqa: PLR1730 - twice as fast as max(), on the hottest path of all
                registration.deadline = deadline
            registration.last_heartbeat = wall_ms
            registration.holder = holder

    # Changing: first decided, then carried out. Another engine can keep what is decided in between.

    async def register(
        self, info: Info, reported: Status, *, owner: str, replace: bool, terms: Terms, actor: Actor
    ) -> Registration:
        """Register under a new generation, or give the same owner its registration back."""
        return self._carry_out(
            self._registering(info, reported, owner=owner, replace=replace, terms=terms, actor=actor), terms, actor
        )

    async def change(
        self,
        instance_id: str,
        *,
        generation: int,
        info: Info | None,
        reported: Status | None,
        terms: Terms,
        actor: Actor,
    ) -> Registration:
        """Renew and replace what is not None."""
        return self._carry_out(self._changing(instance_id, generation, info, reported, actor), terms, actor)

    async def end(self, registrations: Iterable[Registration], reason: StatusReason, *, now: float, actor: Actor) -> None:
        """End leases."""
        for registration in registrations:
            if registration.live:
                self._end(registration, reason, now, actor)

    async def heard_only_here(self, registrations: Iterable[Registration]) -> list[Registration]:
        """Return all of them: there are no other replicas."""
        return list(registrations)

    async def deregister(self, instance_id: str, *, generation: int, actor: Actor) -> None:
        """Remove an instance."""
        self._remove(self._current(instance_id, generation, actor), actor, Change.DEREGISTERED)

    async def drain(self, instance_id: str, *, until: int, actor: Actor) -> Registration:
        """Take an instance out of service."""
        registration = self._draining(instance_id, actor)
        self._drain(registration, until, actor)
        return registration

    async def undrain(self, instance_id: str, *, actor: Actor) -> Registration | None:
        """Put an instance back into service."""
        registration = self._undraining(instance_id)
        self._undrain(instance_id, actor)
        return registration

    def _draining(self, instance_id: str, actor: Actor) -> Registration:
        registration = self._current(instance_id, 0, actor)
        self._drains.check_room(instance_id)
        return registration

    def _undraining(self, instance_id: str) -> Registration | None:
        registration = self._registrations.get(instance_id)
        if registration is None and instance_id not in self._drains:
            raise NotFoundError(f"{instance_id} is neither registered nor drained")
        return registration

    def _registering(self, info: Info, reported: Status, *, owner: str, replace: bool, terms: Terms, actor: Actor) -> Decided:
        actor.user.check_covers(info.instance_id, info.name)
        held = self._registrations.get(info.instance_id)
        if held is not None and held.instance.info.name != info.name:
            actor.user.check_covers(info.instance_id, held.instance.info.name)
        if held is not None and owner and held.owner == owner:
            self._check_room(held, info)
            return Decided(held, held.instance._replace(info=info, reported=reported, ended=None), owner)
        if held is not None and held.live and not replace:
            raise AlreadyExistsError(
                f"{info.instance_id} is registered already: send heartbeats instead, deregister it first, "
                "or (over gRPC) register with `replace` or as the same `owner`"
            )
        self._check_room(held, info)
        self._last_generation += 1
        return Decided(held, Instance(info, reported, None, self._last_generation, terms.wall_ms), owner)

    def _changing(self, instance_id: str, generation: int, info: Info | None, reported: Status | None, actor: Actor) -> Decided:
        held = self._current(instance_id, generation, actor)
        was = held.instance
        if info is not None:
            actor.user.check_covers(instance_id, info.name)
            self._check_room(held, info)
        now = was._replace(info=was.info if info is None else info, reported=reported or was.reported, ended=None)
        return Decided(held, now, held.owner)

    def _check_room(self, held: Registration | None, info: Info) -> None:
        """Refuse what there is no room for; `held` is what it takes the place of."""
        if held is None:
            self._room.check(len(self._registrations))
        if held is None or held.instance.info.name != info.name:
            service = self._services.get(info.name)
            self._room.check_service(info.name, len(service.members) if service else 0)

    def _carry_out(self, decided: Decided, terms: Terms, actor: Actor) -> Registration:
        held, now, owner = decided
        drained_until = self._drains.get(now.info.instance_id)
        if drained_until != now.drained_until:  # it is a new generation, or the drain has ended since it was decided
            now = now._replace(drained_until=drained_until)
        if held is not None and held.instance.generation == now.generation:
            return self._renew_and_change(held, now, terms, actor)
        registration = Registration(now, owner, terms)
        if held is None:
            self._leases.add(registration)
        else:
            held.live = False
            self._leases.replace(held, registration)
        self._place(held, registration, actor)
        return registration

    # Time

    def hold(self, until: float) -> None:
        """Declare nothing before `until`."""
        self._leases.hold(until)

    @property
    def held_until(self) -> float:
        """The latest moment given to `hold`."""
        return self._leases.held_until

    async def sweep(self, now: float, limit: int) -> Swept:
        """End what has run out and evict what ended long ago."""
        due = self._leases.due(now, limit)
        late = now - max(min(map(_DEADLINE, due)), self._leases.held_until) if due else 0.0
        for registration in due:
            self._end(registration, _EXPIRED, now, ITSELF)
        evicted = 0
        if now >= self._leases.held_until:
            for instance_id in self._evictions.due(now, limit):
                registration = self._registrations[instance_id]
                if not registration.changing:  # else it may come back, and would find its place taken
                    self._remove(registration, ITSELF, Change.EVICTED)
                    evicted += 1
        over = self._drains.over(self._clock.wall_ms(), limit)
        for instance_id in over:
            self._undrain(instance_id, ITSELF)
        return Swept(len(due), evicted, more=self._leases.pending(now) or limit in (evicted, len(over)), late=late)

    # The steps that the changes are made of

    def _current(self, instance_id: str, generation: int, actor: Actor) -> Registration:
        registration = self._registrations.get(instance_id)
        if registration is None:
            raise NotFoundError(f"{instance_id} is not registered")
        actor.user.check_covers(instance_id, registration.instance.info.name)
        if generation not in (0, registration.instance.generation):
            raise SupersededError(
                f"generation {generation} of {instance_id} is not the current one: another registration has taken it over"
            )
        return registration

    def _renew_and_change(self, registration: Registration, now: Instance, terms: Terms, actor: Actor) -> Registration:
        self.renew((registration,), terms)
        if not registration.live:
            registration.live = True
            self._evictions.discard(now.info.instance_id)
        self._leases.add(registration)
        if now != registration.instance:
            self._update(registration, now, actor)
        return registration

    def _end(self, registration: Registration, reason: StatusReason, now: float, actor: Actor) -> None:
        registration.live = False
        self._evictions.add(registration.instance.info.instance_id, now)
        self._update(registration, registration.instance._replace(ended=reason), actor)

    def _drain(self, registration: Registration, until: int, actor: Actor) -> None:
        now = registration.instance._replace(drained_until=until)
        self._drains.add(now.info.instance_id, until)
        self._update(registration, now, actor, Change.DRAINED)

    def _undrain(self, instance_id: str, actor: Actor) -> None:
        self._drains.remove(instance_id)
        registration = self._registrations.get(instance_id)
        if registration is not None and registration.instance.drained_until is not None:
            self._update(registration, registration.instance._replace(drained_until=None), actor, Change.UNDRAINED)

    def _update(self, registration: Registration, now: Instance, actor: Actor, change: Change | None = None) -> None:
        """Let a registration take on another state, and tell; `change` None: what that is follows from the state."""
        was = registration.instance
        difference = now.up - was.up
        if difference:
            self._status_changes.note(now)
        if was.info.name == now.info.name:
            registration.instance = now
            self._services.changed(now.info.name, difference)
        else:
            self._services.leave(was)
            self.feed.publish(_REMOVED, was, registration.last_heartbeat, actor, Change.MOVED)
            registration.instance = now
            self._services.join(registration)
            change = change or Change.REGISTERED
        self.feed.publish(_UPSERTED, now, registration.last_heartbeat, actor, change or (_STATUS if difference else _OTHER))

    def _place(self, held: Registration | None, registration: Registration, actor: Actor) -> None:
        """Put a new registration in the place of the one that held the id."""
        now = registration.instance
        info = now.info
        self._evictions.discard(info.instance_id)
        self._registrations[info.instance_id] = registration
        if held is not None and held.instance.up != now.up:
            self._status_changes.note(now)
        if held is not None and held.instance.info.name == info.name:
            self._services.replace(held.instance, registration)
        else:
            if held is not None:
                self._services.leave(held.instance)
                self.feed.publish(_REMOVED, held.instance, held.last_heartbeat, actor, Change.MOVED)
            self._services.join(registration)
        self.feed.publish(_UPSERTED, now, registration.last_heartbeat, actor, Change.REGISTERED)

    def _remove(self, registration: Registration, actor: Actor, change: Change) -> None:
        registration.live = False
        self._leases.forget(registration)
        instance = registration.instance
        del self._registrations[instance.info.instance_id]
        self._evictions.discard(instance.info.instance_id)
        self._services.leave(instance)
        self.feed.publish(_REMOVED, instance, registration.last_heartbeat, actor, change)
