"""axe-core finds nothing on any page of the panel, light and dark, empty and full; and everything is reached with the keyboard."""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fleet_of_services import a_few, many
from playwright.async_api import Browser, Page

from luna_grpc.registry import Registry
from luna_grpc.serve import Running, running
from support import settings_for_tests
from visits import Visits, visits_of

LIST = "/registry/v1/services/"
JOURNAL = "/registry/v1/journal"
PAGES = {
    "empty": [LIST, JOURNAL, f"{LIST}nosuch"],
    "a few": [
        LIST,
        f"{LIST}?instances=DOWN&sort=-name",
        f"{LIST}?q=nosuch",
        f"{LIST}orders",
        f"{LIST}orders?status=DRAINED",
        "/registry/v1/instances/orders:h:1",
        "/registry/v1/instances/orders:h:2",
        "/registry/v1/instances/orders:h:3",
        "/registry/v1/instances/mail:h:1",
        JOURNAL,
        f"{JOURNAL}?kind=down",
    ],
    "5,000 services": [LIST, f"{LIST}?q=eu-1", f"{LIST}service-1234", JOURNAL],
}
FILLED: dict[str, Callable[[Registry], Awaitable[None]]] = {"a few": a_few, "5,000 services": many}


def axe() -> str:
    """Return the source of axe-core."""
    folders = [Path(folder) for folder in os.environ.get("NODE_PATH", "").split(os.pathsep) if folder]
    if shutil.which("npm"):
        root = subprocess.run(["npm", "root", "--global"], capture_output=True, text=True, check=False).stdout.strip()
        folders.append(Path(root))
    for folder in folders:
        path = folder / "axe-core" / "axe.min.js"
        if path.exists():
            return path.read_text()
    assert "CI" not in os.environ, "axe-core is missing"
    pytest.skip("axe-core is missing: npm install --global axe-core")


async def found(page: Page, source: str) -> list[tuple[str, list[Any]]]:
    """Return what axe-core finds on a page: each rule with the elements that break it."""
    await page.evaluate(source)
    results = await page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    assert results["passes"]
    return [(each["id"], [node["html"] for node in each["nodes"]]) for each in results["violations"]]


@pytest.fixture(scope="module", params=PAGES)
async def filled(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Running, list[str]]]:
    """Run a server with so many services; their leases do not end."""
    async with running(settings_for_tests(lease_ttl=3600)) as server:
        if request.param in FILLED:
            await FILLED[request.param](server.registry)
        yield server, PAGES[request.param]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
async def test_axe_finds_nothing(browser: Browser, filled: tuple[Running, list[str]], scheme: str, width: int) -> None:
    """On each page, also with everything opened that can be."""
    source = axe()
    server, paths = filled
    async with visits_of(browser, f"http://127.0.0.1:{server.rest_port}") as visit:
        looking = await visit(color_scheme=scheme, viewport={"width": width, "height": 900})
        for path in paths:
            await looking.goto(path)
            assert await found(looking.page, source) == [], path
            if paths is PAGES["a few"]:
                await looking.page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
                assert await found(looking.page, source) == [], path


async def test_axe_would_find_something(visit: Visits) -> None:
    """The test above can fail."""
    looking = await visit()
    await looking.goto(f"{LIST}?live=off")
    await looking.page.evaluate(
        "document.querySelector('main').insertAdjacentHTML('beforeend', '<img src=data:,><button></button>')"
    )
    assert {rule for rule, _ in await found(looking.page, axe())} >= {"image-alt", "button-name"}


async def test_the_keyboard_is_enough(visit: Visits, server: Running) -> None:
    """With Tab and Enter from the beginning of the page an instance is found and drained; where one is, is always seen."""
    await a_few(server.registry)
    looking = await visit()
    page = looking.page
    await looking.goto(LIST)
    await tab_to(page, "Instances down")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/?instances=DOWN")
    await tab_to(page, "mail:h:1")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/instances/**")
    await tab_to(page, "Drain")
    await page.keyboard.press("Enter")
    await page.get_by_text("Taken out of service by admin").wait_for()
    assert server.registry.get("mail:h:1").instance.drained_until is not None
    await looking.assert_quiet()


async def tab_to(page: Page, words: str) -> None:
    """Press Tab until the element with these words has the focus."""
    for _ in range(60):
        await page.keyboard.press("Tab")
        focused = page.locator(":focus")
        assert await focused.evaluate("each => getComputedStyle(each).outlineStyle") != "none"
        text = (await focused.inner_text()).strip()
        if text.startswith(words):
            return
    pytest.fail(f"Tab does not lead to {words}")
