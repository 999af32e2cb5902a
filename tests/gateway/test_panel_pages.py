"""The pages of one instance and of the journal, and what can be done in the panel: drain, undrain, deregister."""

import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import ClientSession
from test_panel import BROWSER, LIST, Page, get

from gateway import export
from gateway.bars import DAY, summary
from gateway.pages import lasting
from luna_grpc import users
from luna_grpc.access import Role, User
from luna_grpc.history import Span, State
from luna_grpc.journal import Kind
from luna_grpc.model import ITSELF, Actor, Door, Info, Status, StatusReason
from luna_grpc.registry import Beat
from luna_grpc.serve import Running, running
from support import FakeClock, basic, session, settings_for_tests

ID = "orders:h:1"
PAGE = f"/registry/v1/instances/{ID}"
FORM = f"/registry/v1/panel/instances/{ID}"
JOURNAL = "/registry/v1/journal"
ALICE = Actor(User("alice", Role.ADMIN), Door.GRPC)
OK, DOWN, DRAINED, GONE, UNKNOWN = State
HOUR = 3600 * 1000


@pytest.fixture
async def server(clock: FakeClock) -> AsyncIterator[Running]:
    """Run a server whose time passes only when a test says so."""
    async with running(settings_for_tests(), clock) as server:
        await server.registry.register(
            Info.of(ID, version="1.2", description="Takes orders", weight=3, metadata={"zone": "eu-1"}), Status.OK, actor=ALICE
        )
        yield server


async def shown(rest: ClientSession, path: str = PAGE) -> Page:
    """Return a page as a browser asks for it."""
    return await get(rest, path, headers=BROWSER)


def forms(page: Page) -> list[str]:
    """Return where the forms of a page lead to that change something."""
    return [str(said["action"]) for tag, said in page.elements if tag == "form" and said["method"] == "post"]


# An instance


async def test_an_instance_has_a_page(rest: ClientSession, server: Running, clock: FakeClock) -> None:
    """How it is, for how much longer, what it says of itself, what happened, and commands that ask for it."""
    clock.epoch_ms += 10_000
    page = await shown(rest)
    for words in (
        "OK Its heartbeats come in time.",
        "Last heartbeat 10 s ago. Its lease ends in 30 s unless another one comes.",
        "Service orders Description Takes orders Version 1.2 URL http://h:1/ Weight 3 Registered 10 s ago",
        f"Generation {server.registry.get(ID).instance.generation} Metadata zone=eu-1",
        "10 s ago registered alice, over gRPC 1",
        f"curl -u admin: {str(rest._base_url).rstrip('/')}{PAGE}",
        f"""-d '{{"instance_id":"orders:h:1"}}' 127.0.0.1:{server.grpc_port} luna.registry.v1.Registry/GetInstance""",
    ):
        assert words in page.text, words
    links = {said["href"] for tag, said in page.elements if tag == "a"}
    assert {"http://h:1/", f"{LIST}orders", LIST} <= links


async def test_programs_have_json_as_before(rest: ClientSession) -> None:
    """Only who asks for a page by name has one; and whoever wants can have JSON in a browser."""
    for path, headers in ((PAGE, {}), (PAGE, {"Accept": "application/json"}), (f"{PAGE}?format=json", BROWSER)):
        response = await rest.get(path, headers=headers)
        assert (response.headers["Content-Type"], response.headers["Vary"]) == ("application/json; charset=utf-8", "Accept")
        assert (await response.json())["instanceId"] == ID


async def test_a_page_says_why_an_instance_is_down(rest: ClientSession, server: Running, clock: FakeClock) -> None:
    """In words, with the next step where there is one."""
    registry = server.registry
    await registry.heartbeat(Beat(ID, status=Status.DOWN), actor=ALICE)
    assert "DOWN It reports DOWN itself." in (await shown(rest)).text
    await registry.heartbeat(Beat(ID, status=Status.OK), actor=ALICE)
    await registry.disconnect([registry.get(ID)], ALICE)
    assert "DOWN The connection that its heartbeats came by is broken." in (await shown(rest)).text
    await registry.heartbeat(Beat(ID), actor=ALICE)
    await registry.store.end([registry.get(ID)], StatusReason.LEASE_EXPIRED, now=0, actor=ITSELF)
    page = await shown(rest)
    assert "DOWN No heartbeat came in time. The next one brings it back." in page.text
    assert "Its lease has ended." in page.text
    await registry.drain(ID, 4 * 3600, actor=ALICE)
    clock.advance(60)
    assert (
        "DRAINED Taken out of service by alice 1 min ago, for another 3 h 59 min. Its heartbeats stay away as well."
        in (await shown(rest)).text
    )


async def test_a_registry_that_was_deaf_says_so(rest: ClientSession, server: Running) -> None:
    """Until then nothing expires."""
    server.registry.store.hold(1_000_000.0)
    assert "nothing expires for now" in (await shown(rest)).text


async def test_an_instance_that_left_has_a_page(rest: ClientSession, server: Running, clock: FakeClock) -> None:
    """That, when and by whom; as long as the journal knows of it. Programs are told that it is not there."""
    await server.registry.deregister(ID, actor=ALICE)
    clock.advance(120)
    page = await shown(rest)
    assert "GONE It is not registered any more: deregistered 2 min ago (alice, over gRPC)." in page.text
    assert forms(page) == []
    assert (await rest.get(PAGE)).status == 404
    assert (await rest.get("/registry/v1/instances/other:h:1", headers=BROWSER)).status == 404


async def test_the_drain_of_an_instance_that_left(rest: ClientSession, server: Running) -> None:
    """It holds for the id, so its page says so, and can end it."""
    await server.registry.drain(ID, 3600, actor=ALICE)
    await server.registry.deregister(ID, actor=ALICE)
    page = await shown(rest)
    assert "an instance that registers under it is out of service until then" in page.text
    [action] = forms(page)
    response = await rest.post(action, allow_redirects=False)
    assert (response.status, dict(server.registry.store.drains())) == (303, {})
    assert forms(await shown(rest)) == []


async def test_a_form_that_cannot_be_done_leads_on(rest: ClientSession) -> None:
    """Not back to an address that only takes forms."""
    foreign = BROWSER | {"Origin": "https://evil.example"}
    for what, headers, status in (("drain", foreign, 403), ("drain", BROWSER, 404)):
        response = await rest.post(FORM.replace("h:1", "h:9") + f"/{what}", headers=headers)
        page = Page(await response.text())
        assert response.status == status
        assert page.hrefs("button") == [LIST]


async def test_a_service_shows_who_left(rest: ClientSession, server: Running, clock: FakeClock) -> None:
    """Apart, for an hour; one that came back has not left."""
    registry = server.registry
    for number in (2, 3):
        await registry.register(Info.of(f"orders:h:{number}"), Status.OK, actor=ALICE)
        await registry.deregister(f"orders:h:{number}", actor=ALICE)
    await registry.register(Info.of("orders:h:3"), Status.OK, actor=ALICE)
    page = await get(rest, f"{LIST}orders")
    assert "Left within the last hour GONE orders:h:2 deregistered 0 s ago ( alice, over gRPC)" in page.text.replace("(", "( ", 1)
    assert "GONE orders:h:3" not in page.text
    clock.advance(3601)
    assert "Left within" not in (await get(rest, f"{LIST}orders")).text


async def test_a_service_whose_instances_have_all_left_has_a_page(rest: ClientSession, server: Running, clock: FakeClock) -> None:
    """For as long as the journal knows of it; in the list and for programs it is not there."""
    await server.registry.deregister(ID, actor=ALICE)
    clock.advance(2 * 3600)
    page = await get(rest, f"{LIST}orders?q=x&sort=id")
    assert "GONE all its instances have left" in page.text
    assert "Left GONE orders:h:1 deregistered 2 h ago" in page.text
    assert (await rest.get(f"{LIST}orders", headers={"Accept": "application/json"})).status == 404
    assert (await rest.get(f"{LIST}orders?format=csv")).status == 404
    assert (await rest.get(f"{LIST}nosuch", headers=BROWSER)).status == 404


async def test_an_instance_that_moved_to_another_service(rest: ClientSession, server: Running) -> None:
    """It is where it is now; the one that it left says so."""
    await server.registry.heartbeat(Beat(ID, info=Info.of(ID, name="new")), actor=ALICE)
    assert "Service new" in (await shown(rest)).text
    assert "orders:h:1 went to another service" in (await get(rest, f"{LIST}orders")).text


# The bar


async def test_a_bar_has_words_and_a_table(rest: ClientSession, server: Running, clock: FakeClock) -> None:
    """The same in all three; and no style, which the policy forbids."""
    clock.advance(8 * 3600)
    await server.registry.store.end([server.registry.get(ID)], StatusReason.LEASE_EXPIRED, now=0, actor=ITSELF)
    clock.advance(2 * 3600)
    said = "In the 10 h that are known: up 80 %, down once for 2 h."
    for path in (PAGE, f"{LIST}orders"):
        page = await shown(rest, path)
        assert said in page.text
        [svg] = [attributes for tag, attributes in page.elements if tag == "svg"]
        assert (svg["role"], svg["aria-label"]) == ("img", said)
        pieces = [(each["class"], each["x"], each["width"]) for tag, each in page.elements if tag == "rect"]
        assert pieces == [("unknown", "0", "84"), ("full", "84", "48"), ("new", "132", "12")]
        assert "down 2027-01-15 16:00:00 UTC now 2 h up 2027-01-15 08:00:00 UTC 2027-01-15 16:00:00 UTC 8 h" in page.text
        assert "unknown before 2027-01-14 18:00:00 UTC" in page.text


@pytest.mark.parametrize(
    ("spans", "words"),
    [
        ([(0, DAY, OK)], "the last 24 h: up 100 %, never down."),
        ([(0, DAY, UNKNOWN)], "the last 24 h: nothing is known."),
        ([(0, DAY, GONE)], "the last 24 h: not registered for 24 h."),
        ([(0, 1, DOWN), (1, DAY, OK)], "the last 24 h: up 99.9 %, down once for 0 s."),
        ([(0, HOUR, DOWN), (HOUR, 2 * HOUR, OK), (2 * HOUR, 4 * HOUR, DOWN)],
         "the last 24 h: up 25 %, down 2 times for 3 h in all."),
        ([(0, HOUR, GONE), (HOUR, 3 * HOUR, UNKNOWN), (3 * HOUR, DAY, OK)],
         "the 22 h that are known: up 100 %, never down; not registered for 1 h."),
        ([(0, HOUR, OK), (HOUR, DAY, DRAINED)], "the last 24 h: up 100 %, never down; drained for 23 h."),
    ],
)  # fmt: skip
def test_a_summary(spans: list[tuple[int, int, State]], words: str) -> None:
    """Only what was never down was up for 100 %."""
    assert summary([Span(*each) for each in spans]) == f"In {words}"


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [
        (59_999, "59 s"),
        (HOUR - 1, "59 min"),
        (HOUR, "1 h"),
        (4 * HOUR - 1, "3 h 59 min"),
        (25 * HOUR - 1, "1 d 0 h"),
        (30 * 24 * HOUR, "30 days"),
    ],
)
def test_how_long_something_lasts(milliseconds: int, words: str) -> None:
    """Not quite as roughly as how long ago it was."""
    assert lasting(milliseconds) == words


# The journal


async def test_the_journal_is_a_page(rest: ClientSession, server: Running, clock: FakeClock) -> None:
    """What happened, why, and who did it; the latest first."""
    await server.registry.drain(ID, 60, actor=ALICE)
    clock.advance(61)
    await server.registry.undrain(ID, actor=ITSELF)
    await server.registry.store.end([server.registry.get(ID)], StatusReason.LEASE_EXPIRED, now=0, actor=ITSELF)
    text = (await get(rest, JOURNAL)).text
    rows = re.findall(r"orders:h:1 orders (.*?) (\d)\b", text)
    assert rows == [
        ("down: no heartbeat in time by Luna itself", "0"),
        ("undrained by Luna itself", "1"),
        ("drained alice, over gRPC", "0"),
        ("registered alice, over gRPC", "1"),
    ]


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("", [4, 3, 2, 1]),
        ("q=alice", [3, 1]),
        ("q=ORDERS", [3, 1]),
        ("q=h:1+alice", [3, 1]),
        ("q=nosuch", []),
        ("kind=registered", [2, 1]),
        ("kind=drained&q=orders", [3]),
        ("kind=nosuch&page=0", [4, 3, 2, 1]),
        ("service=orders", [3, 1]),
        ("service=order", []),
        ("instance=orders:h:1&kind=drained", [3]),
        ("instance=h:1", []),
    ],
)
async def test_the_journal_is_searched(
    rest: ClientSession, server: Running, monkeypatch: pytest.MonkeyPatch, query: str, numbers: list[int]
) -> None:
    """By words and by what happened; the same as a page, as JSON and as CSV."""
    monkeypatch.setattr(export, "_TOGETHER", 1)
    await server.registry.register(Info.of("billing:x:1"), Status.OK, actor=ITSELF)
    await server.registry.drain(ID, 60, actor=ALICE)
    await server.registry.deregister("billing:x:1", actor=ITSELF)
    entries = await (await rest.get(f"{JOURNAL}?{query}&format=json", headers=BROWSER)).json()
    assert [entry["number"] for entry in entries] == numbers
    rows = (await (await rest.get(f"{JOURNAL}?{query}&format=csv")).text()).splitlines()
    assert [int(row.partition(",")[0]) for row in rows[1:]] == numbers
    page = await get(rest, f"{JOURNAL}?{query}")
    assert len(page.hrefs("open")) == len(numbers)


async def test_an_entry_as_json(rest: ClientSession, server: Running, clock: FakeClock) -> None:
    """With all that is known of it."""
    await server.registry.drain(ID, 60, actor=ALICE)
    [entry, _] = await (await rest.get(JOURNAL, headers={"Accept": "application/json"})).json()
    assert entry == {
        "number": 2,
        "at": clock.epoch_ms,
        "kind": Kind.DRAINED,
        "instanceId": ID,
        "service": "orders",
        "status": "DOWN",
        "statusReason": "DRAINED",
        "instancesUp": 0,
        "user": "alice",
        "door": "grpc",
    }


# Forms


async def send(rest: ClientSession, what: str, **fields: Any) -> tuple[int, str]:
    """Send a form; return the status and where the answer leads to."""
    response = await rest.post(f"{FORM}/{what}", data=fields, headers=BROWSER, allow_redirects=False)
    return response.status, response.headers.get("Location", "")


async def test_an_instance_is_drained_and_undrained(rest: ClientSession, server: Running, clock: FakeClock) -> None:
    """For as long as the form says; the answer leads back to where it stood."""
    instance = server.registry.get(ID)
    assert await send(rest, "drain", duration="900", back=f"{LIST}orders?q=x&page=2") == (303, f"{LIST}orders?q=x&page=2")
    assert instance.instance.drained_until == clock.epoch_ms + 900_000
    assert forms(await shown(rest)) == [f"{FORM.replace(ID, quote(ID, safe=''))}/undrain", *forms(await shown(rest))[1:]]
    assert await send(rest, "undrain") == (303, PAGE)
    assert instance.instance.drained_until is None
    assert await send(rest, "drain") == (303, PAGE)
    assert instance.instance.drained_until == clock.epoch_ms + 3_600_000
    [entry, *_] = server.registry.store.journal.latest()
    assert (entry.kind, entry.user, entry.door) == (Kind.DRAINED, "admin", "rest")


async def test_an_instance_is_deregistered(rest: ClientSession, server: Running) -> None:
    """The page warns that a live client comes back."""
    assert "If it is still running it comes back" in (await shown(rest)).text
    assert await send(rest, "deregister", back=PAGE) == (303, PAGE)
    assert server.registry.store.get(ID) is None
    assert "GONE" in (await shown(rest)).text
    assert (await send(rest, "deregister"))[0] == 404


@pytest.mark.parametrize(
    "back",
    [
        "",
        "http://evil.example/",
        "//evil.example/",
        "/\\evil.example/",
        "/registry/v1",
        "javascript:alert(1)",
        "/registry/v1/\r\nSet-Cookie: x=1",
        "/registry/v1/ x",
        "/registry/v1/ä",
        "/registry/v1/" + "x" * 4000,
    ],
)
async def test_the_way_back_is_a_page_of_ours(rest: ClientSession, back: str) -> None:
    """Whatever a form says, nobody is sent elsewhere."""
    assert await send(rest, "drain", back=back) == (303, PAGE)


@pytest.mark.parametrize(
    ("body", "headers", "field"),
    [
        ("duration=soon", {}, "duration"),
        ("duration=0.5", {}, "duration"),
        ("duration=1e99", {}, "duration"),
        ("duration=nan", {}, "duration"),
        ("duration=%ff", {}, "body"),
        ("x=1&" * 20, {}, "body"),
        ("duration=ä", {}, "body"),
        ("duration=60", {"Content-Encoding": "gzip"}, "body"),
        ('{"duration": 60}', {"Content-Type": "application/json"}, "body"),
        ("duration=60", {"Content-Type": "text/plain"}, "body"),
    ],
)
async def test_a_form_that_is_wrong(rest: ClientSession, server: Running, body: str, headers: dict[str, str], field: str) -> None:
    """400 and which field; nothing has changed."""
    sent = {"Content-Type": "application/x-www-form-urlencoded"} | headers
    response = await rest.post(f"{FORM}/drain", data=body.encode(), headers=sent)
    assert (response.status, (await response.json())["field"]) == (400, field)
    assert not server.registry.store.drains()


@pytest.mark.parametrize("what", ["drain", "undrain", "deregister"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://localhost:1"},
    ],
)
async def test_pages_of_other_origins_send_no_forms(
    rest: ClientSession, server: Running, what: str, headers: dict[str, str]
) -> None:
    """403, whatever credentials the browser adds; one of ours passes, although its origin is "null"."""
    await server.registry.drain(ID, 60, actor=ALICE)
    number = server.registry.store.journal.number
    response = await rest.post(f"{FORM}/{what}", data={"duration": "60"}, headers=headers, allow_redirects=False)
    assert (response.status, server.registry.store.journal.number) == (403, number)
    ours = {"Origin": "null", "Sec-Fetch-Site": "same-origin"}
    response = await rest.post(f"{FORM}/{what}", data={"duration": "60"}, headers=ours, allow_redirects=False)
    assert (response.status, server.registry.store.journal.number) == (303, number + 1)


async def test_forms_are_shown_to_those_who_may(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Drains are for admins, and who may change a service may deregister its instances."""
    file = str(tmp_path_factory.mktemp("panel") / "users.toml")
    users.add(file, "rita", role=Role.READER, prefixes=(), password="x")
    users.add(file, "wanda", role=Role.WRITER, prefixes=["orders"], password="x")
    users.add(file, "root", role=Role.ADMIN, prefixes=(), password="x")
    async with running(settings_for_tests(users_file=file)) as server:
        for instance_id in (ID, "billing:h:1"):
            await server.registry.register(Info.of(instance_id), Status.OK, actor=ITSELF)
        found: dict[str, list[list[str]]] = {}
        for name in ("rita", "wanda", "root"):
            async with session(f"http://127.0.0.1:{server.rest_port}", basic(name, "x")) as client:
                pages = [await shown(client, path) for path in (PAGE, "/registry/v1/instances/billing:h:1", f"{LIST}orders")]
                found[name] = [[action.rpartition("/")[2] for action in forms(page)] for page in pages]
        assert found == {
            "rita": [[], [], []],
            "wanda": [["deregister"], [], []],
            "root": [["drain", "deregister"], ["drain", "deregister"], ["drain"]],
        }
