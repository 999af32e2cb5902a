"""The panel's pages: what people see, and what browsers are allowed to do with it."""

import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import pytest
from aiohttp import ClientSession
from yarl import URL

from gateway.errorpage import error_page
from gateway.pages import HEADERS, SCRIPTED, ago
from luna_grpc.model import ITSELF, Info, Status, StatusReason
from luna_grpc.serve import Running
from support import instance_json

LIST = "/registry/v1/services/"
STATIC = Path(__file__).parent.parent.parent / "gateway" / "static"
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


class Page(HTMLParser):
    """What a browser makes of a page: its text and its elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in {"bdi", "code", "var"}:
            self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data

    def hrefs(self, class_: str) -> list[str]:
        """Return where the links of a class lead to."""
        return [
            str(attributes["href"])
            for tag, attributes in self.elements
            if tag == "a" and class_ in (attributes.get("class") or "").split()
        ]


async def get(rest: ClientSession, path: str = LIST, headers: dict[str, str] | None = None) -> Page:
    """Fetch a page, and check what holds for all of them."""
    response = await rest.get(URL(path, encoded=True), headers=headers)
    assert response.status == 200
    expected = HEADERS if "live=off" in path else SCRIPTED
    assert {name: response.headers[name] for name in expected} == expected
    page = Page(await response.text())
    for tag, attributes in page.elements:
        assert tag not in {"style", "iframe", "object", "embed"}
        if tag == "script":  # none is inline
            assert (attributes["src"] or "").startswith("/registry/v1/static/")
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        assert urlsplit(attributes.get("href") or "").scheme in {"", "http", "https"}
    return page


async def test_the_empty_list_shows_how_to_register(rest: ClientSession) -> None:
    """With commands for this very server."""
    page = await get(rest)
    assert f"curl -u admin: -X POST {rest._base_url}/registry/v1/instances/hello:localhost:8080" in page.text
    assert "luna.registry.v1.Registry/Register" in page.text


async def test_the_list_shows_services_down_first(rest: ClientSession) -> None:
    """With status, description and counts."""
    for instance_id, status in (("b:h:1", "OK"), ("b:h:2", "DOWN"), ("a:h:1", "OK"), ("z:h:1", "DOWN")):
        await rest.post(f"/registry/v1/instances/{instance_id}", json=instance_json(instance_id, status=status))
    page = await get(rest)
    assert "Services up 2 Services down 1 Instances up 2 Instances down 2 Instances drained 0" in page.text
    assert "DOWN z The z service 0 / 1 UP b The b service 1 / 2 UP a The a service 1 / 1" in page.text
    assert page.hrefs("open") == [f"{LIST}z", f"{LIST}b", f"{LIST}a"]


@pytest.mark.parametrize(
    ("query", "said", "links"),
    [
        ("", "1 to 100 of 201 services", ["?page=2"]),
        ("?page=2", "101 to 200 of 201 services", ["", "?page=3"]),
        ("?page=3", "201 to 201 of 201 services", ["?page=2"]),
        ("?page=99999999", "201 to 201 of 201 services", ["?page=2"]),
        ("?page=0", "1 to 100 of 201 services", ["?page=2"]),
        ("?page=-%C2%B2", "1 to 100 of 201 services", ["?page=2"]),
        ("?q=service&sort=-name&nonsense=1", "1 to 100 of 201 services", ["?q=service&sort=-name&page=2"]),
    ],
)
async def test_a_long_list_has_pages(rest: ClientSession, server: Running, query: str, said: str, links: list[str]) -> None:
    """With those before and after as links; the counts are of all of it."""
    for number in range(201):
        await server.registry.register(Info.of(f"service-{number:03}:h:1"), Status.OK, actor=ITSELF)
    page = await get(rest, LIST + query)
    assert said in page.text
    assert "Services up 201" in page.text
    assert [attributes["href"] for tag, attributes in page.elements if tag == "a" and attributes.get("rel")] == [
        LIST + link for link in links
    ]


async def test_a_service_with_many_instances_has_pages(rest: ClientSession, server: Running) -> None:
    """Each instance stands on one of them."""
    for number in range(150):
        await server.registry.register(Info.of(f"orders:h:{1000 + number}"), Status.OK, actor=ITSELF)
    text = "".join([(await get(rest, f"{LIST}orders?page={page}")).text for page in (1, 2)])
    assert {f"orders:h:{1000 + number}" for number in range(150)} == set(re.findall(r"orders:h:\d{4}", text))
    assert "150 / 150 instances up" in text


async def test_a_service_shows_its_instances(rest: ClientSession, server: Running) -> None:
    """Id, version, status and why, url, weight, metadata, and the time since the last heartbeat."""
    said = {"balancerOptions": {"weight": 7}, "metadata": {"zone": "eu-1"}, "version": "1.2.3-rc1"}
    await rest.post("/registry/v1/instances/a:h:1", json=instance_json("a:h:1", **said))
    await rest.post("/registry/v1/instances/a:h:2", json=instance_json("a:h:2"))
    await server.registry.store.end([server.registry.get("a:h:2")], StatusReason.LEASE_EXPIRED, now=0, actor=ITSELF)
    page = await get(rest, f"{LIST}a")
    for words in (
        "a:h:1",
        "1.2.3-rc1",
        "OK reported by the instance",
        "http://h:1/",
        "7",
        "zone=eu-1",
        "0 s ago",
        "1 / 2 instances up",
    ):
        assert words in page.text
    assert page.text.index("DOWN no heartbeat in time") < page.text.index("OK reported by the instance")


@pytest.mark.parametrize(
    "name",
    ["<script>alert(1)</script>", "a/b?c#d%41", "Bücher 本", "{{7*7}}", '"><img src=x onerror=alert(1)>', "a&amp;b", "json5"],
)
async def test_hostile_data_is_text(rest: ClientSession, server: Running, name: str) -> None:
    """It is shown as it is, makes no elements and breaks no link."""
    info = Info.of("x:h:1", name=name, description=name, version=name[:64], url=f"http://h/{quote(name)}", metadata={name: name})
    await server.registry.register(info, Status.OK, actor=ITSELF)
    page = await get(rest)
    assert page.text.count(name) == 2
    [link] = page.hrefs("open")
    page = await get(rest, link)
    assert page.text.count(name) >= 5
    assert not any(attributes.get("src") == "x" for _, attributes in page.elements)
    page = await get(rest, "/registry/v1/instances/x:h:1", headers=BROWSER)
    assert page.text.count(name) >= 5
    page = await get(rest, f"{LIST}?q={quote(name, safe='')}")
    assert name in page.text
    page = await get(rest, "/registry/v1/journal")
    assert page.text.count(name) == 1


async def test_no_request_leaves_the_origin(rest: ClientSession) -> None:
    """Whatever a page loads is ours, and there."""
    await rest.post("/registry/v1/instances/a:h:1", json=instance_json("a:h:1"))
    for path in (LIST, f"{LIST}a"):
        for tag, attributes in (await get(rest, path)).elements:
            source = attributes.get("src") or (attributes.get("href") if tag == "link" else None)
            if source:
                assert not urlsplit(source).netloc
                response = await rest.get(urljoin(path, source))
                assert response.status == 200
    style = await (await rest.get("/registry/v1/static/luna.css")).text()
    assert not re.search(r"@import|url\((?!['\"]?data:|['\"]?luna)", style)
    assert "light-dark(" in style


@pytest.mark.parametrize("path", [LIST, f"{LIST}a", "/registry/v1/instances/a:h:1", "/registry/v1/journal"])
async def test_without_live_updates_there_is_no_script(rest: ClientSession, path: str) -> None:
    """And a link to the page with them, which keeps everything else; that one has a link back."""
    await rest.post("/registry/v1/instances/a:h:1", json=instance_json("a:h:1"))
    async with rest.get(f"{path}?q=a&live=off", headers={"Accept": "text/html"}) as response:
        off = Page(await response.text())
        assert "script-src" not in response.headers["Content-Security-Policy"]
    async with rest.get(f"{path}?q=a", headers={"Accept": "text/html"}) as response:
        on = Page(await response.text())
        assert "script-src 'self'" in response.headers["Content-Security-Policy"]
        assert re.fullmatch(r"page;dur=\d+\.\d", response.headers["Server-Timing"])
    assert "script" not in {tag for tag, _ in off.elements}
    elements = [*off.elements, *on.elements]
    links = [attributes["href"] for _, attributes in elements if attributes.get("id") == "live-off"]
    assert links == [f"{path}?q=a", f"{path}?q=a&live=off"]


@pytest.mark.parametrize(("down", "icon"), [(0, "luna.svg"), (1, "down-1.svg"), (9, "down-9.svg"), (10, "down-more.svg")])
async def test_the_title_and_the_icon_say_how_many_are_down(rest: ClientSession, down: int, icon: str) -> None:
    """In the first HTML already; drained ones are not counted."""
    for number in range(down + 1):
        path = f"/registry/v1/instances/a:h:{number + 1}"
        await rest.post(path, json=instance_json(f"a:h:{number + 1}", status="DOWN"))
    await rest.post(f"{path}/drain")
    text = await (await rest.get(LIST)).text()
    assert f"<title>{f'({down} down) ' if down else ''}Services · Luna</title>" in text
    [href] = [attributes["href"] or "" for _, attributes in Page(text).elements if attributes.get("rel") == "icon"]
    assert href.startswith(f"/registry/v1/static/{icon}?v=")
    svg = await (await rest.get(URL(href, encoded=True))).text()
    assert (f">{down if down <= 9 else '9+'}</text>" in svg) == (down > 0)


@pytest.mark.parametrize(("path", "status"), [(f"{LIST}nosuch", 404), ("/registry/v1/instances/nonsense", 400), ("/nowhere", 404)])
async def test_an_error_is_a_page_for_a_browser(rest: ClientSession, path: str, status: int) -> None:
    """With the way back, and what the path held only as text."""
    response = await rest.get(path, headers={"Accept": "text/html"})
    page = Page(await response.text())
    assert (response.status, response.headers["Content-Security-Policy"]) == (status, SCRIPTED["Content-Security-Policy"])
    assert str(status) in page.text
    assert any(attributes.get("href") == LIST for _, attributes in page.elements)


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [
        (-5, "0 s"),
        (999, "0 s"),
        (59_999, "59 s"),
        (60_000, "1 min"),
        (3_599_999, "59 min"),
        (3_600_000, "1 h"),
        (172_800_000, "2 days"),
    ],
)
def test_spans_of_time(milliseconds: int, words: str) -> None:
    """As people say them."""
    assert ago(milliseconds) == words


async def test_static_files_are_only_ours(rest: ClientSession) -> None:
    """Nothing outside their folder can be fetched."""
    paths: list[Any] = ["../app.py", "..%2Fapp.py", "%2e%2e/app.py", "", "/etc/passwd"]
    for path in paths:
        response = await rest.get(URL(f"/registry/v1/static/{path}", encoded=True))
        assert response.status in {403, 404}


@pytest.mark.parametrize(
    ("file", "digest"),
    [
        ("idiomorph.esm.js", "e1e2c7dbd606233d302bac48074fd1307c15609b77ea485c18f1b13d6be67c14"),
        ("idiomorph.LICENSE", "d3d2456f76414f2456104660ebd65aff1c04cd7966b942bdabd63f3cdb316a38"),
    ],
)
def test_what_is_not_ours_is_as_it_was_published(file: str, digest: str) -> None:
    """As in idiomorph 0.8.0 on npm, dist/idiomorph.esm.js; the licence lies beside it."""
    assert hashlib.sha256((STATIC / "vendor" / file).read_bytes()).hexdigest() == digest


async def test_scripts_name_the_versions_of_others(rest: ClientSession) -> None:
    """Browsers keep a script for ever: one that is new is to bring along what it was written for."""
    for path in STATIC.glob("*.js"):
        text = await (await rest.get(f"/registry/v1/static/{path.name}")).text()
        for name in re.findall(r'"\./(.*?)"', text):
            file, _, version = name.partition("?v=")
            body = await (await rest.get(f"/registry/v1/static/{file}")).read()
            assert hashlib.sha256(body).hexdigest().startswith(version), (path, name)
            assert len(version) == 12


def test_who_is_not_signed_in_is_sent_to_the_users_file_when_there_is_one() -> None:
    """Else to the variables of the one user."""
    plain = error_page(401, "no", signed_in=False).text or ""
    with_file = error_page(401, "no", signed_in=False, users_file=True).text or ""
    assert "LUNA_AUTH_USERNAME" in plain
    assert "LUNA_AUTH" not in with_file
    assert "users file" in with_file
