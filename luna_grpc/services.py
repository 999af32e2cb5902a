"""The services of a store in memory: which instances each has, and how many of them are OK, each and all together."""

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final

from luna_grpc.model import Instance, Status, StatusReason
from luna_grpc.store import Registration, Service

AFTER_ALL: Final = "\U0010ffff"
"""Sorts after every character of a name."""


class _Members:
    """The instances of one name, the first registered first, and how many of them are OK."""

    __slots__ = ("members", "up")

    def __init__(self) -> None:
        self.members: dict[str, Registration] = {}
        self.up = 0


class StatusChanges:
    """How often the effective status of an instance has become OK, and DOWN for which reason."""

    def __init__(self) -> None:
        self._up = 0
        self._down = dict.fromkeys(StatusReason, 0)

    def note(self, now: Instance) -> None:
        """Count that an instance has another status than before."""
        if now.up:
            self._up += 1
        else:
            self._down[now.reason] += 1

    def counts(self) -> Mapping[tuple[Status, StatusReason], int]:
        """Return how often, by what it became and why."""
        down = {(Status.DOWN, reason): times for reason, times in self._down.items()}
        return {(Status.OK, StatusReason.REPORTED): self._up, **down}


class Services:
    """Services by name; one is there for as long as it has an instance."""

    def __init__(self) -> None:
        self._services: dict[str, _Members] = {}
        self._names: list[str] = []  # the keys of _services, sorted
        self.instances_up = 0
        """How many instances are OK, of all services."""
        self.up = 0
        """How many services have an instance that is OK."""

    def __len__(self) -> int:
        return len(self._services)

    def get(self, name: str) -> _Members | None:
        """Return what there is of a name."""
        return self._services.get(name)

    def up_in(self, name: str) -> int:
        """Return how many instances of a service are OK; 0 when there is no such service."""
        service = self._services.get(name)
        return service.up if service else 0

    def sorted(self, after: str = "", prefix: str = "") -> Iterator[Service]:
        """Yield the services whose name begins with `prefix` and comes at or after `after`, sorted by name."""
        start = bisect_left(self._names, max(after, prefix))
        for name in islice(self._names, start, None):
            if not name.startswith(prefix):
                break
            service = self._services[name]
            yield Service(name, service.members.values(), service.up)

    def count(self, prefix: str) -> int:
        """Return how many services have a name that begins with `prefix`."""
        return bisect_left(self._names, prefix + AFTER_ALL) - bisect_left(self._names, prefix)

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return list(self._names)

    def join(self, registration: Registration) -> None:
        """Add an instance to its service."""
        instance = registration.instance
        service = self._services.get(instance.info.name)
        if service is None:
            service = self._services[instance.info.name] = _Members()
            insort(self._names, instance.info.name)
        service.members[instance.info.instance_id] = registration
        self._count(service, instance.up)

    def replace(self, was: Instance, registration: Registration) -> None:
        """Put a registration in the place of another one of the same instance and service."""
        instance = registration.instance
        service = self._services[instance.info.name]
        service.members[instance.info.instance_id] = registration
        change = instance.up - was.up
        if change:
            self._count(service, change)

    def leave(self, instance: Instance) -> None:
        """Take an instance out of its service."""
        name = instance.info.name
        service = self._services[name]
        del service.members[instance.info.instance_id]
        self._count(service, -instance.up)
        if not service.members:
            del self._services[name]
            del self._names[bisect_left(self._names, name)]

    def changed(self, name: str, change: int) -> None:
        """Note that so many more instances of a service are OK."""
        self._count(self._services[name], change)

    def _count(self, service: _Members, change: int) -> None:
        self.instances_up += change
        was = service.up
        service.up = now = was + change
        if not (was and now):
            self.up += bool(now) - bool(was)
