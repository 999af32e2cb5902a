"""The parts of the OpenAPI document: what is sent and answered, with the limits of the model, and every refusal."""

from collections import defaultdict
from typing import Any, Final, TypeAlias

from gateway import errors
from gateway.views import REQUIRED
from luna_grpc import drains
from luna_grpc.auth import CHALLENGE
from luna_grpc.journal import Kind
from luna_grpc.model import (
    ID_PATTERN,
    MAX_DESCRIPTION,
    MAX_METADATA,
    MAX_METADATA_KEY,
    MAX_METADATA_VALUE,
    MAX_NAME,
    MAX_URL,
    MAX_VERSION,
    MAX_WEIGHT,
    RESERVED_NAMES,
    Door,
    ServiceStatus,
    Status,
    StatusReason,
)

Schema: TypeAlias = dict[str, Any]

EXAMPLE_ID: Final = "orders:localhost:8080"
# Patterns that every dialect of regular expressions reads alike; what they cannot say, a format of ours names and words explain.
_PRINTABLE: Final = {"format": "printable", "pattern": r"^\S(?:.*\S)?$"}
_TEXT: Final = {"pattern": r"^[^\u0000]*$"}
_MOMENT: Final = {"type": "integer", "format": "int64", "minimum": 0, "description": "Milliseconds since the epoch."}

ID: Final[Schema] = {
    "type": "string",
    "format": "instance-id",
    "pattern": f"^(?:{ID_PATTERN})$",
    "description": "`serviceName:domain:port`; domain is a DNS name, an IPv4 address or an IPv6 address in brackets, port is at "
    "most 65535.",
    "examples": [EXAMPLE_ID],
}
NAME: Final[Schema] = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_NAME,
    **_PRINTABLE,
    "not": {"enum": sorted(RESERVED_NAMES)},
    "description": "The name of the service, which need not be the serviceName of the id. Only characters that can be shown, and "
    "no space at either end.",
    "examples": ["orders"],
}
_INPUT: Final[Schema] = {
    "instanceId": {"$ref": "#/components/schemas/InstanceId", "description": "The same as in the path."},
    "name": {"$ref": "#/components/schemas/ServiceName"},
    "description": {
        "type": ["string", "null"],
        "maxLength": MAX_DESCRIPTION,
        **_TEXT,
        "description": "What it does, for people.",
        "examples": ["Takes orders"],
    },
    "version": {
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_VERSION,
        **_PRINTABLE,
        "description": "Kept as sent. Only characters that can be shown, and no space at either end.",
        "examples": ["1.0.0"],
    },
    "url": {
        "type": "string",
        "format": "http-url",
        "maxLength": MAX_URL,
        "pattern": r"^[Hh][Tt][Tt][Pp][Ss]?://[^\s\\]+$",
        "anyOf": [{"maxLength": MAX_URL - 1}, {"pattern": "^[^:]+://[^/?#]*/"}],  # there is room for the path that it may get
        "description": "Where it is reached: http or https. An empty path becomes `/`.",
        "examples": ["http://localhost:8080/"],
    },
    "status": {"type": "string", "enum": list(Status), "description": "What it says of itself.", "examples": ["OK"]},
    "balancerOptions": {
        "type": ["object", "null"],
        "properties": {
            "weight": {
                "type": ["integer", "null"],
                "minimum": 0,
                "maximum": MAX_WEIGHT,
                "description": "Its share of the requests; 0 counts as not set.",
            }
        },
        "description": "For client-side load balancing.",
        "examples": [{"weight": 10}],
    },
    "metadata": {
        "type": ["object", "null"],
        "maxProperties": MAX_METADATA,
        "propertyNames": {"minLength": 1, "maxLength": MAX_METADATA_KEY, "format": "printable"},
        "additionalProperties": {"type": "string", "maxLength": MAX_METADATA_VALUE, **_TEXT},
        "description": "Whatever else clients want to know of it. Keys have only characters that can be shown.",
        "examples": [{"zone": "eu-1"}],
    },
}
_ANSWER: Final[Schema] = {
    "instanceId": {"$ref": "#/components/schemas/InstanceId"},
    "name": {"$ref": "#/components/schemas/ServiceName"},
    "description": {"type": "string", "maxLength": MAX_DESCRIPTION},
    "version": {"type": "string", "maxLength": MAX_VERSION, "description": "Empty when it was not told (over gRPC)."},
    "url": {"type": "string", "maxLength": MAX_URL, "pattern": "^[Hh][Tt][Tt][Pp][Ss]?://"},
    "status": {"type": "string", "enum": list(Status), "description": "`DOWN` when no heartbeat came in time, whatever it said."},
    "balancerOptions": {
        "type": "object",
        "properties": {"weight": {"type": "integer", "minimum": 1, "maximum": MAX_WEIGHT}},
    },
    "metadata": {
        "type": "object",
        "minProperties": 1,
        "maxProperties": MAX_METADATA,
        "additionalProperties": {"type": "string", "maxLength": MAX_METADATA_VALUE},
        "description": "Only when there is any.",
    },
    "last_heartbeat": {**_MOMENT, "description": "Milliseconds since the epoch, by the server's clock."},
    "statusReason": {"type": "string", "enum": list(StatusReason), "description": "Why it has this status."},
    "registeredAt": _MOMENT,
    "drainedUntil": {**_MOMENT, "description": "When its drain ends; only while it is drained."},
}
_NOT_ALWAYS: Final = frozenset({"metadata", "drainedUntil"})
EXAMPLE_INPUT: Final = {
    "instanceId": EXAMPLE_ID,
    "name": "orders",
    **{field: said["examples"][0] for field, said in _INPUT.items() if "examples" in said},
}
"""An instance that can be registered."""
EXAMPLE_INSTANCE: Final = {
    **EXAMPLE_INPUT,
    "last_heartbeat": 1_795_363_215_000,
    "statusReason": StatusReason.REPORTED,
    "registeredAt": 1_795_363_200_000,
}
EXAMPLE_DRAIN: Final = {"duration": 900}
EXAMPLE_SERVICE: Final = {
    "name": "orders",
    "description": "Takes orders",
    "status": ServiceStatus.UP,
    "instances": [EXAMPLE_INSTANCE],
}

EXAMPLE_CHANGE: Final = {
    "number": 7,
    "at": 1_795_363_200_000,
    "kind": Kind.REGISTERED,
    "instanceId": EXAMPLE_ID,
    "service": "orders",
    "status": Status.OK,
    "statusReason": StatusReason.REPORTED,
    "instancesUp": 1,
    "user": "admin",
    "door": Door.REST,
}
_CHANGE: Final[Schema] = {
    "number": {"type": "integer", "minimum": 1, "description": "Grows by one with each change."},
    "at": _MOMENT,
    "kind": {"type": "string", "enum": list(Kind)},
    "instanceId": {"$ref": "#/components/schemas/InstanceId"},
    "service": {"$ref": "#/components/schemas/ServiceName"},
    "status": {"type": "string", "enum": list(Status), "description": "After the change; of an instance that left, before it."},
    "statusReason": {"type": "string", "enum": list(StatusReason)},
    "instancesUp": {"type": "integer", "minimum": 0, "description": "How many instances of the service were OK after it."},
    "user": {"type": "string", "description": "Who did it; empty: the registry itself."},
    "door": {"type": "string", "enum": list(Door), "description": "Where it came in."},
}

_REFUSALS: Final = {
    400: ("InvalidRequest", "Something in the request is wrong; `field` names it. Or the id that is posted has a live lease."),
    401: ("Unauthenticated", "The credentials are missing or wrong."),
    403: ("PermissionDenied", "The user may not do this, or the `Host` name or the page's `Origin` is not answered to."),
    404: ("NotFound", "There is no such instance or service."),
    405: ("MethodNotAllowed", "The path knows other methods only."),
    408: ("Timeout", "The headers or the body did not come to an end in time."),
    409: ("Superseded", "Another registration has taken the id over."),
    413: ("BodyTooLarge", "The body is too large."),
    431: ("HeadersTooLarge", "There are too many headers, or they are too large."),
    429: ("TooManyRequests", "A limit is reached, for example that of wrong logins. Try again later."),
    500: ("Failed", "A bug; the registry's log has it."),
    503: ("Unavailable", "Not now; try again."),
}
"""For each status of an error: the name of the answer, and what it means."""


def codes() -> dict[int, list[str]]:
    """Return the codes that come with each status of an error."""
    found: defaultdict[int, list[str]] = defaultdict(list)
    for error, status in errors.STATUS.items():
        found[status].append(error.code)
    for status, code in errors.CODES.items():
        found[status] += [] if code in found[status] else [code]
    found[500].append(errors.INTERNAL)
    return dict(found)


def refusals(*statuses: int) -> Schema:
    """Return the answers of an operation that refuses with these statuses."""
    return {str(status): {"$ref": f"#/components/responses/{_REFUSALS[status][0]}"} for status in sorted(statuses)}


def components() -> Schema:
    """Return everything that the operations refer to."""
    return {
        "securitySchemes": {"basic": {"type": "http", "scheme": "basic", "description": "RFC 7617, UTF-8."}},
        "schemas": {
            "InstanceId": ID,
            "ServiceName": NAME,
            "InstanceInput": {
                "type": "object",
                "required": list(REQUIRED),
                "properties": _INPUT,
                "description": "What a client says of an instance. Fields that are not named here are ignored.",
                "examples": [EXAMPLE_INPUT],
            },
            "Instance": {
                "type": "object",
                "required": [field for field in _ANSWER if field not in _NOT_ALWAYS],
                "properties": _ANSWER,
                "examples": [EXAMPLE_INSTANCE],
            },
            "Drain": {
                "type": "object",
                "properties": {
                    "duration": {
                        "type": ["number", "null"],
                        "minimum": 1,
                        "maximum": drains.LONGEST,
                        "default": drains.DEFAULT,
                        "description": "For how many seconds from now on.",
                    }
                },
                "examples": [EXAMPLE_DRAIN],
            },
            "Service": {
                "type": "object",
                "required": ["name", "description", "status", "instances"],
                "properties": {
                    "name": {"$ref": "#/components/schemas/ServiceName"},
                    "description": {"type": "string", "description": "That of the instance registered first."},
                    "status": {
                        "type": "string",
                        "enum": list(ServiceStatus),
                        "description": "`UP` while one instance is `OK`.",
                    },
                    "instances": {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/Instance"}},
                },
                "examples": [EXAMPLE_SERVICE],
            },
            "Change": {
                "type": "object",
                "required": list(_CHANGE),
                "properties": _CHANGE,
                "description": "What happened to an instance.",
                "examples": [EXAMPLE_CHANGE],
            },
            "Error": {
                "type": "object",
                "required": ["error", "code"],
                "properties": {
                    "error": {"type": "string", "description": "What is wrong, for people."},
                    "code": {"type": "string", "description": "What is wrong, for programs."},
                    "field": {"type": "string", "description": "The field at fault, when there is one."},
                },
            },
        },
        "headers": {
            "Challenge": {
                "description": "That Basic auth is wanted.",
                "required": True,
                "schema": {"type": "string", "const": CHALLENGE},
            },
            "RetryAfter": {
                "description": "After how many seconds it may be worth trying again, when that is known.",
                "schema": {"type": "integer", "minimum": 1},
            },
            "Allow": {"description": "The methods that are possible.", "required": True, "schema": {"type": "string"}},
            "Vary": {
                "description": "That the answer depends on the `Accept` header.",
                "required": True,
                "schema": {"type": "string", "pattern": "^Accept"},
            },
        },
        "responses": {_REFUSALS[status][0]: _refusal(status, which) for status, which in sorted(codes().items())},
    }


def _refusal(status: int, which: list[str]) -> Schema:
    response: Schema = {
        "description": _REFUSALS[status][1],
        "content": {
            "application/json": {
                "schema": {
                    "allOf": [
                        {"$ref": "#/components/schemas/Error"},
                        {"type": "object", "properties": {"code": {"enum": which}}},
                    ]
                }
            },
            "text/html": {"schema": {"type": "string", "description": "A page, when a browser asks."}},
        },
    }
    header = {401: "Challenge", 405: "Allow", 429: "RetryAfter", 503: "RetryAfter"}.get(status)
    if header:
        name = {"Challenge": "WWW-Authenticate", "RetryAfter": "Retry-After", "Allow": "Allow"}[header]
        response["headers"] = {name: {"$ref": f"#/components/headers/{header}"}}
    return response
