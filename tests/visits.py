"""A real browser, which tells of everything that a page does: what it runs, loads and complains of.

It is the chromium of the system. A page can reach the server under test and pages of the test's own, and nothing else.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, TypeAlias

from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, Route, async_playwright
from yarl import URL

from support import need

EVIL = "evil.example"
"""A name of loopback, for the browser only: another site."""


PATIENCE = 90_000
"""Milliseconds to wait for what is sure to come, on however busy a machine."""


class Visit:
    """A page, and all that has happened on it."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.origin = origin
        self.ran: list[str] = []
        """Dialogs and errors of scripts."""
        self.complaints: list[str] = []
        """What the browser complains of, such as a breach of the Content-Security-Policy."""
        self.foreign: list[str] = []
        """Requests to other origins; they are not let through."""

    async def begin(self) -> None:
        """Listen."""
        self.page.on("dialog", self._on_dialog)
        self.page.on("pageerror", lambda error: self.ran.append(str(error)))
        self.page.on("console", self._on_console)
        await self.page.context.route("**/*", self._on_request)

    async def goto(self, path: str) -> None:
        """Open a page of the server."""
        await self.page.goto(self.origin + path)

    async def assert_quiet(self) -> None:
        """Nothing has run, nothing was loaded from elsewhere, and the browser had nothing to forbid."""
        assert await self.page.evaluate("typeof window.ran") == "undefined"
        assert self.ran == []
        assert self.foreign == []
        assert self.complaints == []

    async def _on_dialog(self, dialog: Dialog) -> None:
        self.ran.append(dialog.message)
        await dialog.dismiss()

    def _on_console(self, message: ConsoleMessage) -> None:
        # An answer with a status of an error is one that the tests look at themselves.
        if not message.text.startswith("Failed to load resource: the server responded"):
            self.complaints.append(message.text)

    async def _on_request(self, route: Route) -> None:
        asked, own = URL(route.request.url), URL(self.origin)
        if (asked.scheme, asked.host, asked.port) == (own.scheme, own.host, own.port):
            await route.continue_()
        else:
            self.foreign.append(route.request.url)
            await route.abort()


Visits: TypeAlias = Callable[..., Awaitable[Visit]]


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Run the chromium of the system."""
    need("chromium")
    names = f"MAP {EVIL} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
    async with async_playwright() as playwright:
        # As root, as in containers, its own sandbox does not work.
        arguments = ["--no-sandbox", f"--host-resolver-rules={names}"]
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        yield browser
        with suppress(TimeoutError):
            async with asyncio.timeout(20):
                await browser.close()


async def close(context: BrowserContext) -> None:
    """Close a profile. When a page was just being loaded, Chromium may never say that it did: it ends with the browser."""
    with suppress(TimeoutError):
        async with asyncio.timeout(10):
            await context.close()


@asynccontextmanager
async def visits_of(browser: Browser, origin: str) -> AsyncIterator[Visits]:
    """Give what opens pages that are signed in to a server without a password; each has a profile of its own."""
    async with AsyncExitStack() as stack:

        async def visit(user: str = "admin", **settings: Any) -> Visit:
            credentials = {"username": user, "password": "", "origin": origin, "send": "always"}
            context = await browser.new_context(**{"http_credentials": credentials, **settings})
            context.set_default_timeout(PATIENCE)
            stack.push_async_callback(close, context)
            visit = Visit(await context.new_page(), origin)
            await visit.begin()
            return visit

        yield visit
