"""How many instances there may be, in all and of one service."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from luna_grpc.errors import ResourceExhaustedError
from luna_grpc.model import shown

RETRY_AFTER: Final = 60
"""Seconds after which there may be room again where there is none."""


class Capacity(NamedTuple):
    """How many instances a store takes; 0: any number."""

    instances: int = 0
    """In all."""
    per_service: int = 0


UNLIMITED: Final = Capacity()


class Room:
    """Knows whether there is room for one instance more, and keeps some for what is decided and not carried out yet."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._kept = 0
        self._kept_in: Counter[str] = Counter()  # by service

    def check(self, registered: int) -> None:
        """Refuse one more where so many are registered.

        Raises:
            ResourceExhaustedError: there is no room.

        """
        most = self._capacity.instances
        if most and registered + self._kept >= most:
            raise ResourceExhaustedError(
                f"{most} instances are registered, the most that this registry takes (LUNA_MAX_INSTANCES): deregister some",
                retry_after=RETRY_AFTER,
            )

    def check_service(self, name: str, members: int) -> None:
        """Refuse one more in a service that has so many.

        Raises:
            ResourceExhaustedError: there is no room.

        """
        most = self._capacity.per_service
        if most and members + self._kept_in[name] >= most:
            raise ResourceExhaustedError(
                f"the service {shown(name)} has {most} instances, the most that one may have (LUNA_MAX_INSTANCES_PER_SERVICE): "
                "deregister some",
                retry_after=RETRY_AFTER,
            )

    @contextmanager
    def kept(self, name: str, *, new: bool, joins: bool) -> Iterator[None]:
        """Keep room meanwhile for an instance that is `new`, or that `joins` a service."""
        self._kept += new
        self._kept_in[name] += joins
        try:
            yield
        finally:
            self._kept -= new
            self._kept_in[name] -= joins
            if not self._kept_in[name]:
                del self._kept_in[name]
