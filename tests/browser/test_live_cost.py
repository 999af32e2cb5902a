"""What an open page costs the server while things change: less than 1 % of a core.

`LUNA_SOAK=1 .venv/bin/pytest -s tests/browser/test_live_cost.py` measures it with 5,000 services and 100,000 instances.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count, pairwise

import pytest
from playwright.async_api import Browser

from gateway import pages
from luna_grpc.model import ITSELF, Info, Status
from luna_grpc.registry import Beat
from luna_grpc.serve import Running, running
from support import SOAK, settings_for_tests
from visits import PATIENCE, close

INSTANCES = 100_000 if SOAK else 2_000
PER_SERVICE = 20
SECONDS = 30.0 if SOAK else 8.0
CHANGES = 20
"""In a second."""
LIST = "/registry/v1/services/"
ENTRIES = """() => performance.getEntriesByType("resource")
  .filter((entry) => entry.initiatorType === "fetch" && entry.name.endsWith("/services/"))
  .map((entry) => [entry.startTime, entry.responseEnd, entry.serverTiming[0].duration])"""


async def fill(server: Running) -> None:
    """Register everybody."""
    for number in range(INSTANCES):
        info = Info.of(f"service-{number // PER_SERVICE}:host:{1 + number % PER_SERVICE}", metadata={"zone": f"z{number % 3}"})
        await server.registry.register(info, Status.OK, actor=ITSELF)
        if number % 1000 == 0:
            await asyncio.sleep(0)


@asynccontextmanager
async def changing(server: Running) -> AsyncIterator[None]:
    """Let instances fail and come back all the time."""

    async def change() -> None:
        for number in count():
            status = (Status.DOWN, Status.OK)[number // 100 % 2]
            await server.registry.heartbeat(Beat(f"service-{number % 100}:host:1", status=status), actor=ITSELF)
            await asyncio.sleep(1 / CHANGES)

    task = asyncio.create_task(change())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def used() -> float:
    """Return which share of a core this process uses, in percent."""
    began, before = time.monotonic(), time.process_time()
    await asyncio.sleep(SECONDS)
    return 100 * (time.process_time() - before) / (time.monotonic() - began)


async def test_an_open_page_costs_little(
    browser: Browser, record_property: Callable[[str, object], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each time it leaves the server alone for 100 times as long as the server needed for it, or says that it did."""
    if not SOAK:
        monkeypatch.setattr(pages, "worked", lambda: 0.02)
    async with running(settings_for_tests(lease_ttl=86_400)) as server:
        await fill(server)
        context = await browser.new_context()
        context.set_default_timeout(PATIENCE)
        page = await context.new_page()
        async with changing(server):
            without = await used()
            await page.goto(f"http://admin@127.0.0.1:{server.rest_port}{LIST}")
            await page.locator("#live[data-state=live]").wait_for()
            cost = await used() - without
        entries = await page.evaluate(ENTRIES)
        await close(context)
    longest = max(spent for _, _, spent in entries)
    figures = f"{cost:.2f} % of a core on top of {without:.2f} %, {len(entries)} fetches of at most {longest} ms"
    record_property("one open page", figures)
    sys.stdout.write(f"\none open page at {INSTANCES:,} instances: {figures}\n")
    assert len(entries) > 1
    for (_, end, spent), (start, *_) in pairwise(entries):
        assert start - end > 100 * spent - 50, entries  # ms; the end is noted a little before the script hears of it
    if SOAK:
        assert cost < 1
