"""Take the screenshots of the README: start a server, let a day go by in it, and look at it with the chromium of the system.

Usage: .venv/bin/python scripts/screenshots.py (needs what the tests need, and chromium: apt install chromium)
"""

import asyncio
import shutil
import sys
import time
from pathlib import Path

from playwright.async_api import async_playwright

from luna_grpc.access import Role, User
from luna_grpc.clock import Clock
from luna_grpc.config import load
from luna_grpc.model import ITSELF, Actor, Door, Info, Status, StatusReason
from luna_grpc.registry import Beat, Registry
from luna_grpc.serve import running

IMAGES = Path(__file__).parent.parent / "docs" / "images"
LIST = "/registry/v1/services/"
PICTURES = {"panel-light.png": ("light", LIST, 740), "panel-dark.png": ("dark", f"{LIST}orders", 940)}
"""For each file the theme, the page and the height in pixels."""
MOST = 200_000
"""Bytes that a picture may have."""
HOUR = 3600 * 10**9
ALICE = Actor(User("alice", Role.ADMIN), Door.REST)
WORKER = Actor(User("worker", Role.WRITER), Door.GRPC)
SERVICES = {
    "orders": ("Takes orders and hands them on to billing", "2.4.1", 3),
    "billing": ("Invoices and payments", "1.12.0", 2),
    "search": ("Finds products", "0.9.3", 2),
    "mail": ("Tells customers what became of their orders", "1.0.7", 1),
    "stock": ("Knows what is in which warehouse", "3.1.0", 2),
}


class Past(Clock):
    """The time of the machine, some hours ago."""

    def __init__(self) -> None:
        self.hours = 22.0
        super().__init__(time.monotonic, lambda: time.time_ns() - round(self.hours * HOUR))


async def a_day(registry: Registry, clock: Past) -> None:
    """Let happen what happens in a day."""
    for number, (name, (description, version, instances)) in enumerate(SERVICES.items()):
        for host in range(instances):
            info = Info.of(
                f"{name}:10.0.{number}.{host + 1}:8080",
                version=version,
                description=description,
                weight=10,
                metadata={"zone": f"eu-{host % 2 + 1}", "team": "shop"},
            )
            await registry.register(info, Status.OK, actor=WORKER)
    clock.hours = 15.0
    orders = [f"orders:10.0.0.{host}:8080" for host in (1, 2, 3)]
    for instance_id in orders:
        await registry.heartbeat(Beat(instance_id, status=Status.DOWN), actor=WORKER)
    clock.hours = 13.8
    for instance_id in orders:
        await registry.heartbeat(Beat(instance_id, status=Status.OK), actor=WORKER)
    clock.hours = 0.6
    await registry.deregister("orders:10.0.0.3:8080", actor=WORKER)
    clock.hours = 0.3
    await registry.store.end([registry.get("mail:10.0.3.1:8080")], StatusReason.LEASE_EXPIRED, now=0, actor=ITSELF)
    clock.hours = 0.1
    await registry.drain("orders:10.0.0.2:8080", 4 * 3600, actor=ALICE)
    clock.hours = 0.0
    for service in list(registry.services()):
        registry.renew([each for each in service.registrations if each.live], Door.GRPC)


async def main() -> None:
    """Take all pictures."""
    path = shutil.which("chromium")
    if path is None:
        sys.exit("chromium is missing: apt install chromium")
    IMAGES.mkdir(exist_ok=True)
    clock = Past()
    settings = load({"port": 0, "grpc_port": 0, "lease_ttl": 300, "warmup": 0, "log_level": "error"})
    async with running(settings, clock) as server, async_playwright() as playwright:
        await a_day(server.registry, clock)
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name, (scheme, page, height) in PICTURES.items():
            context = await browser.new_context(
                color_scheme="dark" if scheme == "dark" else "light",
                viewport={"width": 1280, "height": height},
                http_credentials={"username": "admin", "password": "", "send": "always"},
            )
            tab = await context.new_page()
            await tab.goto(f"http://127.0.0.1:{server.rest_port}{page}")
            await tab.get_by_text("updated", exact=False).first.wait_for()
            await asyncio.sleep(1)
            await tab.screenshot(path=IMAGES / name)
            size = (IMAGES / name).stat().st_size
            print(f"{IMAGES / name}: {size:,} bytes")
            if size > MOST:
                sys.exit(f"that is more than {MOST:,}: make it smaller")
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
