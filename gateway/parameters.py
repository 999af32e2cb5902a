"""What the operations of the REST API take in their paths and queries, as the OpenAPI document says it."""

from typing import Any, Final

from gateway.schemas import EXAMPLE_ID
from luna_grpc.journal import Kind

ID: Final = {
    "name": "instanceId",
    "in": "path",
    "required": True,
    "description": "Of the form `serviceName:domain:port`. The colons may be percent-encoded or not.",
    "schema": {"$ref": "#/components/schemas/InstanceId"},
    "example": EXAMPLE_ID,
}
NAME: Final = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "The name of the service, percent-encoded.",
    "schema": {"$ref": "#/components/schemas/ServiceName"},
    "example": "orders",
}
PAGE: Final = {
    "name": "page",
    "in": "query",
    "description": "Which hundred rows the page shows, from 1; what is no number is the first. It does not concern JSON and CSV.",
    "schema": {"type": "string"},
    "example": "1",
}


def _query(name: str, description: str) -> dict[str, Any]:
    """Return a parameter of a list. Whatever it says is taken, or ignored; no example, or the page to try it would narrow lists."""
    return {"name": name, "in": "query", "description": description, "schema": {"type": "string"}}


FORMAT: Final = _query("format", "`json` or `csv` instead of what the `Accept` header asks for; all rows, not only a page.")
OF_SERVICES: Final = (
    _query("q", "Words in names, ids, metadata (`key=value`), or `ok`, `down`, `drained`. All have to be found."),
    _query("status", "Only services with this status: `UP` or `DOWN`."),
    _query("instances", "Only services with such an instance: `OK`, `DOWN` (and nobody drained it) or `DRAINED`."),
    _query("sort", "`status`, `name`, `description` or `instances`; with `-` in front backwards."),
    PAGE,
    FORMAT,
)
OF_INSTANCES: Final = (
    _query("q", "Words in ids, versions, URLs, metadata (`key=value`), or `ok`, `down`, `drained`. All have to be found."),
    _query("status", "Only such instances: `OK`, `DOWN` (and nobody drained it) or `DRAINED`."),
    _query("sort", "`status`, `id`, `version`, `url`, `weight` or `heartbeat`; with `-` in front backwards."),
    PAGE,
    FORMAT,
)
OF_CHANGES: Final = (
    _query("q", "Words in ids and in the names of services and users. All have to be found."),
    _query("kind", "Only such changes: " + ", ".join(f"`{kind.value}`" for kind in Kind) + "."),
    PAGE,
    FORMAT,
)
VERBOSE: Final = {
    "name": "verbose",
    "in": "query",
    "description": "With it, whatever its value, the answer tells more.",
    "allowEmptyValue": True,
    "schema": {"type": "string"},
}
ONCE: Final = {
    "name": "once",
    "in": "query",
    "description": "With it, whatever its value, there is one event, and then the answer ends. Without it the answer never ends.",
    "allowEmptyValue": True,
    "schema": {"type": "string"},
    "example": "1",
}
