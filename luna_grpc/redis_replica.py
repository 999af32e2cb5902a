"""The memory of a replica: it takes on what was changed, by whichever replica, when that comes back from Redis."""

from collections.abc import Mapping
from typing import Final

from luna_grpc.capacity import Capacity
from luna_grpc.clock import Clock
from luna_grpc.events import Change
from luna_grpc.memory import MemoryStore
from luna_grpc.redis_link import Link, Value, actor, read
from luna_grpc.store import Registration, Terms

_KINDS: Final = {change.value: change for change in Change}


class Replica(MemoryStore):
    """See the module."""

    def __init__(self, clock: Clock, *, evict_after: float, capacity: Capacity) -> None:
        super().__init__(clock, evict_after=evict_after, capacity=capacity)
        self.revisions: dict[str, int] = {}
        """Of each instance that is there: of its latest change."""
        self._moved: dict[str, Registration] = {}  # those that have left a service and are to join another one

    def known(self, instance_id: str) -> int:
        """Return the revision of what is known of an instance; 0: nothing."""
        return self.revisions.get(instance_id, 0)

    def apply(self, revision: int, fields: Mapping[bytes, bytes]) -> None:
        """Carry out a change that was made, and tell of it."""
        instance_id, change = fields[b"id"].decode(), _KINDS[fields[b"kind"].decode()]
        by = actor(fields[b"who"])
        held = self.get(instance_id)
        if not fields[b"value"]:
            self.revisions.pop(instance_id, None)
            if held is not None:
                self._remove(held, by, change)
                if change is Change.MOVED:  # it comes back at once, into another service
                    self._moved[instance_id] = held
            return
        value = read(fields[b"value"])
        self.revisions[instance_id] = revision
        moved = self._moved.pop(instance_id, None)
        if moved is not None and moved.instance.generation == value.instance.generation:
            if moved.instance.up != value.instance.up:
                self._status_changes.note(value.instance)
            moved.instance, moved.live = value.instance, value.instance.ended is None
            self._place(None, moved, by)
            return
        if held is not None and held.instance.generation == value.instance.generation:
            held.live = value.instance.ended is None
            self._update(held, value.instance, by, None if change is Change.OTHER else change)
            return
        if held is not None:
            held.live = False
        self._place(held, self._made_of(value), by)

    def _made_of(self, value: Value) -> Registration:
        # When its lease ends only the replica knows that hears of it, and Redis.
        registration = Registration(value.instance, value.owner, Terms(0.0, self._clock.wall_ms()))
        registration.live = value.instance.ended is None
        return registration

    async def take_all(self, link: Link, revision: int) -> int:
        """Take on everything that Redis knows, without telling; return up to which revision, which is not below the one given.

        Raises:
            UnavailableError: Redis does not answer.

        """
        self._moved.clear()
        seen = set()
        async for value in link.instances():
            seen.add(value.instance.info.instance_id)
            self.take(value)
        for instance_id in [each for each in self._registrations if each not in seen]:
            self.drop(instance_id)
        while entries := await link.changes(revision):  # what has changed while it was read
            for number, fields in entries:
                if fields[b"value"]:
                    self.take(read(fields[b"value"]))
                else:
                    self.drop(fields[b"id"].decode(), number)
                revision = number
        return revision

    def take(self, value: Value) -> None:
        """Take on what is known of an instance, without telling: whoever watches starts over."""
        now = value.instance
        instance_id = now.info.instance_id
        if value.revision <= self.revisions.get(instance_id, -1):
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
        self.revisions[instance_id] = value.revision

    def drop(self, instance_id: str, revision: int | None = None) -> None:
        """Forget an instance that left at a revision, without telling; None: it is not there, whenever it left."""
        held = self.get(instance_id)
        if held is None or (revision is not None and self.known(instance_id) > revision):
            return
        held.live = False
        self._services.leave(held.instance)
        del self._registrations[instance_id]
        self.revisions.pop(instance_id, None)
