"""Between the messages of the proto and the model."""

from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from luna_grpc.errors import InvalidArgumentError
from luna_grpc.events import Event, EventType
from luna_grpc.leases import LeasePolicy
from luna_grpc.model import Info, Instance, OnDisconnect, ServiceStatus, Status, StatusReason, shown
from luna_grpc.registry import Beat
from luna_grpc.store import Service
from luna_grpc.v1 import registry_pb2 as pb

_STATUS_IN: Final[dict[int, Status | None]] = {
    pb.STATUS_UNSPECIFIED: None,
    pb.STATUS_OK: Status.OK,
    pb.STATUS_DOWN: Status.DOWN,
}
_STATUS_OUT: Final = {Status.OK: pb.STATUS_OK, Status.DOWN: pb.STATUS_DOWN}
_REASON_OUT: Final = {
    StatusReason.REPORTED: pb.STATUS_REASON_REPORTED,
    StatusReason.LEASE_EXPIRED: pb.STATUS_REASON_LEASE_EXPIRED,
    StatusReason.DISCONNECTED: pb.STATUS_REASON_DISCONNECTED,
    StatusReason.DRAINED: pb.STATUS_REASON_DRAINED,
}
_SERVICE_STATUS_IN: Final[dict[int, ServiceStatus | None]] = {
    pb.SERVICE_STATUS_UNSPECIFIED: None,
    pb.SERVICE_STATUS_UP: ServiceStatus.UP,
    pb.SERVICE_STATUS_DOWN: ServiceStatus.DOWN,
}
_SERVICE_STATUS_OUT: Final = {ServiceStatus.UP: pb.SERVICE_STATUS_UP, ServiceStatus.DOWN: pb.SERVICE_STATUS_DOWN}
_ON_DISCONNECT_IN: Final[dict[int, OnDisconnect]] = {
    pb.ON_DISCONNECT_UNSPECIFIED: OnDisconnect.KEEP,
    pb.ON_DISCONNECT_KEEP: OnDisconnect.KEEP,
    pb.ON_DISCONNECT_MARK_DOWN: OnDisconnect.MARK_DOWN,
    pb.ON_DISCONNECT_DEREGISTER: OnDisconnect.DEREGISTER,
}
_EVENT_TYPE_OUT: Final = {EventType.UPSERTED: pb.EVENT_TYPE_UPSERTED, EventType.REMOVED: pb.EVENT_TYPE_REMOVED}
# Where the proto calls a field of the model by a longer path.
_PATHS: Final = {"weight": "balancer_options.weight"}


# In


def info(message: pb.Instance, *, instance_id: str = "") -> Info:
    """Read what a client says of an instance; `instance_id` is the one that it must be about.

    Raises:
        InvalidArgumentError: `field` is the path from the request, `instance.…`.

    """
    if instance_id and message.instance_id not in ("", instance_id):
        raise InvalidArgumentError(
            f"instance.instance_id is {shown(message.instance_id)}, but the heartbeat is for {shown(instance_id)}",
            field="instance.instance_id",
        )
    metadata = message.metadata
    try:
        return Info.of(
            message.instance_id or instance_id,
            name=message.name,
            description=message.description,
            version=message.version,
            url=message.url,
            weight=message.balancer_options.weight,
            metadata={key: metadata[key] for key in metadata},  # its items() is written in Python
        )
    except InvalidArgumentError as error:
        raise InvalidArgumentError(error.message, field=f"instance.{_PATHS.get(error.field, error.field)}") from None


def status(value: int, field: str) -> Status | None:
    """Read a status; None when it is unspecified."""
    try:
        return _STATUS_IN[value]
    except KeyError:
        raise InvalidArgumentError(f"{field} {value} is not a known Status", field=field) from None


def service_status(value: int) -> ServiceStatus | None:
    """Read the filter of ListServices; None when it is unspecified."""
    try:
        return _SERVICE_STATUS_IN[value]
    except KeyError:
        raise InvalidArgumentError(f"status {value} is not a known ServiceStatus", field="status") from None


def on_disconnect(value: int) -> OnDisconnect:
    """Read what a stream asks for."""
    try:
        return _ON_DISCONNECT_IN[value]
    except KeyError:
        raise InvalidArgumentError(
            f"options.on_disconnect {value} is not a known OnDisconnect", field="options.on_disconnect"
        ) from None


def seconds(message: Duration) -> float:
    """Read a span of time, in seconds."""
    return float(message.seconds) + float(message.nanos) / 1_000_000_000


def beat(message: pb.HeartbeatRequest) -> Beat:
    """Read a heartbeat."""
    reported = status(message.status, "status") if message.status else None
    if not message.HasField("instance"):
        return Beat(message.instance_id, message.generation, reported)
    if reported is None:
        reported = status(message.instance.status, "instance.status")
    return Beat(message.instance_id, message.generation, reported, info(message.instance, instance_id=message.instance_id))


# Out


def _set(timestamp: Timestamp, milliseconds: int) -> None:
    timestamp.seconds, rest = divmod(milliseconds, 1000)
    timestamp.nanos = rest * 1_000_000


def duration(seconds: float) -> Duration:
    """Write a span of time."""
    whole, nanos = divmod(round(seconds * 1_000_000_000), 1_000_000_000)
    return Duration(seconds=whole, nanos=nanos)


def lease(policy: LeasePolicy, epoch: str) -> pb.Lease:
    """Write the terms of every lease."""
    return pb.Lease(ttl=duration(policy.ttl), heartbeat_interval=duration(policy.heartbeat_interval), epoch=epoch)


def fill(message: pb.Instance, instance: Instance, last_heartbeat: int) -> None:
    """Write an instance into an empty message; `last_heartbeat` is in milliseconds since the epoch.

    One field after the other: to hand submessages and mappings to constructors takes twice as long.
    """
    said = instance.info
    message.instance_id = said.instance_id
    message.name = said.name
    message.description = said.description
    message.version = said.version
    message.status = _STATUS_OUT[instance.status]
    message.url = said.url
    message.status_reason = _REASON_OUT[instance.reason]
    message.generation = instance.generation
    message.balancer_options.weight = said.weight or 0  # the message is there also when there is no weight
    for key, value in said.metadata.items():
        message.metadata[key] = value
    _set(message.last_heartbeat, last_heartbeat)
    _set(message.registered_at, instance.registered_at)
    if instance.drained_until is not None:
        _set(message.drained_until, instance.drained_until)


def service(service: Service) -> pb.Service:
    """Write a service, without its instances."""
    return pb.Service(
        name=service.name,
        description=service.description,
        status=_SERVICE_STATUS_OUT[service.status],
        instances_up=service.up,
    )


def event(event: Event) -> bytes:
    """Write an event as the bytes of a WatchServicesResponse that holds nothing else; kept with the event for the next watcher.

    Messages put one behind the other read as one message with their repeated fields joined
    (https://protobuf.dev/programming-guides/encoding/#last-one-wins), so answers are made by joining these bytes.
    """
    if event.encoded is None:
        message = pb.WatchServicesResponse()
        written = message.events.add(type=_EVENT_TYPE_OUT[event.type])
        fill(written.instance, event.instance, event.last_heartbeat)
        event.encoded = message.SerializeToString()
    return event.encoded
