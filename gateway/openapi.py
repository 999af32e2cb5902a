"""The REST API as an OpenAPI 3.1 document.

It says what the code says: limits come from the model, statuses and codes from the table of errors. A test holds that every route
is in it. Static files are not: they belong to the pages, and their names change.
"""

from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from gateway import parameters, schemas
from gateway.schemas import EXAMPLE_CHANGE, EXAMPLE_INPUT, EXAMPLE_INSTANCE, EXAMPLE_SERVICE, refusals
from luna_grpc import __version__

Part: TypeAlias = dict[str, Any]

JSON: Final = "application/json"
HTML: Final = "text/html"
TEXT: Final = "text/plain"
EVENTS: Final = "text/event-stream"
CSV: Final = "text/csv"
_INTRODUCTION: Final = """\
For clients that do not speak gRPC. Everything below `/registry/`, and `/metrics`, needs Basic auth: user `admin` and an empty \
password unless the settings of Luna say otherwise.

Register with POST, then send a PUT every 10 to 15 seconds: that is a heartbeat. An instance whose heartbeats stay away is `DOWN`. \
On a 404, POST it again: the registry was restarted.

An error is JSON with the words, a code, and the field at fault when there is one. Where GET is possible HEAD is too; another \
method is refused with 405. A body is read as JSON whatever its `Content-Type` says, and may have {body_limit} bytes. Pages of \
other origins may use the API only when LUNA_CORS_ORIGINS names them."""
_TAGS: Final = {
    "Instances": "What runs: one process at one address.",
    "Services": "All instances of one name. A service is `UP` while one of them is `OK`, and disappears with the last one.",
    "Probes": "For load balancers and whoever restarts processes. They need no credentials.",
    "About": "The API about itself.",
}
_EVENT: Final = 'id: 5f2a91c07be4d638-1042\ndata: {"feed":"5f2a91c07be4d638","revision":1042,"down":3}\n\n'
_INSTANCE: Final = {"schema": {"$ref": "#/components/schemas/Instance"}, "example": EXAMPLE_INSTANCE}
_SERVICE: Final = {"schema": {"$ref": "#/components/schemas/Service"}, "example": EXAMPLE_SERVICE}
_SERVICES: Final = {
    "schema": {"type": "array", "items": {"$ref": "#/components/schemas/Service"}},
    "example": [EXAMPLE_SERVICE],
}
_PAGE_OF_HTML: Final = {"schema": {"type": "string", "description": "A page for people."}}
_TABLE: Final = {"schema": {"type": "string", "description": "A table, with `format=csv`."}}
_CHANGES: Final = {
    "schema": {"type": "array", "items": {"$ref": "#/components/schemas/Change"}},
    "example": [EXAMPLE_CHANGE],
}
_LINE: Final = {"schema": {"type": "string"}}
_GUARDED: Final = (401, 403, 429, 431, 500, 503)
"""With what every operation below `/registry/` may be refused."""
_SLOW_OR_LARGE: Final = (408, 431)
"""With what any request may be refused before anyone looks where it goes."""
_NEXT: Final = {
    **{
        operation: {"operationId": operation, "parameters": {"instanceId": "$response.body#/instanceId"}}
        for operation in ("heartbeat", "getInstance", "deregister")
    },
    "getService": {"operationId": "getService", "parameters": {"name": "$response.body#/name"}},
}
"""What can be asked for when an instance has been registered."""


def document(max_body: int) -> Part:
    """Return the document; `max_body` is the most bytes that a body may have."""
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Luna",
            "summary": "A service registry: who is there, and where.",
            "description": _INTRODUCTION.format(body_limit=f"{max_body:,}"),
            "version": __version__,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "Where this document comes from."}],
        "security": [{"basic": []}],
        "tags": [{"name": name, "description": words} for name, words in _TAGS.items()],
        "paths": _paths(),
        "components": schemas.components(),
    }


def _paths() -> Part:
    return {
        "/registry/v1/instances/{instanceId}": {
            "parameters": [parameters.ID],
            "post": _register(),
            "put": _heartbeat(),
            "get": _operation(
                "getInstance",
                "Instances",
                "Show an instance, as JSON or as a page",
                "A page for whoever asks for HTML by name in the `Accept` header.",
                ok=_negotiated(_INSTANCE, table=False),
                refused=(400, 404),
            ),
            "delete": _operation(
                "deregister",
                "Instances",
                "Deregister an instance",
                "It is gone at once. One that is still running registers again after its next heartbeat.",
                ok=_ok({"schema": {"type": "string", "const": "OK"}, "example": "OK"}, TEXT),
                refused=(400, 404, 409),
            ),
        },
        "/registry/v1/instances/{instanceId}/drain": {
            "parameters": [parameters.ID],
            "post": _operation(
                "drain",
                "Instances",
                "Take an instance out of service for a time",
                "It is `DOWN` with the reason `DRAINED`, whatever it reports; its heartbeats go on as before. It stays so when it "
                "is registered anew. Again: with another end. Takes the role admin.",
                body=_content("Drain", schemas.EXAMPLE_DRAIN, required=False),
                ok=_ok(_INSTANCE),
                refused=(400, 404, 408, 413),
            ),
            "delete": _operation(
                "undrain",
                "Instances",
                "Put a drained instance back into service before its time",
                "One that is not drained stays as it is. Takes the role admin.",
                ok=_ok(_INSTANCE) | {"204": {"description": "Done; it is not registered."}},
                refused=(400, 404),
            ),
        },
        "/registry/v1/services/json": {
            "get": _operation("listServices", "Services", "List all services", ok=_ok(_SERVICES)),
        },
        "/registry/v1/services/": {"get": _services("showServices", "Show all services, as the panel or as JSON")},
        "/registry/v1/services": {"get": _services("showServicesToo", "The same, without the slash at its end")},
        "/registry/v1/services/{name}": {
            "get": _operation(
                "getService",
                "Services",
                "Show one service, as a page or as JSON",
                "JSON for whoever prefers it in the `Accept` header.",
                parameters=[parameters.NAME, *parameters.OF_INSTANCES],
                ok=_negotiated(_SERVICE),
                refused=(404,),
            ),
        },
        "/registry/v1/changes": {
            "get": _operation(
                "followChanges",
                "Services",
                "Learn when something has changed",
                "Server-sent events that say which `revision` it is, of which `feed` (another one after a restart of Luna), and "
                "how many instances are down and not drained: at once, and then at most once a second. Not what has changed.",
                parameters=[parameters.ONCE],
                ok=_ok({"schema": {"description": "Events, one after another."}, "example": _EVENT}, EVENTS),
            ),
        },
        "/registry/v1/journal": {
            "get": _operation(
                "getJournal",
                "About",
                "Show what happened of late, as a page or as JSON",
                "The latest change comes first. JSON for whoever prefers it in the `Accept` header.",
                parameters=parameters.OF_CHANGES,
                ok=_negotiated(_CHANGES),
            ),
        },
        "/livez": {
            "get": _probe("live", "Ask whether the process answers", "If not, restart it.", ok=_ok(_LINE, TEXT)),
        },
        "/readyz": {
            "get": _probe(
                "ready",
                "Ask whether it is ready for requests",
                "If not, send none for now: it is starting or stopping.",
                parameters=[parameters.VERBOSE],
                ok=_ok(_LINE, TEXT) | {"503": {"description": "It is not ready.", "content": {TEXT: _LINE}}},
            ),
        },
        "/metrics": {
            "get": _operation(
                "getMetrics",
                "About",
                "Fetch all metrics, for Prometheus",
                "As OpenMetrics for whoever prefers that in the `Accept` header, else in the text format of Prometheus.",
                ok={
                    "200": {
                        "description": "Done.",
                        "headers": {"Vary": {"$ref": "#/components/headers/Vary"}},
                        "content": {TEXT: _LINE, "application/openmetrics-text": _LINE},
                    }
                },
            ),
        },
        "/registry/v1/openapi.json": {
            "get": _operation("getDocument", "About", "Fetch this document", ok=_ok({"schema": {"type": "object"}})),
        },
        "/registry/v1/docs": {
            "get": _operation("tryIt", "About", "Try the API in a browser", ok=_ok(_PAGE_OF_HTML, HTML)),
        },
        "/": {
            "get": {
                **_operation("goToPanel", "About", "Go to the panel", ok=_redirect(), guarded=(403, 500)),
                "security": [],
            },
        },
    }


def _register() -> Part:
    created = {"201": {"description": "It is registered.", "content": {JSON: _INSTANCE}, "links": _NEXT}}
    return _operation(
        "registerInstance",
        "Instances",
        "Register an instance",
        "Refused while the id has a live lease; over one whose lease has run out it is accepted.",
        body=_content("InstanceInput", EXAMPLE_INPUT, required=True),
        ok=created,
        refused=(400, 408, 413),
    )


def _heartbeat() -> Part:
    return _operation(
        "heartbeat",
        "Instances",
        "Send a heartbeat",
        "It renews the lease and replaces what is known of the instance. With an empty body it only renews.",
        body=_content("InstanceInput", EXAMPLE_INPUT, required=False),
        ok=_ok(_INSTANCE),
        refused=(400, 404, 408, 409, 413),
    )


def _services(operation_id: str, summary: str) -> Part:
    return _operation(
        operation_id,
        "Services",
        summary,
        "JSON for whoever prefers it in the `Accept` header.",
        parameters=parameters.OF_SERVICES,
        ok=_negotiated(_SERVICES),
    )


def _operation(
    operation_id: str,
    tag: str,
    summary: str,
    description: str = "",
    *,
    ok: Part,
    refused: Iterable[int] = (),
    guarded: Iterable[int] = _GUARDED,
    parameters: Iterable[Part] = (),
    body: Part | None = None,
) -> Part:
    operation: Part = {"operationId": operation_id, "tags": [tag], "summary": summary}
    if description:
        operation["description"] = description
    if parameters:
        operation["parameters"] = list(parameters)
    if body:
        operation["requestBody"] = body
    operation["responses"] = ok | refusals(*refused, *guarded, *_SLOW_OR_LARGE)
    return operation


def _probe(operation_id: str, summary: str, description: str, *, ok: Part, parameters: Iterable[Part] = ()) -> Part:
    operation = _operation(operation_id, "Probes", summary, description, ok=ok, guarded=(), parameters=parameters)
    return operation | {"security": []}


def _content(schema: str, example: Part, *, required: bool) -> Part:
    return {
        "required": required,
        "content": {JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}, "example": example}},
    }


def _ok(content: Part, media_type: str = JSON) -> Part:
    return {"200": {"description": "Done.", "content": {media_type: content}}}


def _negotiated(as_json: Part, *, table: bool = True) -> Part:
    return {
        "200": {
            "description": "A page, or JSON.",
            "headers": {"Vary": {"$ref": "#/components/headers/Vary"}},
            "content": {JSON: as_json, HTML: _PAGE_OF_HTML, CSV: _TABLE} if table else {JSON: as_json, HTML: _PAGE_OF_HTML},
        }
    }


def _redirect() -> Part:
    location = {"description": "Where the panel is.", "required": True, "schema": {"type": "string"}}
    return {"302": {"description": "The panel is elsewhere.", "headers": {"Location": location}}}
