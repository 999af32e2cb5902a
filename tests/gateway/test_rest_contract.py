"""Each row of the REST contract (docs/api.md): status, content type and body.

Recorded from the original Luna, whose clients must go on working.
"""

import asyncio
import json
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import ClientResponse, ClientSession
from yarl import URL

from gateway import lists
from luna_grpc.model import ITSELF, Info, Status, StatusReason
from luna_grpc.registry import Beat
from luna_grpc.serve import Running, running
from support import basic, instance_json, session, settings_for_tests, status_of

ID = "orders:localhost:8080"
PATH = f"/registry/v1/instances/{ID}"
JSON = "application/json; charset=utf-8"


async def refused(response: ClientResponse, status: int, code: str, field: str | None = None) -> str:
    """Check a refusal and return its words."""
    assert (response.status, response.headers["Content-Type"]) == (status, JSON)
    body = await response.json()
    assert set(body) == {"error", "code"} | ({"field"} if field else set())
    assert (body["code"], body.get("field")) == (code, field)
    words = body["error"]
    assert isinstance(words, str)
    return words


async def test_post_of_a_new_instance(rest: ClientSession, server: Running) -> None:
    """201, the instance as JSON; the time is the server's."""
    sent = instance_json(ID, last_heartbeat=5, registeredAt=6, statusReason="x", unknown={"deep": [1]})
    response = await rest.post(PATH, json=sent)
    assert (response.status, response.headers["Content-Type"]) == (201, JSON)
    registration = server.registry.get(ID)
    assert await response.json() == {
        "instanceId": ID,
        "name": "orders",
        "description": "The orders service",
        "version": "1.0.0",
        "url": "http://localhost:8080/",
        "status": "OK",
        "balancerOptions": {},
        "last_heartbeat": registration.last_heartbeat,
        "statusReason": "REPORTED",
        "registeredAt": registration.instance.registered_at,
    }


async def test_post_of_a_registered_id(rest: ClientSession) -> None:
    """400, code ALREADY_EXISTS."""
    await rest.post(PATH, json=instance_json(ID))
    await refused(await rest.post(PATH, json=instance_json(ID)), 400, "ALREADY_EXISTS")


async def test_post_over_an_expired_registration(rest: ClientSession, server: Running) -> None:
    """201: a crashed service that comes back."""
    await rest.post(PATH, json=instance_json(ID))
    await server.registry.store.end([server.registry.get(ID)], StatusReason.LEASE_EXPIRED, now=0, actor=ITSELF)
    assert (await (await rest.get(PATH)).json())["statusReason"] == "LEASE_EXPIRED"
    response = await rest.post(PATH, json=instance_json(ID))
    assert (response.status, (await response.json())["status"]) == (201, "OK")


async def test_drain_and_undrain(rest: ClientSession, server: Running) -> None:
    """For an hour, or for the seconds of the body; a heartbeat does not end it."""
    await rest.post(PATH, json=instance_json(ID))
    now = server.registry._clock.wall_ms()
    for body, seconds in ((b"", 3600), (b'{"duration": 1.5}', 1.5), (b'{"duration": null}', 3600)):
        response = await rest.post(f"{PATH}/drain", data=body)
        drained = await response.json()
        assert (response.status, drained["status"], drained["statusReason"]) == (200, "DOWN", "DRAINED")
        assert 0 <= drained["drainedUntil"] - now - seconds * 1000 < 60_000
    for _ in range(2):
        heard = await (await rest.put(PATH, json=instance_json(ID))).json()
        assert (heard["status"], heard["drainedUntil"]) == ("DOWN", drained["drainedUntil"])
    response = await rest.delete(f"{PATH}/drain")
    undrained = await response.json()
    assert (response.status, undrained["status"], "drainedUntil" in undrained) == (200, "OK", False)
    await rest.post(f"{PATH}/drain")
    await rest.delete(PATH)
    assert (await rest.delete(f"{PATH}/drain")).status == 204
    await refused(await rest.delete(f"{PATH}/drain"), 404, "NOT_FOUND")
    await refused(await rest.post(f"{PATH}/drain"), 404, "NOT_FOUND")


@pytest.mark.parametrize("duration", ["0", "0.9", "-1", "1e300", "2592001", '"1h"', "true", "[]", "18446744073709551616"])
async def test_a_drain_that_is_no_time(rest: ClientSession, duration: str) -> None:
    """400: one second to thirty days."""
    await rest.post(PATH, json=instance_json(ID))
    response = await rest.post(f"{PATH}/drain", data=f'{{"duration": {duration}}}')
    await refused(response, 400, "INVALID_ARGUMENT", "duration")


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_body_about_another_instance(rest: ClientSession, method: str) -> None:
    """400: the path and the body name different ids."""
    response = await rest.request(method, PATH, json=instance_json("other:localhost:1"))
    await refused(response, 400, "INVALID_ARGUMENT", "instanceId")


async def test_put_of_a_known_instance(rest: ClientSession) -> None:
    """200, the instance as JSON, with what the heartbeat said."""
    first = await (await rest.post(PATH, json=instance_json(ID))).json()
    changes = {"status": "DOWN", "version": "2", "description": "new", "balancerOptions": {"weight": 3}, "metadata": {"zone": "a"}}
    response = await rest.put(PATH, json=instance_json(ID, **changes))
    assert (response.status, response.headers["Content-Type"]) == (200, JSON)
    body = await response.json()
    assert body.pop("last_heartbeat") >= first.pop("last_heartbeat")
    assert body == first | changes


async def test_put_with_an_empty_body(rest: ClientSession) -> None:
    """A bare heartbeat: what is stored and what was reported stays."""
    first = await (await rest.post(PATH, json=instance_json(ID, status="DOWN"))).json()
    response = await rest.put(PATH)
    body = await response.json()
    assert body.pop("last_heartbeat") >= first.pop("last_heartbeat")
    assert (response.status, body) == (200, first)


async def test_a_heartbeat_repeated_letter_by_letter(rest: ClientSession, server: Running) -> None:
    """It renews, counts, and is answered alike, until something else has happened to the instance meanwhile."""
    registered = server.registry
    await rest.post(PATH, json=instance_json(ID))
    first = await (await rest.put(PATH, json=instance_json(ID))).json()
    registered.get(ID).last_heartbeat = 1
    again = await (await rest.put(PATH, json=instance_json(ID))).json()
    assert again.pop("last_heartbeat") >= first.pop("last_heartbeat")
    assert (again, registered.heartbeats, registered.store.feed.revision) == (first, 2, 1)

    await rest.put(PATH, json=instance_json(ID, version="2"))
    assert (await (await rest.put(PATH, json=instance_json(ID))).json())["version"] == "1.0.0"

    await registered.store.end([registered.get(ID)], StatusReason.LEASE_EXPIRED, now=0, actor=ITSELF)
    back = await (await rest.put(PATH, json=instance_json(ID))).json()
    assert (back["status"], back["statusReason"], registered.get(ID).live) == ("OK", "REPORTED", True)

    await rest.delete(PATH)
    await refused(await rest.put(PATH, json=instance_json(ID)), 404, "NOT_FOUND")
    await rest.post(PATH, json=instance_json(ID, status="DOWN"))
    assert (await (await rest.put(PATH, json=instance_json(ID))).json())["status"] == "OK"


@pytest.mark.parametrize("body", [None, instance_json(ID)])
async def test_put_of_an_unknown_instance(rest: ClientSession, body: dict[str, Any] | None) -> None:
    """404, code NOT_FOUND: clients answer with a POST."""
    await refused(await rest.put(PATH, json=body) if body else await rest.put(PATH), 404, "NOT_FOUND")


async def test_get(rest: ClientSession) -> None:
    """200 JSON, or 404."""
    await refused(await rest.get(PATH), 404, "NOT_FOUND")
    posted = await (await rest.post(PATH, json=instance_json(ID))).json()
    response = await rest.get(PATH)
    assert (response.status, response.headers["Content-Type"], await response.json()) == (200, JSON, posted)


async def test_delete(rest: ClientSession) -> None:
    """200 and the text OK, or 404."""
    await refused(await rest.delete(PATH), 404, "NOT_FOUND")
    await rest.post(PATH, json=instance_json(ID))
    response = await rest.delete(PATH)
    assert (response.status, response.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert await response.text() == "OK"
    assert (await rest.get(PATH)).status == 404


@pytest.mark.parametrize("path", ["/registry/v1/services", "/registry/v1/services/"])
@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "text/html; charset=utf-8"),
        ("*/*", "text/html; charset=utf-8"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html; charset=utf-8"),
        ("application/json", JSON),
        ("application/json, text/plain, */*", JSON),
        ("application/json;q=0.5, text/html", "text/html; charset=utf-8"),
        ("text/html;q=0.5, application/json", JSON),
    ],
)
async def test_the_list_comes_as_panel_or_json(rest: ClientSession, path: str, accept: str | None, content_type: str) -> None:
    """The panel, but JSON for who asks for it."""
    response = await rest.get(path, headers={"Accept": accept} if accept else {})
    assert (response.status, response.headers["Content-Type"]) == (200, content_type)
    assert response.headers["Vary"] == "Accept"


async def test_services_json(rest: ClientSession) -> None:
    """200, an array of services; UP while one instance is OK; gone with the last instance."""
    response = await rest.get("/registry/v1/services/json")
    assert (response.status, response.headers["Content-Type"], await response.json()) == (200, JSON, [])
    one, two = "orders:h:1", "orders:h:2"
    first = await (await rest.post(f"/registry/v1/instances/{one}", json=instance_json(one, description="first"))).json()
    second = await (
        await rest.post(f"/registry/v1/instances/{two}", json=instance_json(two, description="second", status="DOWN"))
    ).json()
    [service] = await (await rest.get("/registry/v1/services/json")).json()
    assert service == {"name": "orders", "description": "first", "status": "UP", "instances": [first, second]}
    await rest.put(f"/registry/v1/instances/{one}", json=instance_json(one, status="DOWN"))
    [service] = await (await rest.get("/registry/v1/services/json")).json()
    assert service["status"] == "DOWN"
    for instance_id in (one, two):
        await rest.delete(f"/registry/v1/instances/{instance_id}")
    assert await (await rest.get("/registry/v1/services/json")).json() == []


async def test_one_service(rest: ClientSession) -> None:
    """As a page or as JSON; 404 when there is none."""
    path = "/registry/v1/services/orders"
    await refused(await rest.get(path), 404, "NOT_FOUND")
    posted = await (await rest.post(PATH, json=instance_json(ID))).json()
    response = await rest.get(path, headers={"Accept": "application/json"})
    assert await response.json() == {
        "name": "orders", "description": "The orders service", "status": "UP", "instances": [posted],
    }  # fmt: skip
    response = await rest.get(path)
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    "raw",
    ["orders", "a:b", "a:b:0", "a:b:x", "a%2Fb:h:1", "a%00b:h:1", "ä:h:1", "a:h:1%0A", "%3Cscript%3E:h:1", "a%7Bb:h:1", "{x}"],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
async def test_a_malformed_id(server: Running, raw: str, method: str) -> None:
    """400, also when %2F and %00 hide in it."""
    async with ClientSession() as client:
        url = URL(f"http://127.0.0.1:{server.rest_port}/registry/v1/instances/{raw}", encoded=raw.isascii())
        response = await client.request(method, url, headers={"Authorization": basic()})
        await refused(response, 400, "INVALID_ARGUMENT", "instanceId")


@pytest.mark.parametrize("instance_id", ["my-svc:h:80", "s6:[::1]:80", "a.b_c-d:10.0.0.1:65535"])
@pytest.mark.parametrize("encoded", [False, True])
async def test_ids_come_back_as_sent(rest: ClientSession, instance_id: str, encoded: bool) -> None:
    """Dashes and IPv6 too, with the colons raw or percent-encoded."""
    path = URL("/registry/v1/instances/" + quote(instance_id, safe="" if encoded else ":[]"), encoded=True)
    response = await rest.post(path, json=instance_json(instance_id))
    assert (response.status, (await response.json())["instanceId"]) == (201, instance_id)
    assert (await (await rest.get(path)).json())["instanceId"] == instance_id


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        *[({field: None}, field) for field in ("instanceId", "name", "version", "url", "status")],
        *[({field: ""}, field) for field in ("name", "version", "url", "status")],
        *[({field: 5}, field) for field in ("instanceId", "name", "version", "url", "status", "description")],
        ({"status": "UP"}, "status"),
        ({"status": "ok"}, "status"),
        ({"url": "javascript:alert(1)"}, "url"),
        ({"url": "localhost:8080"}, "url"),
        ({"version": "x" * 65}, "version"),
        ({"name": "json"}, "name"),
        ({"name": "x" * 129}, "name"),
        ({"description": ["x"]}, "description"),
        ({"balancerOptions": 5}, "balancerOptions"),
        ({"balancerOptions": []}, "balancerOptions"),
        ({"balancerOptions": {"weight": 1.5}}, "balancerOptions.weight"),
        ({"balancerOptions": {"weight": 1e300}}, "balancerOptions.weight"),
        ({"balancerOptions": {"weight": -1}}, "balancerOptions.weight"),
        ({"balancerOptions": {"weight": "1"}}, "balancerOptions.weight"),
        ({"balancerOptions": {"weight": True}}, "balancerOptions.weight"),
        ({"balancerOptions": {"weight": 2**32}}, "balancerOptions.weight"),
        ({"metadata": {"zone": 5}}, "metadata"),
        ({"metadata": "x"}, "metadata"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_bad_or_missing_field(rest: ClientSession, method: str, changes: dict[str, Any], field: str) -> None:
    """400, naming the field; nothing is changed."""
    if method == "PUT":
        await rest.post(PATH, json=instance_json(ID))
    before = await (await rest.get(PATH)).json()
    words = await refused(await rest.request(method, PATH, json=instance_json(ID, **changes)), 400, "INVALID_ARGUMENT", field)
    assert field.rpartition(".")[2] in words
    assert await (await rest.get(PATH)).json() == before


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'"x"', b"null", b"5", b"\xff", b'{"instanceId": "\\ud800"}', b"[" * 5000, b" ", b'{"a":1}garbage']
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_body_that_is_no_json_object(rest: ClientSession, method: str, body: bytes) -> None:
    """400, naming the body."""
    await refused(await rest.request(method, PATH, data=body), 400, "INVALID_ARGUMENT", "body")


@pytest.mark.parametrize("field", ["instanceId", "name", "status", "balancerOptions", "metadata", "unknown"])
async def test_a_field_of_great_depth(rest: ClientSession, field: str) -> None:
    """400 like any other wrong value: what is refused is not written out. A field that is ignored is ignored."""
    body = json.dumps(instance_json(ID, **{field: "deep"})).replace('"deep"', "[" * 1000 + "]" * 1000)
    response = await rest.post(PATH, data=body)
    if field == "unknown":
        assert response.status == 201
    else:
        await refused(response, 400, "INVALID_ARGUMENT", field)


async def test_a_body_in_another_encoding_than_its_headers_say(rest: ClientSession) -> None:
    """400, not a failure of ours."""
    response = await rest.put(PATH, data=b"no gzip", headers={"Content-Encoding": "gzip"})
    await refused(response, 400, "INVALID_ARGUMENT", "body")


async def test_last_heartbeat_is_the_last_one(rest: ClientSession, server: Running) -> None:
    """Not the time of the registration, nor that of the request."""
    await rest.post(PATH, json=instance_json(ID))
    server.registry.get(ID).last_heartbeat = 5
    assert (await (await rest.get(PATH)).json())["last_heartbeat"] == 5


async def test_an_empty_post(rest: ClientSession) -> None:
    """400: there is nothing to register."""
    await refused(await rest.post(PATH), 400, "INVALID_ARGUMENT", "body")


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_body_over_100_kib(rest: ClientSession, method: str) -> None:
    """413; 100 KiB are taken."""
    body = json.dumps(instance_json(ID)).encode()
    await rest.post(PATH, data=body)
    if method == "PUT":
        assert (await rest.put(PATH, data=body.ljust(100 * 1024))).status == 200
    await refused(await rest.request(method, PATH, data=body.ljust(100 * 1024 + 1)), 413, "PAYLOAD_TOO_LARGE", "body")


@pytest.mark.parametrize(
    ("changes", "answered"),
    [
        ({"description": None}, {"description": ""}),
        ({"balancerOptions": None}, {"balancerOptions": {}}),
        ({"balancerOptions": {"weight": 0}}, {"balancerOptions": {}}),
        ({"balancerOptions": {"weight": None}}, {"balancerOptions": {}}),
        ({"balancerOptions": {"weight": 10, "more": 1}}, {"balancerOptions": {"weight": 10}}),
        ({"balancerOptions": {"weight": 10.0}}, {"balancerOptions": {"weight": 10}}),
        ({"metadata": {}}, {}),
        ({"metadata": {"zone": "eu", "ä": "ö"}}, {"metadata": {"zone": "eu", "ä": "ö"}}),
        ({"version": "1.02.3-rc1"}, {"version": "1.02.3-rc1"}),
        ({"url": "https://example.org"}, {"url": "https://example.org/"}),
        ({"name": "Bücher 本"}, {"name": "Bücher 本"}),
        ({"name": "other"}, {"name": "other"}),
    ],
)
async def test_what_may_be_missing_and_what_is_kept(rest: ClientSession, changes: dict[str, Any], answered: dict[str, Any]) -> None:
    """As sent, but for an empty path and a weight of 0."""
    response = await rest.post(PATH, json=instance_json(ID, **changes))
    assert response.status == 201
    body = await response.json()
    assert body | answered == body
    assert ("metadata" in body) == ("metadata" in answered)
    [service] = await (await rest.get("/registry/v1/services/json")).json()
    assert service["name"] == body["name"]


async def test_the_content_type_of_a_request_may_have_a_charset(rest: ClientSession) -> None:
    """Legacy clients send one."""
    headers = {"Content-Type": "application/json; charset=utf-8"}
    body = json.dumps(instance_json(ID, name="Bücher"), ensure_ascii=False).encode()
    assert (await (await rest.post(PATH, data=body, headers=headers)).json())["name"] == "Bücher"


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "allow"),
    [
        ("GET", "/nowhere", 404, "NOT_FOUND", None),
        ("GET", "/registry/v1", 404, "NOT_FOUND", None),
        ("GET", "/registry/v2/services", 404, "NOT_FOUND", None),
        ("GET", "/registry/v1/instances/", 404, "NOT_FOUND", None),
        ("GET", "/registry/v1/static/", 404, "NOT_FOUND", None),
        ("GET", "/registry/v1/static/nosuch", 404, "NOT_FOUND", None),
        ("PATCH", PATH, 405, "METHOD_NOT_ALLOWED", {"GET", "HEAD", "POST", "PUT", "DELETE"}),
        ("DELETE", "/registry/v1/services/json", 405, "METHOD_NOT_ALLOWED", {"GET", "HEAD"}),
    ],
)
async def test_an_unknown_path_or_method(
    rest: ClientSession, method: str, path: str, status: int, code: str, allow: set[str] | None
) -> None:
    """JSON, or a page for a browser; 405 says what is allowed."""
    response = await rest.request(method, path)
    await refused(response, status, code)
    if allow:
        assert set(response.headers["Allow"].replace(" ", "").split(",")) == allow
    response = await rest.request(method, path, headers={"Accept": "text/html,*/*;q=0.8"})
    assert (response.status, response.headers["Content-Type"]) == (status, "text/html; charset=utf-8")


async def test_the_root_leads_to_the_panel(rest: ClientSession) -> None:
    """With a redirect."""
    response = await rest.get("/", allow_redirects=False)
    assert (response.status, response.headers["Location"]) == (302, "/registry/v1/services/")


async def test_probes_need_no_credentials(server: Running) -> None:
    """`/livez` and `/readyz`; `verbose` tells more."""
    async with ClientSession(f"http://127.0.0.1:{server.rest_port}") as client:
        assert await (await client.get("/livez")).text() == "ok\n"
        assert await (await client.get("/readyz")).text() == "ok\n"
        assert "warming: yes" in await (await client.get("/readyz?verbose")).text()
        server.rest.ready = False
        assert (await client.get("/readyz")).status == 503


# Credentials

WRONG = "the user name or the password is wrong"
ROUTES = [
    ("GET", "/registry/v1/services"),
    ("GET", "/registry/v1/services/"),
    ("GET", "/registry/v1/services/json"),
    ("GET", "/registry/v1/services/orders"),
    ("GET", "/registry/v1/openapi.json"),
    ("GET", "/registry/v1/docs"),
    ("GET", "/registry/v1/static/luna.css"),
    ("GET", PATH),
    ("POST", PATH),
    ("PUT", PATH),
    ("DELETE", PATH),
    ("POST", PATH + "/drain"),
    ("DELETE", PATH + "/drain"),
    ("POST", PATH.replace("/v1/", "/v1/panel/") + "/drain"),
    ("POST", PATH.replace("/v1/", "/v1/panel/") + "/undrain"),
    ("POST", PATH.replace("/v1/", "/v1/panel/") + "/deregister"),
    ("GET", "/registry/v1/changes"),
    ("GET", "/registry/v1/journal"),
    ("GET", "/registry/nowhere"),
]


def test_every_route_is_in_the_table(server: Running) -> None:
    """A new route cannot be forgotten here."""
    app_routes = {
        (route.method, route.resource.canonical)
        for route in server.rest.app.router.routes()
        if route.resource is not None and route.method != "HEAD" and route.resource.canonical.startswith("/registry/")
    }
    tested = {
        (method, path.replace(ID, "{instanceId}").replace("/orders", "/{name}").replace("/luna.css", "/{file}"))
        for method, path in ROUTES
    }
    assert app_routes <= tested


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic YWRtaW4=",
        "Bearer abc",
        "garbage",
        "Basic ä",
        basic("admin", "wrong"),
        basic("root", ""),
        basic("", ""),
        basic("admin:", ""),
    ],
)
async def test_without_credentials_nothing_is_answered(server: Running, method: str, path: str, header: str | None) -> None:
    """401 with a challenge; which part was wrong is not told."""
    async with ClientSession(f"http://127.0.0.1:{server.rest_port}") as client:
        response = await client.request(method, path, headers={} if header is None else {"Authorization": header})
        assert response.headers["WWW-Authenticate"] == 'Basic realm="Luna", charset="UTF-8"'
        words = await refused(response, 401, "UNAUTHENTICATED")
        expected = "no credentials were sent: use Basic auth, for example curl -u NAME:PASSWORD" if header is None else WRONG
        assert words == expected


async def test_credentials_in_the_url(server: Running) -> None:
    """As legacy clients give them: `http://admin@host:4000/…`."""
    async with ClientSession() as client:
        for url in (f"http://admin@127.0.0.1:{server.rest_port}", f"http://admin:@127.0.0.1:{server.rest_port}"):
            assert await status_of(client, f"{url}/registry/v1/services/json") == 200


@pytest.mark.parametrize(("username", "password"), [("admin", "pässwörd: 本"), ("ädmin", ":"), ("admin", "x" * 500)])
async def test_any_password_works(username: str, password: str) -> None:
    """Non-ASCII, with colons, long; the scheme's case does not matter."""
    settings = settings_for_tests(auth_username=username, auth_password=password)
    async with running(settings) as server:
        address = f"http://127.0.0.1:{server.rest_port}"
        for header in (basic(username, password), basic(username, password).replace("Basic", "basic")):
            async with session(address, header) as client:
                assert await status_of(client, "/registry/v1/services/json") == 200
        async with session(address, basic(username, password + "x")) as client:
            assert await status_of(client, "/registry/v1/services/json") == 401


async def test_a_browser_is_asked_with_a_page(server: Running) -> None:
    """The 401 has a body that says what to do."""
    async with ClientSession() as client:
        response = await client.get(f"http://127.0.0.1:{server.rest_port}/registry/v1/services/", headers={"Accept": "text/html"})
        assert (response.status, response.headers["Content-Type"]) == (401, "text/html; charset=utf-8")


# Other sites


@pytest.mark.parametrize(
    ("host", "allowed", "status"),
    [
        ("localhost", "", 200),
        ("localhost:4000", "", 200),
        ("127.0.0.1:1", "", 200),
        ("127.8.8.8", "", 200),
        ("[::1]", "", 200),
        ("[::1]:4000", "", 200),
        ("luna.localhost", "", 200),
        ("evil.example", "", 403),
        ("evil.example:4000", "", 403),
        ("10.0.0.1", "", 403),
        ("localhost.evil.example", "", 403),
        ("127.0.0.1.evil.example", "", 403),
        ("luna.internal:4000", "luna.internal", 200),
        ("LUNA.internal", "other, luna.internal", 200),
        ("evil.example", "luna.internal", 403),
        ("evil.example", "*", 200),
    ],
)
async def test_with_an_empty_password_only_known_host_names_are_answered(host: str, allowed: str, status: int) -> None:
    """Else a page that rebinds its DNS name to 127.0.0.1 could rewrite the registry. A password lifts it."""
    settings = settings_for_tests(allowed_hosts=allowed)
    async with running(settings) as server, session(f"http://127.0.0.1:{server.rest_port}") as client:
        assert await status_of(client, "/registry/v1/services/json", headers={"Host": host}) == status
    protected = settings_for_tests(auth_password="x")
    async with running(protected) as server, session(f"http://127.0.0.1:{server.rest_port}", basic("admin", "x")) as client:
        assert await status_of(client, "/registry/v1/services/json", headers={"Host": host}) == 200


async def test_cors_for_origins_that_are_named() -> None:
    """They may read, write and ask beforehand; the others may not."""
    settings = settings_for_tests(cors_origins="https://ops.example/, https://b.example")
    async with running(settings) as server, session(f"http://127.0.0.1:{server.rest_port}") as client:
        friend = {"Origin": "https://ops.example"}
        response = await client.post(PATH, json=instance_json(ID), headers=friend)
        assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (201, "https://ops.example")
        preflight = friend | {"Access-Control-Request-Method": "PUT", "Authorization": ""}
        response = await client.options(PATH, headers=preflight)
        assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (204, "https://ops.example")
        assert "PUT" in response.headers["Access-Control-Allow-Methods"]
        stranger = {"Origin": "https://evil.example"}
        response = await client.get(PATH, headers=stranger)
        assert "Access-Control-Allow-Origin" not in response.headers
        assert response.headers.getall("Vary") == ["Accept", "Origin"]
        assert (await client.put(PATH, headers=stranger)).status == 403


@pytest.mark.parametrize("services", [0, 1, 3])
async def test_a_long_list_is_whole(rest: ClientSession, server: Running, services: int) -> None:
    """It is written in slices; every instance stands in it once, where it was when the list was asked for, gone or not."""
    ids = {f"service-{number % services}:h:{number + 1}" for number in range(1700)} if services else set()
    for instance_id in ids:
        await server.registry.register(Info.of(instance_id), Status.OK, actor=ITSELF)
    async with rest.get("/registry/v1/services/json") as response:
        for instance_id in ids:
            await server.registry.heartbeat(Beat(instance_id, info=Info.of(instance_id, name="new")), actor=ITSELF)
            await server.registry.deregister(instance_id, actor=ITSELF)
        listed = await response.json()
    assert len(listed) == services
    assert [(service["name"], service["status"]) for service in listed] == [(f"service-{n}", "UP") for n in range(services)]
    # What it says of itself is of the moment when it is written.
    assert all(instance["name"] in {service["name"], "new"} for service in listed for instance in service["instances"])
    assert sorted(instance["instanceId"] for service in listed for instance in service["instances"]) == sorted(ids)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_old_clients_learn_where_a_list_ends(server: Running, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not know chunks, by the end of the connection."""
    monkeypatch.setattr(lists, "SLICE", 1)
    for port in (1, 2):
        await server.registry.register(Info.of(f"a:h:{port}"), Status.OK, actor=ITSELF)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.rest_port)
    writer.write(
        f"GET /registry/v1/services/json HTTP/{version}\r\nHost: localhost\r\n"
        f"Connection: {'keep-alive' if version == '1.0' else 'close'}\r\nAuthorization: {basic()}\r\n\r\n".encode()
    )
    assert (await reader.read()).count(b'"instanceId"') == 2
    writer.close()


@pytest.mark.parametrize("path", ["/registry/%0A/x", "/registry/v1/x%0Ay/z", "/%72egistry/x/y"])
async def test_nothing_below_the_prefix_is_answered_without_credentials(server: Running, path: str) -> None:
    """Whatever stands in the path."""
    async with ClientSession(f"http://127.0.0.1:{server.rest_port}") as anonymous:
        await refused(await anonymous.get(URL(path, encoded=True)), 401, "UNAUTHENTICATED")
