"""An open page keeps itself up to date, in a real browser: what changes is seen, what a person does there stays."""

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median

import pytest
from playwright.async_api import Browser, Page, expect

from luna_grpc import users
from luna_grpc.access import Role
from luna_grpc.model import ITSELF, Info, Status
from luna_grpc.registry import Beat
from luna_grpc.serve import Running, running
from support import luna, settings_for_tests
from visits import PATIENCE, Visit, Visits, visits_of

LIST = "/registry/v1/services/"
SERVICE = "/registry/v1/services/orders"
JOURNAL = "/registry/v1/journal"
SOON = 2.0
"""Seconds within which a change is seen."""

expect.set_options(timeout=PATIENCE)


async def register(server: Running, instance_id: str, status: Status = Status.OK) -> None:
    """Let an instance be there."""
    await server.registry.register(Info.of(instance_id), status, actor=ITSELF)


@asynccontextmanager
async def signed_in(browser: Browser, port: int, user: str = "admin") -> AsyncIterator[Visits]:
    """Give what opens pages in a browser that remembers the credentials, as after a visit with them in the URL."""
    async with visits_of(browser, f"http://127.0.0.1:{port}") as visit:

        async def remembering(**settings: object) -> Visit:
            looking = await visit(http_credentials=None, **settings)
            await looking.page.goto(f"http://{user}@127.0.0.1:{port}{LIST}?live=off")
            return looking

        yield remembering


@pytest.fixture
async def remembering(browser: Browser, server: Running) -> AsyncIterator[Visits]:
    """Return what opens pages of the server in a browser that remembers the credentials."""
    async with signed_in(browser, server.rest_port) as visit:
        yield visit


async def state(page: Page, wanted: str) -> None:
    """Return when the page says of itself that it is in this state, in words."""
    words = {"live": "Live", "paused": "Paused", "lost": "Disconnected, trying again", "out": "Signed out", "refused": "Not live"}
    await expect(page.locator("#live")).to_have_attribute("data-state", wanted)
    await expect(page.locator("#live-words")).to_contain_text(words[wanted])


async def until_streams(server: Running, count: int) -> None:
    """Return when so many streams are open."""
    async with asyncio.timeout(PATIENCE / 1000):
        while len(server.rest.changes) != count:  # noqa: ASYNC110 - the server has no reason to tell
            await asyncio.sleep(0.01)


class Fetches:
    """Counts how often a page fetches itself."""

    def __init__(self, page: Page) -> None:
        self.moments: list[float] = []
        page.on("request", lambda request: self._asked(request.resource_type, request.url))

    def _asked(self, kind: str, url: str) -> None:
        if kind == "fetch" and "/changes" not in url:
            self.moments.append(time.monotonic())


async def test_what_changes_is_seen_soon(
    remembering: Visits, server: Running, record_property: Callable[[str, object], None]
) -> None:
    """Registered, failing, drained, leaving: without a reload, while somebody types and reads a detail."""
    await register(server, "orders:h:1")
    looking = await remembering()
    page = looking.page
    await looking.goto(SERVICE)
    await state(page, "live")
    await page.evaluate("window.same = 1")
    details = page.locator("#history-table")
    await details.locator("summary").click()
    search = page.locator("#q")
    await search.focus()
    row = page.locator('[id="row-orders:h:2"]')
    steps: list[tuple[str, Callable[[], Awaitable[object]], Callable[[], Awaitable[None]]]] = [
        ("registered", lambda: register(server, "orders:h:2"), lambda: expect(row).to_contain_text("OK")),
        (
            "failing",
            lambda: server.registry.heartbeat(Beat("orders:h:2", status=Status.DOWN), actor=ITSELF),
            lambda: expect(row).to_contain_text("DOWN"),
        ),
        ("drained", lambda: server.registry.drain("orders:h:2", 60, actor=ITSELF), lambda: expect(row).to_contain_text("DRAINED")),
        ("left", lambda: server.registry.deregister("orders:h:2", actor=ITSELF), lambda: expect(row).to_have_count(0)),
    ]
    took = []
    for name, change, seen in steps:
        began = time.monotonic()
        await change()
        await seen()
        took.append(time.monotonic() - began)
        record_property(f"seconds until seen: {name}", round(took[-1], 2))
        await expect(page).to_have_title("(1 down) orders · Luna" if name == "failing" else "orders · Luna")
        icon = re.compile(r"/down-1\.svg" if name == "failing" else r"/luna\.svg")
        await expect(page.locator("link[rel=icon]")).to_have_attribute("href", icon)
        await expect(search).to_be_focused()
        await expect(details).to_have_attribute("open", "")
    assert median(took) < SOON
    assert await page.evaluate("window.same") == 1
    await looking.assert_quiet()
    await search.press("x")
    await expect(search).to_have_value("x")


async def test_a_row_with_the_focus_says_where_it_leads(remembering: Visits, server: Running) -> None:
    """What is new comes above it, and each row stays what it was: its words and its link are of one instance."""
    await register(server, "orders:h:1")
    looking = await remembering()
    page = looking.page
    await looking.goto(JOURNAL)
    await state(page, "live")
    await page.keyboard.press("j")
    await register(server, "orders:h:2")
    await expect(page.locator("main a.open")).to_have_text(["orders:h:2", "orders:h:1"])
    assert await page.evaluate("document.activeElement.textContent") == "orders:h:1"
    for link in await page.locator("main a.open").all():
        assert (await link.get_attribute("href") or "").endswith((await link.text_content() or "").replace(":", "%3A"))
    await looking.goto(LIST)
    await state(page, "live")
    count = page.get_by_role("link", name="Services up")
    await count.focus()
    await register(server, "mail:h:1")
    await expect(count).to_have_text(re.compile("2"))
    await expect(count).to_be_focused()


async def test_what_somebody_does_survives(remembering: Visits, server: Running) -> None:
    """What is typed, with the caret, what is marked, how far one has read, the row with the focus, and what is chosen in a form."""
    for number in range(60):
        await register(server, f"orders:h:{number + 100}")
    looking = await remembering()
    page = looking.page
    await looking.goto(SERVICE)
    await state(page, "live")
    action = page.locator('[id="act-orders:h:130"]')
    await action.locator("summary").click()
    await action.locator("select").select_option("14400")
    link = page.locator('[id="row-orders:h:130"] a.open')
    await link.focus()
    await page.evaluate(
        """() => { const range = document.createRange();
          range.selectNodeContents(document.querySelector('[id="row-orders:h:131"] a.open'));
          getSelection().removeAllRanges(); getSelection().addRange(range); }"""
    )
    scrolled = await page.evaluate("scrollY")
    assert scrolled > 0
    await register(server, "orders:h:1", Status.DOWN)  # it comes first
    await expect(page.locator('[id="row-orders:h:1"]')).to_have_count(1)
    await server.registry.heartbeat(Beat("orders:h:130", status=Status.DOWN), actor=ITSELF)  # and this one moves up
    await expect(page.locator('[id="row-orders:h:130"]')).to_contain_text("DOWN")
    await expect(link).to_be_focused()
    await expect(action).to_have_attribute("open", "")
    await expect(action.locator("select")).to_have_value("14400")
    assert await page.evaluate("getSelection().toString().trim()") == "orders:h:131"
    assert await page.evaluate("scrollY") > 0
    search = page.locator("#q")
    await page.route("**/*q=*", lambda route: asyncio.sleep(0, route.abort()))  # the search itself is not what is looked at
    await search.press_sequentially("abc")
    await search.press("ArrowLeft")
    await register(server, "orders:h:2", Status.DOWN)
    await page.unroute_all()
    await expect(page.locator("#q")).to_have_value("abc")
    assert await search.evaluate("input => input.selectionStart") == 2
    await expect(search).to_be_focused()


async def test_typing_searches(remembering: Visits, server: Running) -> None:
    """Soon after the last key, under an address of its own; the way back is not filled with half words."""
    for name in ("orders", "billing"):
        await register(server, f"{name}:h:1")
    looking = await remembering()
    page = looking.page
    await looking.goto(LIST)
    length = await page.evaluate("history.length")
    await page.locator("#q").press_sequentially("bill")
    await expect(page.locator("tbody tr[id]")).to_have_count(1)
    assert page.url == f"{looking.origin}{LIST}?q=bill"
    assert await page.evaluate("history.length") == length
    await expect(page.locator("#live-off")).to_have_attribute("href", f"{LIST}?q=bill&live=off")
    await page.locator("#q").press("Enter")
    await expect(page.locator("#q")).to_be_focused()
    await page.locator("#q").fill("")
    await expect(page.locator("tbody tr[id]")).to_have_count(2)
    assert page.url == looking.origin + LIST
    await looking.assert_quiet()


async def test_with_credentials_in_the_address(browser: Browser, server: Running) -> None:
    """As the README has it; relative addresses of requests would hold them too, which browsers refuse."""
    async with visits_of(browser, f"http://127.0.0.1:{server.rest_port}") as visit:
        looking = await visit(http_credentials=None)
        page = looking.page
        await page.goto(f"http://admin@127.0.0.1:{server.rest_port}{LIST}")
        await state(page, "live")
        await register(server, "orders:h:1")
        await page.locator("#row-orders").wait_for()
        await page.locator("#q").press_sequentially("none")
        await expect(page.locator("#row-orders")).to_have_count(0)
        await looking.assert_quiet()


async def test_a_registry_that_is_gone_and_comes_back(browser: Browser) -> None:
    """The page says so, and recovers by itself with what there is then, though its revisions begin anew."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(luna())
        port = first.rest.rpartition(":")[2]
        visit = await stack.enter_async_context(signed_in(browser, int(port)))
        looking = await visit()
        page = looking.page
        await looking.goto(LIST)
        await state(page, "live")
        await put(page, "before:h:1")
        await page.locator("#row-before").wait_for()
        await first.stop(signal.SIGKILL)
        await state(page, "lost")
        await page.locator("#row-before").wait_for()  # what was known is still there to be read
        await stack.enter_async_context(luna("--port", port))
        await state(page, "live")
        await expect(page.locator("#row-before")).to_have_count(0)
        await put(page, "after:h:1")
        await page.locator("#row-after").wait_for()
        assert looking.ran == []


async def put(page: Page, instance_id: str) -> None:
    """Register an instance by REST, with the credentials that the browser remembers."""
    said = {"instanceId": instance_id, "name": instance_id.partition(":")[0], "version": "1", "url": "http://h/", "status": "OK"}
    status = await page.evaluate(
        """async (said) => (await fetch(location.origin + "/registry/v1/instances/" + said.instanceId,
          { method: "POST", body: JSON.stringify(said) })).status""",
        said,
    )
    assert status == 201


SHOWN = """hidden => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
  Object.defineProperty(document, "visibilityState", { configurable: true, get: () => (hidden ? "hidden" : "visible") });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


async def test_a_hidden_page_follows_nothing_and_catches_up(remembering: Visits, server: Running) -> None:
    """When it is shown again."""
    looking = await remembering()
    await looking.goto(LIST)
    await state(looking.page, "live")
    await until_streams(server, 1)
    await looking.page.evaluate(SHOWN, True)
    await until_streams(server, 0)
    await register(server, "orders:h:1")
    fetches = Fetches(looking.page)
    await looking.page.evaluate(SHOWN, False)
    await looking.page.locator("#row-orders").wait_for()
    await until_streams(server, 1)
    assert fetches.moments


async def test_a_paused_page_stands_still(remembering: Visits, server: Running) -> None:
    """And says so, until it is resumed."""
    looking = await remembering()
    page = looking.page
    await looking.goto(LIST)
    await state(page, "live")
    await page.get_by_role("button", name="Pause").click()
    await state(page, "paused")
    await until_streams(server, 0)
    await register(server, "orders:h:1")
    await page.locator("#live-ago").get_by_text(re.compile("updated [1-9]")).wait_for()
    await expect(page.locator("#row-orders")).to_have_count(0)
    await page.get_by_role("button", name="Resume").click()
    await page.locator("#row-orders").wait_for()
    await state(page, "live")


async def test_who_is_signed_out_is_told(browser: Browser, tmp_path: Path) -> None:
    """With the way in, and without a dialog of the browser over what is read."""
    file = str(tmp_path / "users.toml")
    users.add(file, "rita", role=Role.READER, prefixes=(), password="secret")
    async with (
        running(settings_for_tests(users_file=file)) as server,
        signed_in(browser, server.rest_port, "rita:secret") as visit,
    ):
        looking = await visit()
        await looking.goto(LIST)
        await state(looking.page, "live")
        server.authenticator.replace({})
        await state(looking.page, "out")
        await expect(looking.page.get_by_role("link", name="Sign in again")).to_be_visible()


async def test_a_storm_of_changes_is_looked_at_once_a_second(
    remembering: Visits, server: Running, record_property: Callable[[str, object], None]
) -> None:
    """100 changes a second, for some seconds; in the end the page shows the last one."""
    looking = await remembering()
    await looking.goto(LIST)
    await state(looking.page, "live")
    fetches = Fetches(looking.page)
    number = 0
    while len(fetches.moments) < 4:
        await register(server, f"s{number % 50}:h:{number + 1}")
        number += 1
        await asyncio.sleep(0.01)
    await register(server, "last:h:1")
    await looking.page.locator("#row-last").wait_for()
    gaps = [after - before for before, after in zip(fetches.moments, fetches.moments[1:], strict=False)]
    record_property("changes, fetches, shortest gap", [number, len(fetches.moments), round(min(gaps), 2)])
    assert min(gaps) > 0.9  # seen from outside, two requests may come closer than they were sent
    await looking.assert_quiet()


async def test_many_tabs_share_one_stream(remembering: Visits, server: Running) -> None:
    """Eight are live at once, and a ninth request, which the browser has six connections for, still works."""
    looking = await remembering()
    await looking.goto(LIST)
    context = looking.page.context
    pages = [looking.page]
    for _ in range(7):
        page = await context.new_page()
        await page.goto(looking.origin + LIST)
        pages.append(page)
    for page in pages:
        await state(page, "live")
    await until_streams(server, 1)
    await register(server, "orders:h:1")
    for page in pages:
        await page.locator("#row-orders").wait_for()
    assert await pages[-1].evaluate("async () => (await fetch(location.origin + '/livez')).status") == 200
    for page in pages[1:]:
        await page.close()
    await register(server, "billing:h:1")
    await pages[0].locator("#row-billing").wait_for()


async def test_without_a_shared_worker_a_tab_follows_by_itself(remembering: Visits, server: Running) -> None:
    """As some browsers for telephones do."""
    looking = await remembering()
    await looking.page.add_init_script("delete window.SharedWorker")
    await looking.goto(LIST)
    await state(looking.page, "live")
    await register(server, "orders:h:1")
    await looking.page.locator("#row-orders").wait_for()
    await looking.assert_quiet()


async def test_a_worker_that_is_not_let_in(visit: Visits, server: Running) -> None:
    """The page, which is, follows by itself: what signs these pages in does not reach workers."""
    looking = await visit()
    await looking.goto(LIST)
    await state(looking.page, "live")
    await register(server, "orders:h:1")
    await looking.page.locator("#row-orders").wait_for()


async def test_one_page_too_many_says_why_it_is_not_live(browser: Browser) -> None:
    """In the words of the server; it becomes live when there is room."""
    async with (
        running(settings_for_tests(max_change_streams=1)) as server,
        signed_in(browser, server.rest_port) as visit,
    ):
        one, other = await visit(), await visit()
        await one.goto(LIST)
        await state(one.page, "live")
        await other.goto(LIST)
        await state(other.page, "refused")
        await expect(other.page.locator("#live-words")).to_contain_text("LUNA_MAX_CHANGE_STREAMS")
        await one.page.close()
        await state(other.page, "live")


async def test_a_page_shows_how_old_heartbeats_are(remembering: Visits, server: Running) -> None:
    """Heartbeats change nothing that is told, so the page fetches itself now and then all the same."""
    await register(server, "orders:h:1")
    looking = await remembering()
    await looking.goto(SERVICE)
    await state(looking.page, "live")
    fetches = Fetches(looking.page)
    async with asyncio.timeout(PATIENCE / 1000):
        while not fetches.moments:  # noqa: ASYNC110 - the page has no reason to tell
            await asyncio.sleep(0.05)


async def test_the_theme_is_kept(remembering: Visits) -> None:
    """Light, dark, or as the system has it; worn before anything is shown."""
    looking = await remembering(color_scheme="dark")
    page = looking.page
    colour = "getComputedStyle(document.body).backgroundColor"
    await looking.goto(LIST)
    dark = await page.evaluate(colour)
    await page.get_by_label("Theme").select_option("light")
    light = await page.evaluate(colour)
    assert light != dark
    await page.reload()
    assert await page.evaluate(colour) == light
    assert await page.get_by_label("Theme").input_value() == "light"
    await page.emulate_media(color_scheme="light")
    await page.get_by_label("Theme").select_option("dark")
    assert await page.evaluate(colour) == dark
    await page.get_by_label("Theme").select_option("system")
    assert await page.evaluate(colour) == light
    await page.emulate_media(color_scheme="dark")
    assert await page.evaluate(colour) == dark
    script = page.locator('head script[src*="theme.js"]')
    assert await script.get_attribute("defer") is None
    assert await script.evaluate("script => script.compareDocumentPosition(document.querySelector('link[rel=stylesheet]'))") == 4
    await looking.assert_quiet()


async def test_the_keyboard(remembering: Visits, server: Running) -> None:
    """From the search along the rows into one, and back."""
    for name in ("a", "b", "c"):
        await register(server, f"{name}:h:1")
    looking = await remembering()
    page = looking.page
    await looking.goto(LIST)
    await expect(page.get_by_role("button", name="Keys")).to_be_visible()
    row = [page.locator(f"#row-{name} a.open") for name in ("a", "b", "c")]
    keys = page.keyboard
    await keys.press("/")
    await expect(page.locator("#q")).to_be_focused()
    await keys.press("j")
    await expect(page.locator("#q")).to_have_value("j")
    await page.locator("#q").fill("")
    await keys.press("Escape")
    await expect(page.locator("#q")).not_to_be_focused()
    for key, place in [("j", 0), ("j", 1), ("ArrowDown", 2), ("j", 2), ("k", 1), ("ArrowUp", 0)]:
        await keys.press(key)
        await expect(row[place]).to_be_focused()
    await keys.press("ArrowUp")
    await expect(page.locator("#q")).to_be_focused()
    await keys.press("ArrowDown")
    await expect(row[0]).to_be_focused()
    await keys.press("?")
    await expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    await keys.press("Escape")
    await expect(page.get_by_role("dialog", name="Keys")).to_be_hidden()
    await keys.press("j")
    await expect(row[1]).to_be_focused()
    await keys.press("Control+k")
    await expect(row[1]).to_be_focused()
    await keys.press("Enter")
    await page.wait_for_url(f"**{LIST}b")
    await keys.press("Escape")
    await page.wait_for_url(f"**{LIST}")
    await looking.assert_quiet()
