"""What templates are given of services, instances and entries of the journal: words for people."""

from datetime import UTC, datetime
from typing import Any, Final

from gateway.found import Row
from gateway.pages import lasting, moment
from gateway.search import DOWN, DRAINED, OK, state_of
from luna_grpc.journal import Entry, Kind
from luna_grpc.model import Instance, Status, StatusReason
from luna_grpc.store import Registration

PHASES: Final = ("new", "half", "full")
"""The moons of services that are down, half up and up."""
MOONS: Final = {OK: "full", DOWN: "new", DRAINED: "shaded"}
REASONS: Final = {
    StatusReason.REPORTED: "reported by the instance",
    StatusReason.LEASE_EXPIRED: "no heartbeat in time",
    StatusReason.DISCONNECTED: "its connection broke",
    StatusReason.DRAINED: "taken out of service by an operator",
}
_HAPPENED: Final = {
    Kind.REGISTERED: "registered",
    Kind.DEREGISTERED: "deregistered",
    Kind.EVICTED: "removed: it was down for too long",
    Kind.MOVED: "went to another service",
    Kind.DRAINED: "drained",
    Kind.UNDRAINED: "undrained",
}
_CAME_BACK: Final = "up again"
_WENT_DOWN: Final = {
    StatusReason.REPORTED: "down: it says so itself",
    StatusReason.LEASE_EXPIRED: "down: no heartbeat in time",
    StatusReason.DISCONNECTED: "down: its connection broke",
    StatusReason.DRAINED: "down: drained",
}
_DOORS: Final = {"grpc": "over gRPC", "rest": "over REST", "internal": "by Luna itself"}
_SECOND: Final = 1000


def when(milliseconds: int, now: int) -> dict[str, str]:
    """Write a moment, both in milliseconds since the epoch."""
    return moment(datetime.fromtimestamp(milliseconds / _SECOND, UTC), datetime.fromtimestamp(now / _SECOND, UTC))


def until(milliseconds: int, now: int) -> dict[str, str]:
    """Write a moment that is still to come; `left` is the time until then."""
    return when(milliseconds, now) | {"left": lasting(milliseconds - now + _SECOND - 1)}


def service_row(row: Row) -> dict[str, Any]:
    """Return the row of a service in a list."""
    found = row.found
    return {
        "name": found.name,
        "description": found.description,
        "status": "UP" if found.up else "DOWN",
        "moon": MOONS[DRAINED] if found.drained == found.total else PHASES[found.phase],
        "up": found.up,
        "total": found.total,
        "drained": found.drained,
        "named": [named_instance(registration) for registration in row.named],
        "more": row.matching - len(row.named),
    }


def named_instance(registration: Registration) -> dict[str, str]:
    """Return what the row of a service says of one of its instances."""
    instance = registration.instance
    state = state_of(instance)
    return {"id": instance.info.instance_id, "state": state, "moon": MOONS[state], "reason": reason(instance)}


def reason(instance: Instance) -> str:
    """Say in a few words why an instance has its status."""
    return REASONS[instance.reason]


def instance_row(registration: Registration, now: int) -> dict[str, Any]:
    """Return the row of an instance in the list of its service."""
    instance = registration.instance
    said = instance.info
    state = state_of(instance)
    return {
        "id": said.instance_id,
        "name": said.name,
        "description": said.description,
        "version": said.version,
        "state": state,
        "status": instance.status.value,
        "moon": MOONS[state],
        "reason": reason(instance),
        "url": said.url,
        "weight": said.weight,
        "metadata": said.metadata,
        "heartbeat": when(registration.last_heartbeat, now),
        "registered": when(instance.registered_at, now),
        "drained_until": None if instance.drained_until is None else until(instance.drained_until, now),
    }


def why(registration: Registration) -> str:
    """Say why an instance has its status, in a sentence."""
    instance = registration.instance
    says = f"It reports {instance.reported.value} itself."
    match instance.reason:
        case StatusReason.DRAINED:
            also = {None: says, StatusReason.LEASE_EXPIRED: "Its heartbeats stay away as well."}
            return also.get(instance.ended, "Its connection is broken as well.")
        case StatusReason.LEASE_EXPIRED:
            return "No heartbeat came in time. The next one brings it back."
        case StatusReason.DISCONNECTED:
            return "The connection that its heartbeats came by is broken. The next heartbeat brings it back."
        case _:
            return "It reports DOWN itself." if instance.reported is Status.DOWN else "Its heartbeats come in time."


def entry_row(entry: Entry, now: int) -> dict[str, Any]:
    """Return the row of an entry of the journal."""
    return {
        "number": entry.number,
        "id": entry.instance_id,
        "service": entry.service,
        "kind": entry.kind.value,
        "moon": "gone" if not entry.there else MOONS[_state(entry)],
        "happened": happened(entry),
        "up": entry.up,
        "by": by(entry),
        "when": when(entry.at, now),
    }


def happened(entry: Entry) -> str:
    """Say what an entry is about."""
    if entry.kind is Kind.DOWN:
        return _WENT_DOWN[entry.reason]
    if entry.kind is Kind.UP:
        return _CAME_BACK
    words = _HAPPENED[entry.kind]
    return f"{words}, down" if entry.kind is Kind.REGISTERED and entry.status is Status.DOWN else words


def by(entry: Entry) -> str:
    """Say who did it: a user and the door, or Luna itself."""
    door = _DOORS.get(entry.door, entry.door)
    return f"{entry.user}, {door}" if entry.user else door


def _state(entry: Entry) -> str:
    if entry.reason is StatusReason.DRAINED:
        return DRAINED
    return OK if entry.status is Status.OK else DOWN
