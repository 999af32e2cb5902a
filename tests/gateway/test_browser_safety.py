"""What a browser could be made to do with the credentials that it remembers, and what it may make of our answers."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession, TCPConnector

from luna_grpc.model import ITSELF, Info, Status
from luna_grpc.serve import Running, running
from luna_grpc.v1 import registry_pb2 as pb
from pki import Pki
from support import basic, instance_json, need, session, settings_for_tests

ID = "orders:localhost:8080"
PATH = f"/registry/v1/instances/{ID}"
HOST = "luna.example:4000"
OWN, FRIEND, FOREIGN = f"http://{HOST}", "https://ops.example", "http://evil.example"

# Writing

WRITES: list[tuple[str, str | None, str | None, bool]] = [
    # what, Origin, Sec-Fetch-Site, whether it is done
    ("curl, or any other program", None, None, True),
    ("a page of ours, old browser or plain http to another machine", OWN, None, True),
    ("a page of ours", OWN, "same-origin", True),
    ("a page of ours behind a proxy that ends TLS", f"https://{HOST}", None, True),
    ("a page of ours behind a proxy that changes Host", "https://proxy.example", "same-origin", True),
    ("a form of ours: its page sends no referrer, so no origin", "null", "same-origin", True),
    ("a person who sends a page of ours once more", OWN, "none", True),
    ("a program that says what browsers say", None, "none", True),
    ("a page that is named in LUNA_CORS_ORIGINS", FRIEND, None, True),
    ("the same in a browser of today", FRIEND, "cross-site", True),
    ("a foreign page", FOREIGN, None, False),
    ("a foreign page in a browser of today", FOREIGN, "cross-site", False),
    ("another port of the same machine", "http://luna.example:3000", "same-site", False),
    ("another port, plain http", "http://luna.example:3000", None, False),
    ("another name of the same site", "http://app.luna.example:4000", "same-site", False),
    ("our name over http, injected by whoever sits on the line", OWN, "cross-site", False),
    ("a foreign page that hides its origin", "null", "cross-site", False),
    ("a sandboxed frame, a data: page, a file", "null", None, False),
    ("a sandboxed frame of our own page", "null", "cross-site", False),
    ("a foreign page whose browser leaves the origin out", None, "cross-site", False),
    ("the same site, without an origin", None, "same-site", False),
    ("something between that takes the value away", None, "", False),
    ("an extension", "chrome-extension://abcdef", "none", False),
    ("an origin that begins like ours", f"{OWN}.evil.example", None, False),
    ("an origin that ends like ours", f"http://evil.example/{HOST}", None, False),
    ("another scheme", f"ftp://{HOST}", None, False),
    ("an empty origin", "", None, False),
    ("two origins", f"{OWN} {FOREIGN}", None, False),
    ("a friend over http", "http://ops.example", None, False),
]


def headers_of(origin: str | None, site: str | None) -> dict[str, str]:
    """Return what a browser says of where a request comes from."""
    return {name: value for name, value in (("Origin", origin), ("Sec-Fetch-Site", site)) if value is not None}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
@pytest.mark.parametrize(("origin", "site", "done"), [row[1:] for row in WRITES], ids=[row[0] for row in WRITES])
async def test_who_may_write(method: str, origin: str | None, site: str | None, done: bool) -> None:
    """Programs, our own pages and those that are named; the others are told why, and nothing is changed."""
    settings = settings_for_tests(auth_password="x", cors_origins=FRIEND)
    async with running(settings) as server, session(f"http://127.0.0.1:{server.rest_port}", basic("admin", "x")) as client:
        if method != "POST":
            await server.registry.register(Info.of(ID, version="before"), Status.OK, actor=ITSELF)
        revision = server.registry.store.feed.revision
        body = None if method == "DELETE" else instance_json(ID)
        response = await client.request(method, PATH, json=body, headers={"Host": HOST, **headers_of(origin, site)})
        if done:
            assert response.status == (201 if method == "POST" else 200)
        else:
            error = await response.json()
            assert (response.status, error["code"]) == (403, "PERMISSION_DENIED")
            assert "LUNA_CORS_ORIGINS" in error["error"]
        assert (server.registry.store.feed.revision > revision) == done


@pytest.mark.parametrize("certificate", [False, True], ids=["password", "certificate"])
@pytest.mark.parametrize(
    ("scheme", "headers", "status"),
    [
        ("https", {}, 200),
        ("https", {"Sec-Fetch-Site": "same-origin"}, 200),
        ("http", {}, 403),  # whoever sits on the line can put anything into that page
        ("http", {"Sec-Fetch-Site": "cross-site"}, 403),
        ("", {}, 200),
    ],
)
async def test_who_may_write_over_tls(tmp_path: Path, certificate: bool, scheme: str, headers: dict[str, str], status: int) -> None:
    """Browsers show a client certificate to whatever page asks for it, as they do with passwords."""
    pki = Pki(tmp_path)
    client = pki.client(common_name="admin") if certificate else pki.anonymous()
    async with running(settings_for_tests(auth_password="x", **pki.flags(clients=certificate))) as server:
        await server.registry.register(Info.of(ID), Status.OK, actor=ITSELF)
        origin = {"Origin": f"{scheme}://localhost:{server.rest_port}"} if scheme else {}
        authorization = {} if certificate else {"Authorization": basic("admin", "x")}
        async with ClientSession(connector=TCPConnector(ssl=client.context, force_close=True)) as visitor:
            url = f"https://localhost:{server.rest_port}{PATH}"
            async with visitor.put(url, headers=origin | authorization | headers) as response:
                assert response.status == status, await response.text()


@pytest.mark.parametrize("origin", [FOREIGN, "null"])
@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None]
)
async def test_a_form_of_a_foreign_page(rest: ClientSession, server: Running, origin: str, content_type: str | None) -> None:
    """These need no preflight, and the body is read as JSON whatever they call it."""
    headers = {"Origin": origin} | ({"Content-Type": content_type} if content_type else {})
    body = json.dumps(instance_json(ID) | {"x": "="}).encode()
    assert (await rest.post(PATH, data=body, headers=headers)).status == 403
    assert server.registry.store.count() == 0


@pytest.mark.parametrize("authorization", [None, basic()])
async def test_a_foreign_preflight_allows_nothing(server: Running, authorization: str | None) -> None:
    """Also when it asks for a way into this network (Access-Control-Request-Private-Network)."""
    headers = {
        "Origin": FOREIGN,
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "authorization",
        "Access-Control-Request-Private-Network": "true",
    } | ({"Authorization": authorization} if authorization else {})
    async with ClientSession(f"http://127.0.0.1:{server.rest_port}") as client:
        response = await client.options(PATH, headers=headers)
        assert not [name for name in response.headers if name.startswith("Access-Control-")]


@pytest.mark.parametrize("site", ["cross-site", "same-site", None])
async def test_a_foreign_page_may_link_to_us(rest: ClientSession, site: str | None) -> None:
    """Reading changes nothing, and a browser shows the answer to the person only."""
    response = await rest.get("/registry/v1/services/", headers=headers_of(FOREIGN, site))
    assert response.status == 200
    assert not [name for name in response.headers if name.startswith("Access-Control-")]


@pytest.mark.parametrize("content_type", ["text/plain", "application/grpc", "application/x-www-form-urlencoded"])
async def test_the_grpc_door_takes_nothing_that_a_browser_can_send(server: Running, content_type: str) -> None:
    """Once TLS lets browsers speak HTTP/2 to it: they cannot send `te: trailers`, without which a call is refused."""
    need("curl")
    message = pb.RegisterRequest(instance=pb.Instance(instance_id="evil:h:1")).SerializeToString()
    framed = b"\0" + len(message).to_bytes(4, "big") + message
    for te, registered in (("te;", 0), ("te: trailers", 1)):
        process = await asyncio.create_subprocess_exec(
            "curl", "-s", "--http2-prior-knowledge", "-H", f"content-type: {content_type}", "-H", te, "-u", "admin:",
            "-H", f"origin: {FOREIGN}", "--data-binary", "@-", "--max-time", "10",
            f"http://127.0.0.1:{server.grpc_port}/luna.registry.v1.Registry/Register",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        await process.communicate(framed)
        assert server.registry.store.count() == registered


# Reading

ANSWERS: list[tuple[str, str, dict[str, Any], int]] = [
    ("GET", "/registry/v1/services/json", {}, 200),
    ("HEAD", "/registry/v1/services/json", {}, 200),
    ("GET", "/registry/v1/services", {"headers": {"Accept": "application/json"}}, 200),
    ("GET", "/registry/v1/openapi.json", {}, 200),
    ("POST", "/registry/v1/instances/new:h:1", {"json": instance_json("new:h:1")}, 201),
    ("GET", PATH, {}, 200),
    ("PUT", PATH, {}, 200),
    ("PUT", PATH, {"json": instance_json(ID)}, 200),
    ("DELETE", PATH, {}, 200),
    ("GET", "/", {"allow_redirects": False}, 302),
    ("GET", "/livez", {}, 200),
    ("GET", "/metrics", {}, 200),
    ("GET", "/readyz?verbose", {}, 200),
    ("OPTIONS", PATH, {"headers": {"Origin": FOREIGN, "Access-Control-Request-Method": "PUT"}}, 204),
    ("OPTIONS", PATH, {}, 405),
    ("GET", "/registry/v1/instances/x", {}, 400),
    ("GET", PATH, {"headers": {"Authorization": "Basic x"}}, 401),
    ("POST", PATH, {"headers": {"Origin": FOREIGN}}, 403),
    ("GET", "/nowhere", {}, 404),
    ("PATCH", PATH, {}, 405),
    ("POST", PATH, {"data": b"x" * 200_000}, 413),
]
PAGES: list[tuple[str, str, dict[str, Any], int]] = [
    ("GET", "/registry/v1/services/", {}, 200),
    ("GET", "/registry/v1/services/orders", {}, 200),
    ("GET", "/registry/v1/docs", {}, 200),
    ("GET", "/registry/v1/static/luna.css", {}, 200),
    ("GET", "/registry/v1/static/luna.svg", {}, 200),
    ("GET", "/registry/v1/static/try.js", {}, 200),
    ("GET", "/registry/v1/services/?live=off", {}, 200),
    ("GET", "/nowhere", {"headers": {"Accept": "text/html"}}, 404),
    ("GET", PATH, {"headers": {"Accept": "text/html", "Authorization": "Basic x"}}, 401),
]


def assert_safe(response: ClientResponse) -> None:
    """Check the headers that every answer has."""
    headers = response.headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    policy = headers["Content-Security-Policy"].split("; ")
    assert {"default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"} <= set(policy)


@pytest.mark.parametrize(("method", "path", "more", "status"), ANSWERS + PAGES)
async def test_every_answer_is_safe_in_a_browser(
    rest: ClientSession, method: str, path: str, more: dict[str, Any], status: int
) -> None:
    """It is taken for what it is, stands in no frame, tells nobody where it was, and is part of no page of another origin."""
    await rest.post(PATH, json=instance_json(ID))
    response = await rest.request(method, path, **more)
    assert response.status == status
    assert_safe(response)
    policy = response.headers["Content-Security-Policy"]
    loads = set(policy.split("; ")) - {"default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'", "form-action 'none'"}
    assert not loads if (method, path, more, status) in ANSWERS else all(each.endswith(" 'self'") for each in loads)
    is_ours = status != 401 and "live=off" not in path and (path.endswith(".js") or response.content_type == "text/html")
    assert ("script-src 'self'" in policy) == is_ours


@pytest.mark.parametrize(("headers", "scheme"), [({}, "Basic"), ({"X-Requested-With": "fetch"}, "x-Basic")])
async def test_a_script_is_refused_without_a_dialog(rest: ClientSession, headers: dict[str, str], scheme: str) -> None:
    """Browsers ask for a password when they know the scheme, also over a page that can say so itself."""
    response = await rest.get(PATH, headers={"Authorization": "Basic x", **headers})
    assert (response.status, response.headers["WWW-Authenticate"].partition(" ")[0]) == (401, scheme)


async def test_a_failure_and_a_refusal_for_now_are_safe_too(
    server: Running, rest: ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 and 503."""
    monkeypatch.setattr(type(server.registry.store), "get", lambda *_: 1 / 0)
    failed = await rest.get(PATH)
    server.registry.loading = True
    refused = await rest.get(PATH)
    for response, status in ((failed, 500), (refused, 503)):
        assert response.status == status
        assert_safe(response)
