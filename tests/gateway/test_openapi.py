"""The OpenAPI document says what the server does: routes, limits, errors, answers."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest
from aiohttp import ClientSession
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway import errors, views
from gateway.openapi import document
from gateway.schemas import EXAMPLE_INPUT, refusals
from luna_grpc.errors import InvalidArgumentError
from luna_grpc.model import (
    ITSELF,
    MAX_DESCRIPTION,
    MAX_METADATA,
    MAX_METADATA_KEY,
    MAX_METADATA_VALUE,
    MAX_NAME,
    MAX_URL,
    MAX_VERSION,
    MAX_WEIGHT,
    Info,
    Status,
    check_instance_id,
)
from luna_grpc.serve import Running, running
from support import basic, session, settings_for_tests

HERE = Path(__file__).parent
DOCUMENT = document(100 * 1024)
ID = EXAMPLE_INPUT["instanceId"]
OPERATIONS = {
    (method.upper(), path): operation
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
    if method != "parameters"
}
EXAMPLES = 15
"""Requests for each operation and each phase of schemathesis; 500 were tried once, and found no more."""


def accepts(check: Any, said: object) -> bool:
    """Whether a function lets something pass."""
    try:
        check(said)
    except InvalidArgumentError:
        return False
    return True


def validator(name: str, *, formats: bool = True) -> Any:
    """Return a validator of a schema of the document; the formats mean what the document says in words."""
    known = {
        "printable": str.isprintable,
        "instance-id": lambda text: accepts(check_instance_id, text),
        "http-url": lambda text: accepts(lambda url: Info.of(ID, url=url), text),
    }
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return jsonschema_rs.Draft202012Validator(schema, formats=known, validate_formats=formats)


INPUT = validator("InstanceInput")


def test_the_document_is_valid() -> None:
    """By the schema of OpenAPI 3.1; and as JSON it is the same."""
    assert list(OpenAPIV31SpecValidator(orjson.loads(orjson.dumps(DOCUMENT))).iter_errors()) == []


async def test_the_document_is_served(rest: ClientSession) -> None:
    """With the limit that holds."""
    response = await rest.get("/registry/v1/openapi.json")
    assert (response.status, response.headers["Content-Type"]) == (200, "application/json; charset=utf-8")
    assert await response.json() == orjson.loads(orjson.dumps(DOCUMENT))
    assert "102,400 bytes" in DOCUMENT["info"]["description"]


def test_every_route_is_in_the_document(server: Running) -> None:
    """And no other. HEAD goes with GET; static files and forms are the pages' own, and may change."""
    routes = {
        (route.method, route.resource.canonical)
        for route in server.rest.app.router.routes()
        if route.resource is not None
        and route.method not in {"HEAD", "*"}
        and not route.resource.canonical.startswith(("/registry/v1/static/", "/registry/v1/panel/"))
    }
    assert set(OPERATIONS) == routes


def test_every_operation_says_who_may_ask_and_what_may_go_wrong() -> None:
    """Below `/registry/` and for metrics credentials are needed, elsewhere not; each has words and a name of its own."""
    for (_, path), operation in OPERATIONS.items():
        protected = path.startswith(("/registry/", "/metrics"))
        assert (operation.get("security") == []) == (not protected)
        assert set(operation["responses"]) >= ({"401", "403", "429", "500", "503"} if protected else set())
        assert operation["summary"]
        for parameter in operation.get("parameters", []):
            assert parameter["description"]
    names = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(set(names)) == len(names)


def test_every_error_is_in_the_document() -> None:
    """Each status of the tables with its codes, and no other."""
    known: dict[int, set[str]] = {500: {errors.INTERNAL}}
    for error, status in errors.STATUS.items():
        known.setdefault(status, set()).add(error.code)
    for status, code in errors.CODES.items():
        known.setdefault(status, set()).add(code)
    responses = dict(DOCUMENT["components"]["responses"])
    for status, codes in known.items():
        name = refusals(status)[str(status)]["$ref"].rpartition("/")[2]
        schema = responses.pop(name)["content"]["application/json"]["schema"]
        assert set(schema["allOf"][1]["properties"]["code"]["enum"]) == codes
    assert responses == {}


# What is sent

TEXTS = st.one_of(
    st.text(max_size=5), st.sampled_from(["a", "Bücher 本", "json", ".", "..", " a", "a ", "a\nb", "\u202e", "\u200b", "\0"])
)


def near(limit: int) -> st.SearchStrategy[str]:
    """Make texts, some of them as long as is allowed or one character longer."""
    return st.one_of(TEXTS, st.sampled_from(["x" * limit, "x" * (limit + 1), "本" * limit, "本" * (limit + 1)]))


URLS = st.one_of(
    TEXTS,
    st.sampled_from(
        ["http://h", "HTTPS://h/", "http://h?x", "http://[::1]:5/ä", "javascript:alert(1)", "http://", "http:///x", "//h/"]
    ),
    st.sampled_from(
        ["http://h:0/", "http://h:99999/", "http://h/a b", "http://h\\@e/", "http://h/\u2028", "ftp://h/", "http://[::1/"]
    ),
    st.sampled_from(["http://" + "h" * (MAX_URL - 7 - less) + end for less in (-1, 0, 1, 2) for end in ("", "/", "?", "/x")]),
)
IDS = st.sampled_from(
    [
        ID,
        "a:b",
        "a:b:0",
        "a:b:65535",
        "a:b:65536",
        "a:1.2:3",
        "a:1.2.3.4:5",
        "s:[::1]:1",
        "s:[::g]:1",
        "x" * 129 + ":h:1",
        "a:-b:1",
        "ä:h:1",
    ]
)
ENTRIES = st.dictionaries(near(MAX_METADATA_KEY), st.one_of(near(MAX_METADATA_VALUE), st.none(), st.integers()), max_size=3)
MANY = st.sampled_from([{str(number): "x" for number in range(count)} for count in (MAX_METADATA, MAX_METADATA + 1)])
WEIGHTS = st.one_of(
    st.sampled_from([None, 0, 1, 1.0, 1.5, -1, MAX_WEIGHT, MAX_WEIGHT + 1, True, "1"]),
    st.integers(-3, 3),
    st.floats(allow_nan=False),
)
VALUES = {
    "instanceId": IDS,
    "name": near(MAX_NAME),
    "description": near(MAX_DESCRIPTION),
    "version": near(MAX_VERSION),
    "url": URLS,
    "status": st.sampled_from(["OK", "DOWN", "UP", "ok", ""]),
    "balancerOptions": st.one_of(st.builds(lambda weight: {"weight": weight}, WEIGHTS), st.sampled_from([{}, {"x": 1}, [], "x"])),
    "metadata": st.one_of(ENTRIES, MANY, st.sampled_from([[], "x", 1])),
    "more": st.sampled_from([1, [], {"x": None}]),
}


@st.composite
def instances(draw: st.DrawFn) -> dict[str, Any]:
    """Make an instance in which one or two fields are different from the example, or missing."""
    said: dict[str, Any] = dict(EXAMPLE_INPUT)
    for field in draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=2, unique=True)):
        if draw(st.integers(0, 9)) == 0:
            said.pop(field, None)
        else:
            said[field] = draw(st.one_of(VALUES[field], VALUES[field], st.sampled_from([None, 5])))
    return said


@settings(max_examples=500, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(said=instances())
@example(said=EXAMPLE_INPUT)
@example(said={**EXAMPLE_INPUT, "url": "http://" + "h" * (MAX_URL - 7)})
def test_what_the_document_allows_is_what_is_taken(said: dict[str, Any]) -> None:
    """No more and no less: limits, patterns and required fields are the model's."""
    taken = accepts(lambda body: views.read_instance(str(said.get("instanceId")), body), orjson.dumps(said))
    assert INPUT.is_valid(said) == taken


LIMITS = [
    ("name", "x" * MAX_NAME, "x" * (MAX_NAME + 1)),
    ("description", "x" * MAX_DESCRIPTION, "x" * (MAX_DESCRIPTION + 1)),
    ("version", "x" * MAX_VERSION, "x" * (MAX_VERSION + 1)),
    ("url", "http://h/".ljust(MAX_URL, "x"), "http://h/".ljust(MAX_URL + 1, "x")),
    ("url", "http://h".ljust(MAX_URL - 1, "h"), "http://h".ljust(MAX_URL, "h")),  # a path is added to it
    ("balancerOptions", {"weight": MAX_WEIGHT}, {"weight": MAX_WEIGHT + 1}),
    ("balancerOptions", {"weight": 0}, {"weight": -1}),
    ("metadata", {str(n): "" for n in range(MAX_METADATA)}, {str(n): "" for n in range(MAX_METADATA + 1)}),
    ("metadata", {"k" * MAX_METADATA_KEY: ""}, {"k" * (MAX_METADATA_KEY + 1): ""}),
    ("metadata", {"k": "x" * MAX_METADATA_VALUE}, {"k": "x" * (MAX_METADATA_VALUE + 1)}),
    ("metadata", {"k": ""}, {"": ""}),
]


@pytest.mark.parametrize(("field", "most", "more"), LIMITS)
def test_limits_are_in_the_document(field: str, most: object, more: object) -> None:
    """What is just allowed and what is just not; without a look at our formats, which few know."""
    plain = validator("InstanceInput", formats=False)
    for value, allowed in ((most, True), (more, False)):
        said = {**EXAMPLE_INPUT, field: value}
        assert plain.is_valid(said) == allowed
        assert accepts(lambda body: views.read_instance(ID, body), orjson.dumps(said)) == allowed


# What is answered


async def test_answers_have_the_fields_of_the_document(server: Running, rest: ClientSession) -> None:
    """All of them, and no others; also what came in over gRPC, where less is required."""
    await rest.post(f"/registry/v1/instances/{ID}", json=EXAMPLE_INPUT)
    await server.registry.register(Info.of("bare:[::1]:1", url="http://" + "h" * (MAX_URL - 8)), Status.DOWN, actor=ITSELF)
    services = await (await rest.get("/registry/v1/services/json")).json()
    assert len(services) == 2
    for service in services:
        assert validator("Service").is_valid(service)
        assert set(service) == set(DOCUMENT["components"]["schemas"]["Service"]["properties"])
        for instance in service["instances"]:
            assert set(DOCUMENT["components"]["schemas"]["Instance"]["properties"]) - set(instance) <= {"metadata", "drainedUntil"}
            assert set(instance) <= set(DOCUMENT["components"]["schemas"]["Instance"]["properties"])


async def test_a_503_says_when_to_come_back(server: Running, rest: ClientSession) -> None:
    """While the state file is read."""
    server.registry.loading = True
    response = await rest.get("/registry/v1/services/json")
    assert (response.status, response.headers["Retry-After"]) == (503, "1")


# Whatever schemathesis can think of


async def schemathesis(tmp_path: Path, server: Running, *more: str) -> str:
    """Run all checks of schemathesis against a server, and return what it prints."""
    path = tmp_path / "openapi.json"
    path.write_bytes(orjson.dumps(DOCUMENT))
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("schemathesis"), "run", path, "--url", f"http://127.0.0.1:{server.rest_port}",
        "--checks", "all", "--generation-deterministic", "--max-examples", str(EXAMPLES), "--continue-on-failure",
        # Else it leaves out credentials and gives them all the same, and wonders why it is let in.
        "--generation-with-security-parameters", "false",
        # A busy machine is not a fault of ours.
        "--suppress-health-check", "all", "--no-color", *more,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(HERE), "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "SIGNED_IN": "yes" if more else ""},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


@pytest.mark.parametrize("credentials", [True, False])
async def test_schemathesis_finds_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture, credentials: bool) -> None:
    """All operations, good and bad data, sequences; with credentials, and without, when nothing that is protected is answered."""
    async with running(settings_for_tests(max_failed_logins=0)) as server:
        out = await schemathesis(tmp_path, server, *(["--auth", "admin:"] if credentials else []))
        assert f"Selected: {len(OPERATIONS)}/{len(OPERATIONS)}" in out
        assert "No issues found" in out or not credentials
        if not credentials:
            protected = sum(path.startswith(("/registry/", "/metrics")) for _, path in OPERATIONS)
            assert f"401 Unauthorized ({protected} operations)" in out
            assert server.registry.store.feed.revision == 0
        async with session(f"http://127.0.0.1:{server.rest_port}", basic()) as rest:
            assert (await rest.get("/registry/v1/services/json")).status == 200
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
