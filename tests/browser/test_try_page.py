"""The page to try the API works: for the mouse, for the keyboard, without JavaScript, with the address that the README gives."""

import asyncio
import re
from typing import Any
from urllib.parse import quote

import pytest
from playwright.async_api import Browser, Locator, Page

from gateway.openapi import document
from gateway.schemas import EXAMPLE_ID
from luna_grpc.model import ITSELF, Info, Status
from luna_grpc.serve import Running
from support import need
from visits import Visit, Visits, visits_of

PAGE = "/registry/v1/docs"
OPERATIONS: dict[str, dict[str, Any]] = {
    operation["operationId"]: {"method": method.upper(), "path": path, **operation}
    for path, item in document(1).get("paths", {}).items()
    for method, operation in item.items()
    if method != "parameters"
}
EXPECTED = {"registerInstance": "201 Created", "getService": "200 OK", "goToPanel": "200 OK"}
IN_ORDER = [*sorted(OPERATIONS, key=lambda name: (name != "registerInstance", name == "deregister"))]
"""First an instance is registered, last it is deregistered."""


def form_of(page: Page, operation: str) -> Locator:
    """Return the form of an operation."""
    return page.locator(f"#{operation} form")


async def send(page: Page, operation: str) -> str:
    """Press the button, and return the status shown."""
    form = form_of(page, operation)
    await form.get_by_role("button", name="Send").click()
    await form.locator(".received").wait_for()
    return await form.locator(".status").inner_text()


async def shell(command: str) -> str:
    """Run a command as it was copied, and return what it prints."""
    need("curl")
    process = await asyncio.create_subprocess_exec(
        "bash", "-euc", command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_every_operation_can_be_tried(visit: Visits) -> None:
    """With the example that stands in its form; the answer has status, headers and body."""
    looking = await visit()
    await looking.goto(PAGE)
    assert await looking.page.locator("section.operation").count() == len(OPERATIONS)
    for operation in IN_ORDER:
        status = await send(looking.page, operation)
        assert status.startswith(EXPECTED.get(operation, "200 OK")), operation
        form = form_of(looking.page, operation)
        await form.locator(".received summary").click()
        assert "x-content-type-options: nosniff" in await form.locator(".headers").inner_text()
        assert await form.locator(".received .body").inner_text()
    assert "/registry/v1/services/" in await form_of(looking.page, "goToPanel").locator(".status").inner_text()
    await looking.assert_quiet()


async def test_every_command_does_the_same(visit: Visits) -> None:
    """Word for word, in a shell; the one that the server wrote and the one that the script writes are one."""
    looking = await visit()
    await looking.goto(PAGE)
    for operation in IN_ORDER:
        command = form_of(looking.page, operation).locator(".command code")
        written = await command.inner_text()
        await form_of(looking.page, operation).dispatch_event("input")
        assert await command.inner_text() == written
        answer = await shell(written)
        wanted = {"registerInstance": "201", "goToPanel": "302"}.get(operation, "200")
        assert answer.startswith(f"HTTP/1.1 {wanted} "), answer


async def test_a_command_follows_the_form(visit: Visits, server: Running) -> None:
    """Whatever is typed reaches the server the same way from a shell."""
    looking = await visit()
    await looking.goto(PAGE)
    form = form_of(looking.page, "registerInstance")
    instance_id, words = "it's:[::1]:80".replace("'", "."), 'It\'s $HOME, `id` and \\ "quotes" & 本'
    await form.get_by_label("instanceId").fill(instance_id)
    body = await form.get_by_label("Body").input_value()
    quoted = words.replace("\\", "\\\\").replace('"', '\\"')
    await form.get_by_label("Body").fill(body.replace(EXAMPLE_ID, instance_id).replace("Takes orders", quoted))
    await shell(await form.locator(".command code").inner_text())
    assert server.registry.get(instance_id).instance.info.description == words
    assert (await send(looking.page, "registerInstance")).startswith("400")
    assert "ALREADY_EXISTS" in await form.locator(".received .body").inner_text()


async def test_the_answer_can_be_chosen(visit: Visits) -> None:
    """A page or JSON, where both are there; also in the command."""
    looking = await visit()
    await looking.goto(PAGE)
    form = form_of(looking.page, "showServices")
    for accept, begin in (("text/html", "<!doctype html>"), ("application/json", "[]")):
        await form.get_by_role("combobox").select_option(accept)
        assert f"Accept: {accept}" in await form.locator(".command code").inner_text()
        await send(looking.page, "showServices")
        assert (await form.locator(".received .body").inner_text()).startswith(begin)


async def test_opened_with_credentials_in_the_address(browser: Browser, server: Running) -> None:
    """As the README has it; a relative address of a request would hold them too, which browsers refuse."""
    async with visits_of(browser, f"http://127.0.0.1:{server.rest_port}") as visit:
        looking = await visit(http_credentials=None)
        await looking.page.goto(f"http://admin@127.0.0.1:{server.rest_port}{PAGE}")
        assert await send(looking.page, "listServices") == "200 OK"
        assert "admin@" not in await form_of(looking.page, "listServices").locator(".command code").inner_text()
        await looking.assert_quiet()


async def test_with_the_keyboard_alone(visit: Visits) -> None:
    """From the link at the top into the form, along its fields, and Enter sends; the answer is announced."""
    looking = await visit()
    page = looking.page
    await looking.goto(PAGE)
    link = page.get_by_role("navigation", name="Operations").get_by_role("link", name="Show an instance")
    await link.focus()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    field = form_of(page, "getInstance").get_by_label("instanceId")
    assert await field.evaluate("field => field === document.activeElement")
    await page.keyboard.press("Control+A")
    await page.keyboard.type("a:h:1")
    await page.keyboard.press("Enter")
    await form_of(page, "getInstance").locator(".received").wait_for()
    status = form_of(page, "getInstance").get_by_role("status").first
    assert await status.inner_text() == "404 Not Found"
    reached = []
    for _ in range(6):
        await page.keyboard.press("Tab")
        reached.append(await page.evaluate("(document.activeElement.ariaLabel || document.activeElement.innerText).trim()"))
    assert reached[0].split() == ["application/json", "text/html"]
    assert reached[1:] == ["Send", "Headers", "Answer", "Command", "Copy"]


async def test_without_javascript(visit: Visits) -> None:
    """Words, examples and commands are there, nothing that would not work is, and it is said why."""
    looking = await visit(java_script_enabled=False)
    await looking.goto(PAGE)
    page = looking.page
    for operation, said in OPERATIONS.items():
        section = page.locator(f"#{operation}")
        assert await section.get_by_role("heading").inner_text() == said["summary"]
        assert await section.locator(".address code").inner_text() == said["path"]
        assert (await section.locator(".command code").inner_text()).startswith("curl ")
    assert await page.get_by_role("button").count() == 0
    assert await page.locator("select:visible").count() == 0
    assert await page.locator(":is(input, textarea):not([readonly])").count() == 0
    assert "the commands do the same" in await page.locator("noscript").inner_text()
    fields = await page.locator("table.fields tbody th").all_inner_texts()
    assert " ".join(fields) == "instanceId name description version url status balancerOptions balancerOptions.weight metadata"


@pytest.mark.parametrize(("permissions", "said"), [(["clipboard-read", "clipboard-write"], "Copied"), ([], "Selected")])
async def test_a_command_can_be_copied(visit: Visits, permissions: list[str], said: str) -> None:
    """Into the clipboard, or where that is not allowed it is selected."""
    looking = await visit(permissions=permissions)
    await looking.goto(PAGE)
    if not permissions:  # as on plain http from another machine
        await looking.page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    form = form_of(looking.page, "heartbeat")
    command = await form.locator(".command code").inner_text()
    await form.get_by_role("button", name="Copy").click()
    await form.get_by_text(re.compile(said)).wait_for()
    read = "navigator.clipboard.readText()" if permissions else "getSelection().toString()"
    assert await looking.page.evaluate(read) == command


async def test_a_long_answer_is_cut(visit: Visits, server: Running) -> None:
    """So that the page stays usable; and it says so."""
    for number in range(500):
        await server.registry.register(Info.of(f"s{number}:h:1", description="x" * 600), Status.OK, actor=ITSELF)
    looking = await visit()
    await looking.goto(PAGE)
    assert await send(looking.page, "listServices") == "200 OK"
    body = await form_of(looking.page, "listServices").locator(".received .body").text_content()
    assert body is not None
    assert 200_000 < len(body) < 201_000
    assert re.search(r"… and \d+ characters more", body)


async def test_no_answer_is_said_too(visit: Visits) -> None:
    """With what to look at; the next try works again."""
    looking = await visit()
    await looking.goto(PAGE)
    form = form_of(looking.page, "live")
    await looking.page.route("**/livez", lambda route: route.abort())
    await form.get_by_role("button", name="Send").click()
    await form.get_by_text("Is Luna still running?").wait_for()
    await looking.page.unroute("**/livez")
    assert await send(looking.page, "live") == "200 OK"


@pytest.mark.parametrize("path", ["/registry/v1/services/", PAGE])
async def test_the_panel_leads_to_the_page(visit: Visits, path: str) -> None:
    """From the foot of every page."""
    looking: Visit = await visit()
    await looking.goto(path)
    await looking.page.get_by_role("contentinfo").get_by_role("link", name="REST API").click()
    assert await looking.page.title() == "REST API · Luna"
    assert quote(looking.page.url, safe=":/") == looking.origin + PAGE
