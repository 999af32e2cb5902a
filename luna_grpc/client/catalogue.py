"""What is known of services: kept up with the messages of WatchServices, and kept when they stop. No I/O."""

import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import Final

from luna_grpc.model import Status, StatusReason
from luna_grpc.v1 import registry_pb2 as pb

_STATUS: Final = {pb.STATUS_OK: Status.OK}
_REASON: Final = {
    pb.STATUS_REASON_REPORTED: StatusReason.REPORTED,
    pb.STATUS_REASON_LEASE_EXPIRED: StatusReason.LEASE_EXPIRED,
    pb.STATUS_REASON_DISCONNECTED: StatusReason.DISCONNECTED,
    pb.STATUS_REASON_DRAINED: StatusReason.DRAINED,
}


@dataclass(frozen=True)
class Instance:
    """One running copy of a service, as the registry tells of it."""

    instance_id: str
    name: str
    """The service."""
    url: str
    status: Status
    reason: StatusReason
    """Why it has that status."""
    version: str
    description: str
    weight: int
    """Its share of the requests, 1 unless it asks for more."""
    metadata: Mapping[str, str]


class Catalogue:
    """The instances of some services, or of all. May be read by any thread while one applies what it is told."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = (*names,)
        self._token = ""
        self._lock = threading.Lock()
        self._services: dict[str, dict[str, Instance]] = {}
        self._coming: dict[str, dict[str, Instance]] | None = None  # a snapshot that is not complete
        self._lists: dict[str, tuple[Instance, ...]] = {}
        self._fresh = False
        self._stale_since = -math.inf

    def request(self) -> pb.WatchServicesRequest:
        """Ask to go on where we are."""
        return pb.WatchServicesRequest(names=self.names, resume_token=self._token)

    def apply(self, message: pb.WatchServicesResponse) -> None:
        """Take a message. A snapshot counts when it is complete; until then what was known before does."""
        with self._lock:
            if message.reset:
                self._coming = {}
            services = self._services if self._coming is None else self._coming
            for event in message.events:
                self._change(services, event)
            if message.synced:
                self._fresh = True
                if self._coming is not None:
                    self._services, self._coming = self._coming, None
                    self._lists.clear()
            self._token = message.resume_token or self._token

    def lost(self, now: float) -> None:
        """Note that nothing is told any more."""
        with self._lock:
            self._coming = None
            if self._fresh:
                self._fresh = False
                self._stale_since = now

    def age(self, now: float) -> float:
        """Return for how many seconds changes may have been missed: 0 while connected, infinity before the first list."""
        with self._lock:
            return 0.0 if self._fresh else now - self._stale_since

    def services(self) -> tuple[str, ...]:
        """Return the names of the services that have instances."""
        with self._lock:
            return tuple(sorted(self._services))

    def instances(self, name: str) -> tuple[Instance, ...]:
        """Return a service's instances, sorted by id."""
        with self._lock:
            found = self._services.get(name)
            if found is None:
                return ()
            if name not in self._lists:
                self._lists[name] = tuple(found[instance_id] for instance_id in sorted(found))
            return self._lists[name]

    def _change(self, services: dict[str, dict[str, Instance]], event: pb.Event) -> None:
        said = event.instance
        self._lists.pop(said.name, None)
        if event.type == pb.EVENT_TYPE_UPSERTED:
            services.setdefault(said.name, {})[said.instance_id] = instance(said)
        elif event.type == pb.EVENT_TYPE_REMOVED and said.name in services:
            services[said.name].pop(said.instance_id, None)
            if not services[said.name]:
                del services[said.name]


def instance(said: pb.Instance) -> Instance:
    """Read an instance."""
    return Instance(
        said.instance_id,
        said.name,
        said.url,
        _STATUS.get(said.status, Status.DOWN),
        _REASON.get(said.status_reason, StatusReason.REPORTED),
        said.version,
        said.description,
        said.balancer_options.weight or 1,
        MappingProxyType(dict(said.metadata)),
    )


class RoundRobin:
    """Smooth weighted round robin, as nginx has it: heavy instances come more often, and never several times in a row for it."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._lock = threading.Lock()
        self._credits: dict[str, float] = {}

    def pick(self, instances: Iterable[Instance]) -> Instance | None:
        """Return the next of those that are OK, if there is one."""
        usable = [instance for instance in instances if instance.status is Status.OK]
        if not usable:
            return None
        with self._lock:
            # A new one begins with less than any weight, at random: else all processes would begin with the same instance.
            self._credits = {
                instance.instance_id: self._credits.get(instance.instance_id, self._random.random()) + instance.weight
                for instance in usable
            }
            best = max(usable, key=lambda instance: self._credits[instance.instance_id])
            self._credits[best.instance_id] -= sum(instance.weight for instance in usable)
            return best
