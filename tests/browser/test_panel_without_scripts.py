"""The panel without JavaScript: everything can be read, searched, sorted, paged, drained; and how many clicks that takes."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fleet_of_services import MANY, a_few, many
from playwright.async_api import Browser, Locator, Page

from luna_grpc.model import StatusReason
from luna_grpc.serve import Running, running
from support import settings_for_tests
from visits import Visit, Visits, visits_of

LIST = "/registry/v1/services/"
DOWN = f"service-{1234:04}:10.0.0.2:80"
"""The one instance of all that is down."""


@pytest.fixture
async def looking(visit: Visits) -> Visit:
    """Return a visitor whose browser runs no scripts."""
    return await visit(java_script_enabled=False)


async def opened(page: Page) -> list[str]:
    """Return what the rows of a list are called."""
    return await page.locator("tbody a.open").all_inner_texts()


async def quiet(looking: Visit) -> None:
    """Nothing was loaded from elsewhere, and the browser had nothing to forbid."""
    assert (looking.ran, looking.foreign, looking.complaints) == ([], [], [])


async def test_a_list_is_searched_filtered_and_sorted(looking: Visit, server: Running) -> None:
    """By forms and links, and each state is an address of its own."""
    await a_few(server.registry)
    await looking.goto(LIST)
    page = looking.page
    assert await opened(page) == ["billing", "mail", "orders"]
    await page.get_by_role("searchbox").fill("zone=eu-1 drained")
    await page.get_by_role("searchbox").press("Enter")
    assert page.url.endswith("?q=zone%3Deu-1+drained")
    assert await opened(page) == ["orders"]
    assert "orders:h:2" in await page.locator("tbody").inner_text()
    await page.get_by_role("link", name="Show all").click()
    await page.get_by_role("link", name="Instances down").click()
    assert await opened(page) == ["billing", "mail"]
    await page.get_by_role("link", name="Service", exact=True).click()
    assert await page.locator("th[aria-sort=ascending]").inner_text() == "Service"
    await page.get_by_role("link", name="Service", exact=True).click()
    assert await opened(page) == ["mail", "billing"]
    await page.get_by_role("link", name="Instances down").click()
    assert await opened(page) == ["orders", "mail", "billing"]
    await page.go_back()
    assert await opened(page) == ["mail", "billing"]
    await quiet(looking)


async def test_an_instance_is_drained_and_put_back(looking: Visit, server: Running) -> None:
    """From its row and from its page; each leads back to where it was, and the journal tells who it was."""
    await a_few(server.registry)
    await looking.goto(f"{LIST}orders?sort=id")
    page = looking.page
    row = page.locator("tr", has_text="orders:h:1").first
    await row.locator("summary").click()
    await row.get_by_label("Drain for").select_option("15 min")
    await row.get_by_role("button", name="Drain").click()
    assert page.url.endswith("/orders?sort=id")
    assert re.search(r"for another 1[45] min", await row.inner_text())
    await row.get_by_role("button", name="Undrain").click()
    assert server.registry.get("orders:h:1").instance.drained_until is None
    await row.get_by_role("link", name="orders:h:1").click()
    await page.get_by_label("Drain for").select_option("7 days")
    await page.get_by_role("button", name="Drain").click()
    assert "Taken out of service by admin" in await page.locator("main").inner_text()
    assert re.search(r"another (7 days|6 d 23 h)", await page.locator("main").inner_text())
    await page.get_by_role("button", name="Undrain").click()
    await looking.goto("/registry/v1/journal")
    said = await page.locator("tbody tr").first.inner_text()
    assert "undrained" in said
    assert "admin, over REST" in said
    await quiet(looking)


async def test_an_instance_is_deregistered(looking: Visit, server: Running) -> None:
    """After a warning; its page then tells that it is gone."""
    await a_few(server.registry)
    await looking.goto("/registry/v1/instances/mail:h:2")
    page = looking.page
    button = page.get_by_role("button", name="Deregister")
    assert not await button.is_visible()
    await page.get_by_text("Deregister …").click()
    assert "it comes back" in await page.locator("#deregister").inner_text()
    await button.click()
    assert "not registered any more" in await page.locator("main").inner_text()
    assert server.registry.store.get("mail:h:2") is None
    await quiet(looking)


async def test_the_history_can_be_read(looking: Visit, server: Running) -> None:
    """As a bar, in words, and as a table."""
    await a_few(server.registry)
    await looking.goto("/registry/v1/instances/mail:h:1")
    page = looking.page
    assert "that are known" in (await page.get_by_role("img").get_attribute("aria-label") or "")
    assert not await page.locator("table.spans").is_visible()
    await page.get_by_text("As a table").click()
    assert "down" in await page.locator("table.spans").inner_text()
    box = await page.locator("svg rect").last.bounding_box()
    assert box is not None
    assert box["width"] > 0
    await quiet(looking)


# Among 5,000 services


@pytest.fixture(scope="module")
async def crowd() -> AsyncIterator[Running]:
    """Run a server with 5,000 services; their leases do not end."""
    async with running(settings_for_tests(lease_ttl=3600)) as server:
        await many(server.registry)
        yield server


@pytest.fixture
async def visiting(browser: Browser, crowd: Running) -> AsyncIterator[Visit]:
    """Return a visitor of that server whose browser runs no scripts."""
    async with visits_of(browser, f"http://127.0.0.1:{crowd.rest_port}") as visit:
        yield await visit(java_script_enabled=False)


class Clicks:
    """Clicks, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    async def on(self, what: Locator) -> None:
        """Click what has to be there once."""
        await what.click()
        self.count += 1


async def test_three_tasks(visiting: Visit, crowd: Running) -> None:
    """The one instance that is down is found, it is seen why, and it is drained: with two clicks each at most."""
    registration = crowd.registry.get(DOWN)
    page = visiting.page
    await visiting.goto(LIST)
    find, see, drain = Clicks(), Clicks(), Clicks()
    await find.on(page.get_by_role("link", name="Instances down"))
    assert await page.locator(".named a.id").all_inner_texts() == [DOWN]
    await see.on(page.get_by_role("link", name=DOWN))
    assert "It reports DOWN itself." in await page.locator(".verdict").inner_text()
    await drain.on(page.get_by_role("button", name="Drain"))
    assert "Taken out of service by admin" in await page.locator(".verdict").inner_text()
    assert registration.instance.reason is StatusReason.DRAINED
    assert (find.count, see.count, drain.count) == (1, 1, 1)
    await page.get_by_role("button", name="Undrain").click()
    await quiet(visiting)


async def test_the_same_by_words(visiting: Visit) -> None:
    """Who knows the name types it, and has why on the same page."""
    await visiting.goto(LIST)
    page = visiting.page
    await page.get_by_role("searchbox").fill("service-1234 down")
    await page.get_by_role("button", name="Search").click()
    assert f"{DOWN}\n" in await page.locator(".named").inner_text() + "\n"
    assert "reported by the instance" in await page.locator(".named").inner_text()


async def test_a_long_list_is_paged(visiting: Visit) -> None:
    """All 5,000 are reached by links, in order, and the counts are of all of them."""
    await visiting.goto(f"{LIST}?sort=-name")
    page = visiting.page
    assert "5,000" in await page.locator(".counts").inner_text()
    seen = await opened(page)
    for _ in range(2):
        await page.get_by_role("link", name="Next").click()
        seen += await opened(page)
    assert seen == [f"service-{MANY - 1 - number:04}" for number in range(300)]
    await page.get_by_role("link", name="Previous").click()
    assert (await opened(page))[0] == seen[100]
    await quiet(visiting)


SETTINGS: list[dict[str, Any]] = [
    {"viewport": {"width": width, "height": 900}, "color_scheme": scheme} for width in (320, 1280) for scheme in ("light", "dark")
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
async def test_nothing_is_pushed_out_of_the_window(visit: Visits, server: Running, settings: dict[str, Any]) -> None:
    """On each page, however narrow."""
    await a_few(server.registry)
    looking = await visit(**settings)
    for path in (LIST, f"{LIST}orders", "/registry/v1/instances/orders:h:2", "/registry/v1/journal"):
        await looking.goto(path)
        assert await looking.page.evaluate("document.documentElement.scrollWidth") <= settings["viewport"]["width"], path
    await looking.assert_quiet()


async def test_what_is_printed(visit: Visits, server: Running) -> None:
    """What can be read, on paper as wide as it is; nothing that can only be clicked."""
    await a_few(server.registry)
    looking = await visit(viewport={"width": 720, "height": 1000})
    await looking.page.emulate_media(media="print")
    for path in (LIST, f"{LIST}orders", "/registry/v1/instances/orders:h:2", "/registry/v1/journal"):
        await looking.goto(path)
        assert await looking.page.evaluate("document.documentElement.scrollWidth") <= 720, path
        assert await looking.page.locator("form:visible, button:visible, .pager:visible").count() == 0
        assert await looking.page.locator(".moon:visible").count() > 0
    await looking.assert_quiet()
