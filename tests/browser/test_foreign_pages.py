"""Another site's page in the same browser, which remembers the credentials of Luna, can neither change nor read anything."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Browser, Page

from luna_grpc.model import ITSELF, Info, Status
from luna_grpc.serve import Running, running
from support import settings_for_tests
from visits import EVIL, PATIENCE, close

TRY = """async ([url, method, mode, type]) => {
  try {
    const body = method === "GET" || method === "DELETE" ? undefined : new Blob([JSON.stringify(%s)], { type });
    const response = await fetch(url, { method, mode, body, credentials: "include" });
    return response.type === "opaque" ? "opaque" : await response.text();
  } catch (error) { return "refused by the browser"; }
}"""
SAID = {"instanceId": "evil:h:1", "name": "evil", "version": "1", "url": "http://h/", "status": "OK"}
FORM = """<!doctype html><form method=post enctype=text/plain action="{url}"><input name='{{"instanceId":"evil:h:1","name":"evil",
"version":"1","url":"http://h/","status":"OK","x":"' value='"}}'><button>Win a prize</button></form>"""
SANDBOX = """<!doctype html><iframe sandbox="allow-forms allow-scripts" src="/form"></iframe>"""


@asynccontextmanager
async def foreign_site(pages: dict[str, str]) -> AsyncIterator[int]:
    """Serve pages on a port of its own."""

    async def page(request: web.Request) -> web.Response:
        return web.Response(
            text=pages.get(request.path, ""),
            content_type="text/html",
            headers={"Referrer-Policy": request.query.get("policy", "origin")},
        )

    app = web.Application()
    app.router.add_get("/{path:.*}", page)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


@asynccontextmanager
async def signed_in(browser: Browser, server: Running) -> AsyncIterator[Page]:
    """Give a page in a browser that remembers the credentials, as after a visit to the panel."""
    context = await browser.new_context()
    context.set_default_timeout(PATIENCE)
    page = await context.new_page()
    answer = await page.goto(f"http://admin@localhost:{server.rest_port}/registry/v1/services/")
    assert answer is not None
    assert answer.status == 200
    again = await page.goto(f"http://localhost:{server.rest_port}/registry/v1/services/json")
    assert again is not None
    assert again.status == 200
    yield page
    await close(context)


@pytest.fixture
async def target(server: Running) -> tuple[Running, str]:
    """Return a server with one instance that may neither go nor change, and the address of another."""
    await server.registry.register(Info.of("orders:h:1", description="secret"), Status.OK, actor=ITSELF)
    return server, f"http://localhost:{server.rest_port}/registry/v1"


@pytest.mark.parametrize("host", ["localhost", EVIL], ids=["another port", "another site"])
async def test_scripts_of_a_foreign_page(browser: Browser, target: tuple[Running, str], host: str) -> None:
    """Whatever they send and however, nothing changes, and nothing can be read."""
    server, url = target
    revision = server.registry.store.feed.revision
    async with foreign_site({"/": "<!doctype html>Hello"}) as port, signed_in(browser, server) as page:
        await page.goto(f"http://{host}:{port}/")
        for method, path, mode, kind in [
            ("POST", "/instances/evil:h:1", "no-cors", "text/plain"),
            ("POST", "/instances/evil:h:1", "cors", "text/plain"),
            ("POST", "/instances/evil:h:1", "cors", "application/json"),
            ("PUT", "/instances/orders:h:1", "cors", "text/plain"),
            ("DELETE", "/instances/orders:h:1", "cors", ""),
            ("GET", "/instances/orders:h:1", "cors", ""),
            ("GET", "/services/json", "no-cors", ""),
        ]:
            seen = await page.evaluate(TRY % SAID, [url + path, method, mode, kind])
            assert seen in {"opaque", "refused by the browser"}
    assert server.registry.store.feed.revision == revision
    assert server.registry.store.get("evil:h:1") is None


@pytest.mark.parametrize("host", ["localhost", EVIL], ids=["another port", "another site"])
@pytest.mark.parametrize("policy", ["origin", "no-referrer"])
async def test_a_form_of_a_foreign_page(browser: Browser, target: tuple[Running, str], host: str, policy: str) -> None:
    """Sent as text that happens to be JSON, with the credentials that the browser remembers, or with some in the address."""
    server, url = target
    for action in (url, url.replace("://", "://admin@")):
        pages = {"/form": FORM.format(url=f"{action}/instances/evil:h:1")}
        async with foreign_site(pages) as port, signed_in(browser, server) as page:
            await page.goto(f"http://{host}:{port}/form?policy={policy}")
            async with page.expect_response(lambda response: "/instances/" in response.url) as answer:
                await page.get_by_role("button").click()
            response = await answer.value
            assert (response.request.method, response.status) == ("POST", 403)
            assert server.registry.store.get("evil:h:1") is None


@pytest.mark.parametrize("host", ["localhost", EVIL], ids=["another port", "another site"])
@pytest.mark.parametrize("what", ["drain", "deregister"])
async def test_the_forms_of_the_panel_on_a_foreign_page(
    browser: Browser, target: tuple[Running, str], what: str, host: str
) -> None:
    """Exactly those that our own pages have: there they work, elsewhere they do nothing."""
    server, url = target
    form = f"<form method=post action='{url}/panel/instances/orders:h:1/{what}'><button>Win a prize</button></form>"
    async with foreign_site({"/form": f"<!doctype html>{form}"}) as port, signed_in(browser, server) as page:
        await page.goto(f"http://{host}:{port}/form")
        async with page.expect_response(lambda response: "/panel/" in response.url) as answer:
            await page.get_by_role("button").click()
        assert (await answer.value).status == 403
        assert server.registry.get("orders:h:1").instance.up
        await page.goto(f"{url}/instances/orders:h:1")
        if what == "deregister":
            await page.get_by_text("Deregister …").click()
        async with page.expect_response(lambda response: "/panel/" in response.url) as answer:
            await page.get_by_role("button", name=what.capitalize()).click()
        assert (await answer.value).status == 303
        await page.wait_for_url(f"{url}/instances/**", wait_until="load")
        assert server.registry.store.totals().instances_up == 0


async def test_a_form_in_a_sandbox(browser: Browser, target: tuple[Running, str]) -> None:
    """Its origin is null."""
    server, url = target
    async with (
        foreign_site({"/": SANDBOX, "/form": FORM.format(url=f"{url}/instances/evil:h:1")}) as port,
        signed_in(browser, server) as page,
    ):
        await page.goto(f"http://localhost:{port}/")
        async with page.expect_response(lambda response: "/instances/" in response.url) as answer:
            await page.frame_locator("iframe").get_by_role("button").click()
        assert (await answer.value).status in {401, 403}
        assert server.registry.store.get("evil:h:1") is None


@pytest.mark.parametrize("host", ["localhost", EVIL], ids=["another port", "another site"])
@pytest.mark.parametrize("path", ["/services/", "/services/json", "/docs", "/static/luna.css", "/static/luna.svg"])
async def test_a_foreign_page_cannot_hold_ours(browser: Browser, target: tuple[Running, str], path: str, host: str) -> None:
    """Neither in a frame nor as a script, an image or a style sheet."""
    server, url = target
    held = "".join(
        f"<{tag} {name}='{url}{path}'></{tag}>" for tag, name in (("iframe", "src"), ("script", "src"), ("object", "data"))
    )
    more = f"<img src='{url}{path}'><link rel=stylesheet href='{url}{path}'>"
    async with foreign_site({"/": f"<!doctype html><body>{held}{more}"}) as port, signed_in(browser, server) as page:
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        await page.goto(f"http://{host}:{port}/", wait_until="load")
        for frame in page.frames[1:]:
            assert not frame.url.startswith("http") or "secret" not in await frame.content()
        assert await page.evaluate("getComputedStyle(document.body).display") == "block"  # flex in luna.css
        assert await page.evaluate("document.images[0].naturalWidth") == 0
        assert any("frame" in complaint.lower() for complaint in complaints)


async def test_a_name_that_is_bound_anew(browser: Browser, target: tuple[Running, str]) -> None:
    """A page that makes its own name mean 127.0.0.1 is of our origin then, but we do not go by that name."""
    server, _ = target
    context = await browser.new_context()
    page = await context.new_page()
    answer = await page.goto(f"http://admin@{EVIL}:{server.rest_port}/registry/v1/services/")
    assert answer is not None
    assert answer.status == 403
    seen: Any = await page.evaluate(
        TRY % SAID, [f"http://{EVIL}:{server.rest_port}/registry/v1/instances/evil:h:1", "POST", "cors", "text/plain"]
    )
    assert "PERMISSION_DENIED" in seen or seen == "refused by the browser"
    assert server.registry.store.get("evil:h:1") is None
    await close(context)


async def test_these_attacks_work_where_they_are_allowed(browser: Browser) -> None:
    """The tests above can fail: with LUNA_CORS_ORIGINS=* the browser does send the credentials along, and the form registers."""
    async with running(settings_for_tests(cors_origins="*")) as server:
        url = f"http://localhost:{server.rest_port}/registry/v1"
        async with (
            foreign_site({"/form": FORM.format(url=f"{url}/instances/evil:h:1")}) as port,
            signed_in(browser, server) as page,
        ):
            await page.goto(f"http://{EVIL}:{port}/form")
            async with page.expect_response(lambda response: "/instances/" in response.url) as answer:
                await page.get_by_role("button").click()
            assert (await answer.value).status == 201
            assert server.registry.store.get("evil:h:1") is not None
