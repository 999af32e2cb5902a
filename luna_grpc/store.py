"""Where registrations are kept: the seam between the use cases and an engine.

A store keeps registrations, declares leases ended and publishes every visible change to its feed, in this order: the change is
made, the feed is told, the call returns. What a call raises, it has not done, but for one thing: a change is also a heartbeat, and
as such it counts at once, even if what it changes cannot be kept.

Changing (`register`, `change`, `end`, `deregister`, `sweep`) may suspend, because another engine may have to be asked; each such
call is atomic, so the decision is made by the engine and not by its caller. Reading and renewing are synchronous and local.

The `Registration` objects handed out are the store's own. Callers read them, hold on to them as a name for one generation, and
never write to them. `tests/store_contract.py` is this contract as tests; every store passes it.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from luna_grpc.journal import Journal
from luna_grpc.model import Actor, Info, Instance, ServiceStatus, Status, StatusReason
from luna_grpc.watch import Feed


class Echo(NamedTuple):
    """What a heartbeat said, letter by letter, and how it was answered: the next one most likely says the same."""

    said: int
    """The hash of its bytes: 64 bits, with a key that each process chooses for itself."""
    instance: Instance
    """As it was answered. Once the registration has another one, the echo is worth nothing."""
    answer: bytes
    """As far as it does not change with each heartbeat."""

    def repeated_by(self, said: int, registration: "Registration") -> bool:
        """Whether what is `said` now can be answered from here, and changes nothing."""
        return said == self.said and self.instance is registration.instance and registration.live and not registration.changing


class Holder(Protocol):
    """The heartbeat stream that a heartbeat came by."""

    closed: bool
    """Whether it has ended. Then what it said, and what is still to be carried out, brings nobody back."""


class Registration:
    """One generation of one instance, and its lease.

    A new generation is a new object, so holding one is to be bound to that generation. `live` is False once its lease has ended or
    the generation is no longer the current one.
    """

    __slots__ = ("changing", "deadline", "echo", "entry", "holder", "instance", "last_heartbeat", "live", "owner")

    def __init__(self, instance: Instance, owner: str, terms: "Terms") -> None:
        self.instance = instance
        self.owner = owner
        """Names the process that registered it; may be empty."""
        self.deadline = terms.deadline
        self.last_heartbeat = terms.wall_ms
        """Milliseconds since the epoch."""
        self.holder = terms.holder
        """The heartbeat stream that renewed it last; None when something else did."""
        self.live = True
        self.changing = False
        """Whether a change of it waits for another engine: then what a heartbeat repeats may not be the last word."""
        self.entry: list[Any] | None = None
        self.echo: Echo | None = None
        """Room for an edge to keep what it would otherwise work out at each heartbeat."""


class Terms(NamedTuple):
    """What a heartbeat grants, and when it came."""

    deadline: float
    """Monotonic seconds: when the lease ends unless renewed."""
    wall_ms: int
    """Milliseconds since the epoch: what is shown as the last heartbeat."""
    holder: Holder | None = None
    """The heartbeat stream that it came by."""


class Service(NamedTuple):
    """All instances of one name. Not to be carried across a suspension: `registrations` is the store's own view."""

    name: str
    registrations: Collection[Registration]
    """The one registered first comes first."""
    up: int
    """How many of them are OK."""

    @property
    def description(self) -> str:
        """The description of the instance registered first."""
        return next(iter(self.registrations)).instance.info.description

    @property
    def status(self) -> ServiceStatus:
        """UP while one instance is OK."""
        return ServiceStatus.UP if self.up else ServiceStatus.DOWN


class Totals(NamedTuple):
    """How many there are of what."""

    instances: int
    instances_up: int
    """How many of them are OK."""
    services: int
    services_up: int
    """How many of them have an instance that is OK."""


class Swept(NamedTuple):
    """What one slice of a sweep did."""

    expired: int
    evicted: int
    more: bool
    """Whether another slice is due at once."""
    late: float = 0.0
    """Seconds from the moment at which the first of those that expired could have been declared."""


class Store(Protocol):
    """An engine for registrations."""

    @property
    def epoch(self) -> str:
        """A name for what this store remembers; another one means that registrations were lost."""

    @property
    def feed(self) -> Feed:
        """Where every visible change is published."""

    @property
    def journal(self) -> Journal:
        """What happened of late."""

    @property
    def stale_since(self) -> float | None:
        """Monotonic seconds from which on what is known here may be out of date; None: it is not."""

    # Reading: synchronous, local, never changes anything.

    def get(self, instance_id: str) -> Registration | None:
        """Return the current registration of an id."""

    def service(self, name: str) -> Service | None:
        """Return one service; None when it has no instance."""

    def services(self, after: str = "", prefix: str = "") -> Iterator[Service]:
        """Yield the services whose name begins with `prefix` and comes at or after `after`, sorted by name.

        Not to be carried across a suspension.
        """

    def count_services(self, prefix: str = "") -> int:
        """Return how many services have a name that begins with `prefix`, without walking them."""

    def count(self) -> int:
        """Return how many instances are registered."""

    def totals(self) -> Totals:
        """Return how many instances and services there are, without walking them."""

    def drains(self) -> Mapping[str, int]:
        """Return the ids that are drained, registered or not, each with the end of that in milliseconds since the epoch."""

    def status_changes(self) -> Mapping[tuple[Status, StatusReason], int]:
        """Return how often the effective status of an instance has changed since the start, by what it became and why."""

    # Renewing: synchronous and local, publishes nothing.

    def renew(self, registrations: Iterable[Registration], terms: Terms) -> None:
        """Move the deadlines of live registrations; a deadline never moves backwards."""

    # Changing: atomic, may suspend.

    async def register(
        self, info: Info, reported: Status, *, owner: str, replace: bool, terms: Terms, actor: Actor
    ) -> Registration:
        """Register under a new generation, when the id is free, its lease has ended, or `replace` is set.

        A registration of the same non-empty `owner` keeps its generation and takes on `info` and `reported`.

        Raises:
            AlreadyExistsError: the id is held by a live lease.
            PermissionDeniedError: `actor` may not change what the id stands for, or is to stand for.
            ResourceExhaustedError: the id is new and the store is full, or new in the service and that is full. What takes
                the place of another instance of the same service is never refused for this.
            UnavailableError: it cannot be kept now; the same holds for `change` and `deregister`.

        """

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
        """Renew, bring back an ended lease, and replace what is not None; the first two at once, before any suspension.

        A changed name is published as REMOVED and UPSERTED; a renewal that changes nothing visible is not published.

        Raises:
            NotFoundError: the id is unknown.
            PermissionDeniedError: `actor` may not change what the id stands for, or is to stand for.
            ResourceExhaustedError: the name is changed to that of a service which is full.
            SupersededError: `generation` is neither 0 nor the current one.

        """

    async def end(self, registrations: Iterable[Registration], reason: StatusReason, *, now: float, actor: Actor) -> None:
        """End the leases of those registrations that are still live; the time until they are evicted counts from `now`."""

    async def heard_only_here(self, registrations: Iterable[Registration]) -> list[Registration]:
        """Return those of which no other replica has heard since this one did: only they may be taken down for what broke here."""

    async def deregister(self, instance_id: str, *, generation: int, actor: Actor) -> None:
        """Remove an instance.

        Raises:
            NotFoundError: the id is unknown.
            PermissionDeniedError: `actor` may not change what the id stands for.
            SupersededError: `generation` is neither 0 nor the current one.

        """

    async def drain(self, instance_id: str, *, until: int, actor: Actor) -> Registration:
        """Take an instance out of service until a time in milliseconds since the epoch; again: with another end.

        It holds for the id, whatever becomes of the registration, and a sweep ends it. No renewal: that is its client's.

        Raises:
            NotFoundError: the id is unknown.
            ResourceExhaustedError: too many ids are drained.

        """

    async def undrain(self, instance_id: str, *, actor: Actor) -> Registration | None:
        """Put an instance back into service; return it if it is registered. One that is not drained stays as it is.

        Raises:
            NotFoundError: the id is neither registered nor drained.

        """

    # Time: driven from outside.

    def hold(self, until: float) -> None:
        """Declare nothing expired or evicted before `until` (monotonic seconds)."""

    @property
    def held_until(self) -> float:
        """The latest moment given to `hold`."""

    async def sweep(self, now: float, limit: int) -> Swept:
        """End what has run out by `now` and evict what ended long ago, looking at no more than `limit` of each.

        Drains whose time is over end too, no more than `limit` of them.
        """
