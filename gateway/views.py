"""Between the JSON of the REST API and the model. Written by hand: json_format is 10 to 100 times slower."""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from luna_grpc import drains
from luna_grpc.errors import InvalidArgumentError
from luna_grpc.model import NO_METADATA, Info, Instance, Status, shown
from luna_grpc.store import Service

REQUIRED: Final = ("instanceId", "name", "version", "url", "status")
"""What the original Luna required; the rest may be missing or null."""
_STATUS: Final = {status.value: status for status in Status}


# In


def read_instance(instance_id: str, body: bytes) -> tuple[Info, Status]:
    """Read an instance and its status; unknown fields, and those that only answers have, are ignored.

    Raises:
        InvalidArgumentError: the body is no JSON object, or a field is missing or wrong.

    """
    data = _object(body)
    missing = [field for field in REQUIRED if data.get(field) in (None, "")]
    if missing:
        raise InvalidArgumentError(
            f"missing in the body, which describes the whole instance: {', '.join(missing)}", field=missing[0]
        )
    if _text(data, "instanceId") != instance_id:
        raise InvalidArgumentError(
            f"instanceId is {shown(data['instanceId'])} in the body, but {shown(instance_id)} in the path", field="instanceId"
        )
    status = _STATUS.get(_text(data, "status"))
    if status is None:
        raise InvalidArgumentError(f"status is {shown(data['status'])}; it must be OK or DOWN", field="status")
    info = Info.of(
        instance_id,
        name=_text(data, "name"),
        description=_text(data, "description"),
        version=_text(data, "version"),
        url=_text(data, "url"),
        weight=_weight(data.get("balancerOptions")),
        metadata=_metadata(data.get("metadata")),
    )
    return info, status


def read_drain(body: bytes) -> float:
    """Read for how many seconds an instance is to be drained; an empty body leaves that to us.

    Raises:
        InvalidArgumentError: the body is no JSON object, or `duration` is no number.

    """
    seconds = _object(body).get("duration") if body else None
    if seconds is None:
        return drains.DEFAULT
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        raise InvalidArgumentError("duration must be a number, of seconds", field="duration")
    return float(seconds)


def _object(body: bytes) -> dict[str, Any]:
    if not body:
        raise InvalidArgumentError("the body is empty; send the instance as JSON", field="body")
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidArgumentError(f"the body is not valid JSON: {error}", field="body") from None
    if not isinstance(data, dict):
        raise InvalidArgumentError("the body must be a JSON object that describes the instance", field="body")
    return data


def _text(data: Mapping[str, Any], field: str) -> str:
    value = data.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{field} must be a string", field=field)
    return value


def _weight(options: object) -> int | None:
    if options is None:
        return None
    if not isinstance(options, dict):
        raise InvalidArgumentError("balancerOptions must be an object", field="balancerOptions")
    weight = options.get("weight")
    if weight is None:
        return None
    if isinstance(weight, float) and weight.is_integer():  # 10.0 is a whole number too, and some languages write it so
        return int(weight)
    if not isinstance(weight, int) or isinstance(weight, bool):
        raise InvalidArgumentError("balancerOptions.weight must be a whole number", field="weight")
    return weight


def _metadata(metadata: object) -> Mapping[str, str]:
    if metadata is None:
        return NO_METADATA
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InvalidArgumentError("metadata must be an object of strings", field="metadata")
    return metadata


# Out

CLOSING: Final = b"]}"
"""What follows after the last instance of a service."""


def instance(now: Instance, last_heartbeat: int) -> bytes:
    """Write an instance as JSON."""
    return heard(all_but_last_heartbeat(now), last_heartbeat)


def all_but_last_heartbeat(now: Instance) -> bytes:
    """Write the part of an instance that stays the same from heartbeat to heartbeat."""
    said = now.info
    answer: dict[str, Any] = {
        "instanceId": said.instance_id,
        "name": said.name,
        "description": said.description,
        "version": said.version,
        "url": said.url,
        "status": now.status,
        "balancerOptions": {} if said.weight is None else {"weight": said.weight},
        "statusReason": now.reason,
        "registeredAt": now.registered_at,
    }
    if now.drained_until is not None:
        answer["drainedUntil"] = now.drained_until
    if said.metadata:
        answer["metadata"] = dict(said.metadata)
    return orjson.dumps(answer)[:-1]


def heard(all_but: bytes, last_heartbeat: int) -> bytes:
    """Put in when the last heartbeat was, in milliseconds since the epoch."""
    return b'%b,"last_heartbeat":%d}' % (all_but, last_heartbeat)


def opening(service: Service) -> bytes:
    """Write a service as JSON, up to its instances; those follow, with commas between them, and then `CLOSING`."""
    said = {"name": service.name, "description": service.description, "status": service.status}
    return orjson.dumps(said)[:-1] + b',"instances":['
