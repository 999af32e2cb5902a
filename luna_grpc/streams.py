"""Heartbeat streams: which generation an id stands for, and what becomes of the instances when a stream breaks."""

from collections.abc import Iterable
from typing import Final

from luna_grpc.errors import LunaError, NotFoundError, ResourceExhaustedError, SupersededError
from luna_grpc.model import Actor, OnDisconnect
from luna_grpc.registry import Beat, Registry
from luna_grpc.store import Registration

MOST: Final = 100_000
"""How many ids a stream remembers unless told otherwise."""


class HeartbeatStream:
    """The heartbeats of one long-lived stream.

    An id is bound to one generation at its first mention; from then on it renews that generation only, so a worker that was
    replaced neither renews its successor nor takes it down. It remembers at most so many ids: `most`.
    """

    def __init__(self, registry: Registry, actor: Actor, most: int = MOST) -> None:
        self.on_disconnect = OnDisconnect.KEEP
        self._registry = registry
        self._store = registry.store
        self._actor = actor
        self._limited = bool(actor.user.prefixes)
        self._most = most
        self.closed = False
        """Whether it has ended."""
        self._bound: dict[str, Registration] = {}
        # Generations that were named and are not the current ones: bare mentions must not fall back to a successor.
        self._named: dict[str, int] = {}

    def bind(self, instance_id: str, generation: int) -> None:
        """Let an id renew this generation only from now on, whatever becomes of the heartbeat that names it; 0 names none."""
        if generation and generation != self._generation(instance_id) and not self._is_too_much(instance_id):
            self._bound.pop(instance_id, None)
            self._named[instance_id] = generation

    def renew(self, instance_ids: Iterable[str]) -> list[str]:
        """Renew leases as they are; return those that are not live, for which it takes more: see `beat`."""
        bound = self._bound
        live: list[Registration] = []
        others: list[str] = []
        for instance_id in instance_ids:
            registration = bound.get(instance_id) or self._first_mentioned(instance_id)
            if registration is not None and registration.live and (not self._limited or self._may_change(registration)):
                live.append(registration)
            else:
                others.append(instance_id)
        if live:
            self._registry.renew(live, self._actor.door, self)
        return others

    def _first_mentioned(self, instance_id: str) -> Registration | None:
        if instance_id in self._named or self._is_full:
            return None
        registration = self._store.get(instance_id)
        if registration is not None:
            self._bound[instance_id] = registration
        return registration

    def renewed(self, beat: Beat) -> bool:
        """Renew a lease by a heartbeat that says nothing new; return False when it takes more: see `beat`."""
        self.bind(beat.instance_id, beat.generation)
        registration = self._bound.get(beat.instance_id) or self._first_mentioned(beat.instance_id)
        if registration is None or not registration.live or registration.changing or not beat.repeats(registration.instance):
            return False
        if self._limited and not self._may_change(registration):
            return False
        self._registry.renew((registration,), self._actor.door, self)
        return True

    def bound(self, beat: Beat) -> Beat:
        """Return a heartbeat for the generation that its id stands for now, whatever is said of the id before it is handled."""
        return beat._replace(generation=self._generation(beat.instance_id))

    async def beat(self, beat: Beat) -> None:
        """Handle one heartbeat, whatever it says.

        Raises:
            LunaError: see `Registry.heartbeat`.
            ResourceExhaustedError: the stream speaks of as many instances as it may already.

        """
        if self._is_too_much(beat.instance_id):
            raise ResourceExhaustedError(
                f"this stream has named {self._most} instances, the most that one may (LUNA_MAX_INSTANCES_PER_STREAM): "
                "open another stream for further ones; a new stream begins with none"
            )
        generation = beat.generation or self._generation(beat.instance_id)
        try:
            registration = await self._registry.heartbeat(beat._replace(generation=generation), actor=self._actor, holder=self)
        except SupersededError:
            if self._stands_for(beat.instance_id, generation):
                self._bound.pop(beat.instance_id, None)
                self._named[beat.instance_id] = generation
            raise
        if not self.closed and self._stands_for(beat.instance_id, registration.instance.generation):
            self._bound[beat.instance_id] = registration
            self._named.pop(beat.instance_id, None)

    def close(self, *, broken: bool) -> list[Registration]:
        """End the stream; return the instances that are to be taken down for it, see `take_down`.

        That is nobody, unless the stream broke, `on_disconnect` asks for it, and the registry itself was not deaf.
        """
        self._registry.broken_streams += broken
        held = [registration for registration in self._bound.values() if self._holds(registration)]
        self.closed = True
        self._bound.clear()  # the registrations still name this stream as their holder: leave no cycle behind
        return held if broken and self.on_disconnect is not OnDisconnect.KEEP and not self._registry.deaf else []

    async def heard_only_here(self, held: list[Registration]) -> list[Registration]:
        """Leave out those whose client goes on at another replica.

        Raises:
            UnavailableError: nobody can tell now.

        """
        return await self._registry.store.heard_only_here(held) if held else held

    async def take_down(self, registration: Registration) -> None:
        """Do what `on_disconnect` asks, unless someone else has renewed the lease meanwhile."""
        if not self._holds(registration):
            return
        if self.on_disconnect is OnDisconnect.MARK_DOWN or not await self._is_gone(registration):
            await self._registry.disconnect([registration], self._actor)

    async def _is_gone(self, registration: Registration) -> bool:
        """Deregister an instance; return whether it is gone, whoever did it."""
        instance = registration.instance
        try:
            await self._registry.deregister(instance.info.instance_id, generation=instance.generation, actor=self._actor)
        except (NotFoundError, SupersededError):
            return True
        except LunaError:  # it cannot be removed now; then at least its lease ends
            return False
        return True

    @property
    def _is_full(self) -> bool:
        return len(self._bound) + len(self._named) >= self._most

    def _is_too_much(self, instance_id: str) -> bool:
        """Whether an id would be one more than may be remembered."""
        return self._is_full and instance_id not in self._bound and instance_id not in self._named

    def _may_change(self, registration: Registration) -> bool:
        said = registration.instance.info
        return self._actor.user.covers(said.instance_id, said.name)

    def _holds(self, registration: Registration) -> bool:
        return registration.live and registration.holder is self

    def _stands_for(self, instance_id: str, generation: int) -> bool:
        """Whether an id has not been bound to another generation meanwhile."""
        return self._generation(instance_id) in (0, generation)

    def _generation(self, instance_id: str) -> int:
        registration = self._bound.get(instance_id)
        if registration is not None:
            return registration.instance.generation
        return self._named.get(instance_id, 0)
