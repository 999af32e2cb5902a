"""The panel's lists: what is searched, filtered, sorted and exported; and that each state of a page is a URL."""

import csv
import io
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from aiohttp import ClientSession
from test_panel import LIST, Page, get

from gateway import found
from gateway.haystacks import Haystacks
from gateway.search import Wanted
from luna_grpc.model import ITSELF, Info, Status, StatusReason
from luna_grpc.registry import Beat
from luna_grpc.serve import Running

LIVE = {"zone": "eu-1", "team": "Checkout"}


@pytest.fixture
async def shop(server: Running) -> None:
    """Register a few services in all states."""
    registry = server.registry
    for instance_id, status, metadata, version in (
        ("orders:h:1", "OK", LIVE, "1.9"),
        ("orders:h:2", "OK", {"zone": "eu-2"}, "1.10"),
        ("orders:h:3", "DOWN", {}, "2.0"),
        ("billing:h:1", "OK", {"zone": "eu-1"}, ""),
        ("search:other:1", "DOWN", {}, ""),
        ("Mail:h:1", "OK", {}, ""),
    ):
        info = Info.of(instance_id, version=version, metadata=metadata, description=f"does {instance_id[::-1]}")
        await registry.register(info, Status(status), actor=ITSELF)
    await registry.drain("billing:h:1", 60, actor=ITSELF)
    await registry.store.end([registry.get("Mail:h:1")], StatusReason.LEASE_EXPIRED, now=0, actor=ITSELF)


def names(page: Page) -> list[str]:
    """Return the services or instances of a list, in its order."""
    return [href.rpartition("/")[2] for href in page.hrefs("open")]


async def listed(rest: ClientSession, path: str, **asked: str) -> list[str]:
    """Return what a list shows."""
    return names(await get(rest, f"{path}?{urlencode(asked, quote_via=quote)}"))


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("asked", "services"),
    [
        ({}, "billing Mail search orders"),
        ({"q": "ORD"}, "orders"),
        ({"q": "h:1"}, "billing Mail orders"),
        ({"q": "zone=eu-1"}, "billing orders"),
        ({"q": "checkout"}, "orders"),
        ({"q": "team"}, "orders"),
        ({"q": "eu-1 checkout"}, "orders"),
        ({"q": "orders eu-2"}, "orders"),
        ({"q": "eu-1 eu-2"}, ""),
        ({"q": "down"}, "billing Mail search orders"),
        ({"q": "orders down"}, "orders"),
        ({"q": "lease_expired"}, "Mail"),
        ({"q": "drained"}, "billing"),
        ({"q": "ok"}, "orders"),
        ({"q": " \t "}, "billing Mail search orders"),
        ({"q": "nosuch"}, ""),
        ({"status": "UP"}, "orders"),
        ({"status": "DOWN"}, "billing Mail search"),
        ({"instances": "OK"}, "orders"),
        ({"instances": "DOWN"}, "Mail search orders"),
        ({"instances": "DRAINED"}, "billing"),
        ({"instances": "DOWN", "status": "UP"}, "orders"),
        ({"instances": "OK", "q": "eu-2"}, "orders"),
        ({"instances": "DOWN", "q": "eu-2"}, ""),
        ({"sort": "name"}, "billing Mail orders search"),
        ({"sort": "-name"}, "search orders Mail billing"),
        ({"sort": "-status"}, "orders search Mail billing"),
        ({"sort": "instances"}, "billing Mail search orders"),
        ({"sort": "-instances"}, "orders search Mail billing"),
        ({"sort": "description"}, "billing Mail orders search"),
        ({"sort": "nosuch", "status": "nosuch", "instances": "ok", "page": "x", "live": "x", "format": "x"},
         "billing Mail search orders"),
    ],
)  # fmt: skip
async def test_services_are_found_and_sorted(rest: ClientSession, asked: dict[str, str], services: str) -> None:
    """By words, filters and columns; what makes no sense is as if it had not been said."""
    assert await listed(rest, LIST, **asked) == services.split()


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        ({}, "3 1 2"),
        ({"q": "orders:h:2"}, "2"),
        ({"q": "1.10"}, "2"),
        ({"q": "http://h:3/"}, "3"),
        ({"q": "zone=eu"}, "1 2"),
        ({"q": "down"}, "3"),
        ({"q": "reported ok eu-1"}, "1"),
        ({"status": "OK"}, "1 2"),
        ({"status": "DOWN"}, "3"),
        ({"status": "DRAINED"}, ""),
        ({"sort": "id"}, "1 2 3"),
        ({"sort": "-id"}, "3 2 1"),
        ({"sort": "version"}, "1 2 3"),
        ({"sort": "-version"}, "3 2 1"),
        ({"sort": "-url"}, "3 2 1"),
        ({"sort": "weight"}, "1 2 3"),
        ({"sort": "-status"}, "2 1 3"),
    ],
)  # fmt: skip
async def test_instances_are_found_and_sorted(rest: ClientSession, asked: dict[str, str], numbers: str) -> None:
    """The same of one service; versions as people read them."""
    assert await listed(rest, f"{LIST}orders", **asked) == [f"orders%3Ah%3A{number}" for number in numbers.split()]


@pytest.mark.usefixtures("shop")
async def test_a_row_names_the_instances_that_match(rest: ClientSession, server: Running) -> None:
    """At most five, each with its state and why, then how many more there are, as a link to them."""
    page = await get(rest, f"{LIST}?instances=DOWN")
    assert "orders orders:h:3 DOWN reported by the instance" in page.text
    assert "Mail Mail:h:1 DOWN no heartbeat in time" in page.text
    assert "/registry/v1/instances/orders%3Ah%3A3" in page.hrefs("id")
    for number in range(10, 19):
        await server.registry.register(Info.of(f"orders:x:{number}"), Status.DOWN, actor=ITSELF)
    for query, more in (("?instances=DOWN", "?status=DOWN"), ("?q=x:1", "?q=x%3A1")):
        page = await get(rest, LIST + query)
        assert f"and {5 if 'status' in more else 4} more" in page.text
        assert [str(said["href"]) for tag, said in page.elements if tag == "a" and f"orders{more}" in (said["href"] or "")]
        assert len(await listed(rest, f"{LIST}orders", **dict([more[1:].replace("%3A", ":").split("=")]))) in {9, 10}
    assert "orders:h:1" not in (await get(rest, f"{LIST}?q=orders")).text


@pytest.mark.usefixtures("shop")
async def test_links_keep_the_rest(rest: ClientSession) -> None:
    """Each changes one thing and goes back to the first page; a filter that is on is turned off by its link."""
    page = await get(rest, f"{LIST}?q=h&instances=DOWN&sort=-name&live=off&page=1&nonsense=1")
    hrefs = {str(said.get("href")) for tag, said in page.elements if tag == "a"}
    assert f"{LIST}?q=h&instances=OK&sort=-name&live=off" in hrefs
    assert f"{LIST}?q=h&sort=-name&live=off" in hrefs
    assert f"{LIST}?q=h&instances=DOWN&sort=name&live=off" in hrefs
    assert f"{LIST}?q=h&instances=DOWN&sort=-name&live=off&format=csv" in hrefs
    assert f"{LIST}?sort=-name&live=off" in hrefs
    fields = {said["name"]: said["value"] for tag, said in page.elements if tag == "input"}
    assert fields == {"instances": "DOWN", "sort": "-name", "live": "off", "q": "h"}
    sorted_columns = [said.get("aria-sort") for tag, said in page.elements if tag == "th" and said.get("aria-sort")]
    assert sorted_columns == ["descending"]


@pytest.mark.usefixtures("shop")
async def test_counts_are_links(rest: ClientSession) -> None:
    """Of everything, whatever is shown; a drained instance is not among those that are down."""
    page = await get(rest, f"{LIST}?q=nosuch")
    assert "Services up 1 Services down 3 Instances up 2 Instances down 3 Instances drained 1" in page.text
    assert "Nothing matches" in page.text
    page = await get(rest, f"{LIST}orders")
    assert "Up 2 Down 1 Drained 0" in page.text


# As JSON and CSV


async def rows_of(rest: ClientSession, path: str) -> list[list[str]]:
    """Return the rows of a list as CSV."""
    async with rest.get(path, headers={"Accept": "text/html"}) as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/csv; charset=utf-8")
        text = await response.text()
    assert text.endswith("\r\n")
    return list(csv.reader(io.StringIO(text, newline="")))


async def json_of(rest: ClientSession, path: str) -> Any:
    """Return a list as JSON."""
    async with rest.get(path, headers={"Accept": "text/html"}) as response:
        assert (response.status, response.headers["Content-Type"]) == (200, "application/json; charset=utf-8")
        return await response.json()


@pytest.mark.usefixtures("shop")
async def test_a_list_as_json(rest: ClientSession) -> None:
    """In the shape of `/services/json`, in the order asked for, with the instances that are looked for."""
    whole = {service["name"]: service for service in await (await rest.get("/registry/v1/services/json")).json()}
    found_ones = await json_of(rest, f"{LIST}?instances=DOWN&sort=-name&format=json")
    assert [service["name"] for service in found_ones] == ["search", "orders", "Mail"]
    for service in found_ones:
        wanted = [instance for instance in whole[service["name"]]["instances"] if instance["status"] == "DOWN"]
        assert service == whole[service["name"]] | {"instances": wanted}
    assert await json_of(rest, f"{LIST}?q=orders&format=json") == [whole["orders"]]
    assert await json_of(rest, f"{LIST}?q=nosuch&format=json") == []
    assert await json_of(rest, f"{LIST}orders?q=eu-2&format=json") == whole["orders"] | {
        "instances": whole["orders"]["instances"][1:2]
    }
    assert await (await rest.get(f"{LIST}?q=orders", headers={"Accept": "application/json"})).json() == [whole["orders"]]


@pytest.mark.usefixtures("shop")
async def test_a_list_as_csv(rest: ClientSession) -> None:
    """A row for each service, or for each instance of one."""
    assert await rows_of(rest, f"{LIST}?format=csv") == [
        ["name", "status", "instancesUp", "instances", "instancesDrained", "description"],
        ["billing", "DOWN", "0", "1", "1", "does 1:h:gnillib"],
        ["Mail", "DOWN", "0", "1", "0", "does 1:h:liaM"],
        ["search", "DOWN", "0", "1", "0", "does 1:rehto:hcraes"],
        ["orders", "UP", "2", "3", "0", "does 1:h:sredro"],
    ]
    [head, row] = await rows_of(rest, f"{LIST}orders?q=eu-1&format=csv")
    said = dict(zip(head, row, strict=True))
    assert {"instanceId": "orders:h:1", "status": "OK", "version": "1.9", "drainedUntil": ""}.items() <= said.items()
    assert said["metadata"] == '{"zone":"eu-1","team":"Checkout"}'
    assert await rows_of(rest, f"{LIST}?q=nosuch&format=csv") == [
        ["name", "status", "instancesUp", "instances", "instancesDrained", "description"]
    ]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", '=HYPERLINK("http://evil.example","x")', 'a"b,c;d', "a\nb"])
async def test_a_spreadsheet_runs_nothing(rest: ClientSession, server: Running, text: str) -> None:
    """A cell that it would take for a formula begins with an apostrophe; everything else is as it was said."""
    name = text.replace("\n", " ")
    info = Info.of("x:h:1", name=name, description=text, version=name, metadata={"k": text})
    await server.registry.register(info, Status.OK, actor=ITSELF)
    safe = {True: "'", False: ""}[text[0] in "=+-@"]
    [_, row] = await rows_of(rest, f"{LIST}?format=csv")
    assert (row[0], row[-1]) == (safe + name, safe + text)
    [_, row] = await rows_of(rest, f"{LIST}{quote(name, safe='')}?format=csv")
    assert (row[1], row[4]) == (safe + name, safe + name)
    [_, row] = await rows_of(rest, "/registry/v1/journal?format=csv")
    assert row[4] == safe + name


async def test_a_tab_or_a_return_begins_no_cell(rest: ClientSession, server: Running) -> None:
    """Spreadsheets skip them."""
    for number, text in enumerate(("\t=1", "\r=1")):
        await server.registry.register(Info.of(f"x{number}:h:1", description=text), Status.OK, actor=ITSELF)
    rows = await rows_of(rest, f"{LIST}?format=csv")
    assert [row[-1][0] for row in rows[1:]] == ["'", "'"]


# Long lists


async def test_long_lists_are_whole(rest: ClientSession, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """However they are cut into slices while they are searched: each row stands once on one page, in order, and in each export."""
    monkeypatch.setattr(found, "SLICE", 7)
    for number in range(260):
        name = f"service-{number % 130:03}"
        status = Status.DOWN if number < 130 else Status.OK
        info = Info.of(f"{name}:h:{number + 1}", metadata={"n": str(number)})
        await server.registry.register(info, status, actor=ITSELF)
    for number in range(20):
        await server.registry.register(Info.of(f"large:h:{number + 1}", metadata={"n": "x"}), Status.DOWN, actor=ITSELF)
    expected = ["large", *(f"service-{number:03}" for number in range(130))]
    for query in ("sort=name", "q=h:&sort=name", "instances=DOWN&sort=name"):
        pages = [await listed(rest, LIST, **dict(p.split("=") for p in f"{query}&page={page}".split("&"))) for page in (1, 2, 3)]
        assert [*pages[0], *pages[1]] == expected
        assert pages[2] == pages[1]
        assert [row[0] for row in await rows_of(rest, f"{LIST}?{query}&format=csv")][1:] == expected
        as_json = await json_of(rest, f"{LIST}?{query}&format=json")
        assert [service["name"] for service in as_json] == expected
        assert sum(len(service["instances"]) for service in as_json) == (150 if "DOWN" in query else 280)
    assert await listed(rest, LIST, q="large:h:1 n=x") == ["large"]
    assert "and 6 more" in (await get(rest, f"{LIST}?q=large:h:1")).text
    assert len(await rows_of(rest, f"{LIST}large?format=csv")) == 21
    assert await listed(rest, f"{LIST}large", sort="-id") == sorted(
        (f"large%3Ah%3A{number + 1}" for number in range(20)), reverse=True
    )


async def test_a_service_that_comes_and_goes_while_it_is_looked_for(
    rest: ClientSession, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing fails, and what was there all the time is found."""
    monkeypatch.setattr(found, "SLICE", 1)
    for number in range(60):
        await server.registry.register(Info.of(f"s{number:02}:h:1"), Status.OK, actor=ITSELF)
    work = found.services(server.registry, Haystacks(server.registry), Wanted.of("h"))
    seen = []
    for step in range(200):
        try:
            next(work)
        except StopIteration as end:
            seen = [row.name for part in end.value for row in part]
            break
        if step < 30:
            await server.registry.deregister(f"s{step * 2:02}:h:1", actor=ITSELF)
            await server.registry.register(Info.of(f"t{step:02}:h:1"), Status.OK, actor=ITSELF)
    assert len(seen) == len(set(seen))
    assert {f"s{number:02}" for number in range(1, 60, 2)} <= set(seen)
    assert (await rest.get(f"{LIST}?q=h")).status == 200


# What is searched in


async def test_a_search_knows_every_change(rest: ClientSession, server: Running) -> None:
    """What is said anew is found at once, and what is not said any more is not, whatever brought that about."""
    registry = server.registry

    async def holds(text: str) -> list[str]:
        return await listed(rest, LIST, q=text)

    await registry.register(Info.of("a:h:1", metadata={"zone": "one"}), Status.OK, actor=ITSELF)
    assert (await holds("zone=one"), await holds("h:2"), await holds("zone=two")) == (["a"], [], [])
    await registry.register(Info.of("a:h:2"), Status.OK, actor=ITSELF)
    assert await holds("h:2") == ["a"]
    await registry.heartbeat(Beat("a:h:1", info=Info.of("a:h:1", metadata={"zone": "two"})), actor=ITSELF)
    assert (await holds("zone=one"), await holds("zone=two")) == ([], ["a"])
    await registry.register(Info.of("a:h:2", metadata={"zone": "three"}), Status.OK, replace=True, actor=ITSELF)
    assert await holds("three") == ["a"]
    await registry.heartbeat(Beat("a:h:2", info=Info.of("a:h:2", name="b")), actor=ITSELF)
    assert (await holds("h:2"), await holds("three")) == (["b"], [])
    await registry.deregister("a:h:1", actor=ITSELF)
    assert (await holds("h:1"), await holds("two"), await holds("h:")) == ([], [], ["b"])


async def test_texts_are_kept_as_long_as_they_are_true(server: Running) -> None:
    """A drain changes no words; a change of the status may come with others."""
    registry, haystacks = server.registry, Haystacks(server.registry)
    await registry.register(Info.of("a:h:1", metadata={"Zone": "EU"}), Status.OK, actor=ITSELF)
    service = registry.service("a")
    assert [haystacks.of(service) for _ in range(2)] == [("a:h:1\0zone=eu", False), ("a:h:1\0zone=eu", True)]
    await registry.drain("a:h:1", 60, actor=ITSELF)
    await registry.undrain("a:h:1", actor=ITSELF)
    assert haystacks.of(service)[1]
    await registry.heartbeat(Beat("a:h:1", status=Status.DOWN, info=Info.of("a:h:1", metadata={"Zone": "US"})), actor=ITSELF)
    assert haystacks.of(service) == ("a:h:1\0zone=us", False)
    await registry.heartbeat(Beat("a:h:1", info=Info.of("a:h:1")), actor=ITSELF)
    assert haystacks.of(service) == ("a:h:1", False)
    assert haystacks.of(service)[1]
    registry.store.feed.restart("another", 1, warming=False)
    assert not haystacks.of(service)[1]
