"""The OpenAPI document as it is served, and the page to try the API, made from the same document.

The page is complete without JavaScript: words, examples and commands to copy. Its script (static/try.js) makes the forms work.
"""

import json
import shlex
from typing import Final
from urllib.parse import quote

import orjson
from aiohttp import web

from gateway.answers import written_json
from gateway.openapi import JSON, Part, document
from gateway.pages import page
from luna_grpc.access import User

_METHODS: Final = ("post", "put", "get", "delete")


class Docs:
    """The handlers; each is given a request and the user behind it. `max_body`: see `document`."""

    def __init__(self, max_body: int) -> None:
        self._document = document(max_body)
        self._written = orjson.dumps(self._document, option=orjson.OPT_INDENT_2)
        self._groups = _groups(self._document)
        self._fields = _fields(self._document, self._document["components"]["schemas"]["InstanceInput"])

    async def openapi(self, _: web.Request, __: User) -> web.Response:
        """Answer with the document."""
        return written_json(self._written)

    async def try_page(self, request: web.Request, user: User) -> web.Response:
        """Show every operation, with a form to try it."""
        info = self._document["info"]
        origin = f"{request.scheme}://{request.headers.get('Host', 'localhost:4000')}"
        return page(
            "docs.html",
            paragraphs=info["description"].split("\n\n"),
            groups=self._groups,
            fields=self._fields,
            user=user.name,
            command=lambda operation: _command(operation, origin, user.name),
        )


def _groups(openapi: Part) -> list[Part]:
    operations = [
        _operation(openapi, path, method, item[method])
        for path, item in openapi["paths"].items()
        for method in _METHODS
        if method in item
    ]
    return [
        {**tag, "operations": [operation for operation in operations if operation["tag"] == tag["name"]]} for tag in openapi["tags"]
    ]


def _operation(openapi: Part, path: str, method: str, operation: Part) -> Part:
    """Return what the page shows of an operation."""
    parameters = [*openapi["paths"][path].get("parameters", []), *operation.get("parameters", [])]
    body = operation.get("requestBody")
    answers = {status: _resolved(openapi, answer) for status, answer in operation["responses"].items()}
    return {
        "id": operation["operationId"],
        "tag": operation["tags"][0],
        "method": method.upper(),
        "path": path,
        "summary": operation["summary"],
        "description": operation.get("description", ""),
        "open": operation.get("security") == [],
        "parameters": [{"required": False, "example": "", **parameter} for parameter in parameters],
        "body": _pretty(body["content"][JSON]["example"]) if body else "",
        "body_required": bool(body and body["required"]),
        "accepts": list(next(iter(answers.values())).get("content", {})),
        "answers": [{"status": status, "words": answer["description"]} for status, answer in answers.items()],
        "example": next((_pretty(each["example"]) for each in _contents(answers) if "example" in each), ""),
    }


def _fields(openapi: Part, schema: Part, parent: str = "") -> list[Part]:
    """Return what the page shows of the fields of an object, those of the objects in it included."""
    rows = []
    for name, said in schema["properties"].items():
        field = _resolved(openapi, said) | said
        required = name in schema.get("required", ())
        rows.append({"name": parent + name, "required": required, "rules": _rules(field), "words": field["description"]})
        rows += _fields(openapi, field, f"{name}.") if "properties" in field else []
    return rows


def _rules(schema: Part) -> str:
    kind = next(kind for kind in ("string", "integer", "object") if kind in schema["type"])
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if kind == "integer":
        return f"whole number, {schema['minimum']} to {schema['maximum']}"
    if kind == "object":
        return f"object of at most {schema['maxProperties']} strings" if "maxProperties" in schema else "object"
    if "maxLength" not in schema:
        return "text"
    least = f"{schema['minLength']} to" if "minLength" in schema else "at most"
    return f"text, {least} {schema['maxLength']} characters"


def _contents(answers: Part) -> list[Part]:
    return [content for answer in answers.values() for content in answer.get("content", {}).values()]


def _resolved(openapi: Part, part: Part) -> Part:
    if "$ref" not in part:
        return part
    *_, kind, name = part["$ref"].split("/")
    resolved: Part = openapi["components"][kind][name]
    return resolved


def _pretty(example: object) -> str:
    return example if isinstance(example, str) else json.dumps(example, indent=2, ensure_ascii=False)


def _command(operation: Part, origin: str, user: str) -> str:
    """Return how curl sends the example; try.js does the same with what is in the form."""
    path, query = operation["path"], []
    for parameter in operation["parameters"]:
        value = quote(parameter["example"], safe="")
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", value)
        elif value:
            query.append(f"{parameter['name']}={value}")
    url = origin + path + ("?" + "&".join(query) if query else "")
    words = ["curl", "-i"]
    words += [] if operation["open"] else ["-u", f"{user}:"]
    words += [] if operation["method"] == "GET" else ["-X", operation["method"]]
    words += ["-H", f"Accept: {operation['accepts'][0]}"] if len(operation["accepts"]) > 1 else []
    words.append(url)
    words += ["--data-raw", operation["body"]] if operation["body"] else []
    return shlex.join(words)
