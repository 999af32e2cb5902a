"""Fixtures of the whole suite."""

from collections.abc import AsyncIterator

import hypothesis
import pytest
from aiohttp import ClientSession
from playwright.async_api import Browser

from luna_grpc.serve import Running, running
from luna_grpc.v1 import registry_pb2_grpc
from support import SOAK, FakeClock, Stub, channel, session, settings_for_tests
from visits import Visits, chromium, visits_of

# A test that found nothing yesterday is to find nothing today, unless the code has changed; the long run looks for what is new.
hypothesis.settings.register_profile("short", derandomize=True, database=None, deadline=None, max_examples=150)
hypothesis.settings.register_profile("soak", deadline=None, max_examples=10_000, print_blob=True)
hypothesis.settings.load_profile("soak" if SOAK else "short")


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock that stands still until told otherwise."""
    return FakeClock()


@pytest.fixture
async def server() -> AsyncIterator[Running]:
    """Run both doors in this process, on free ports and an empty store."""
    async with running(settings_for_tests()) as server:
        yield server


@pytest.fixture
async def rest(server: Running) -> AsyncIterator[ClientSession]:
    """Return an HTTP client of the server, with credentials."""
    async with session(f"http://127.0.0.1:{server.rest_port}") as client:
        yield client


@pytest.fixture
async def stub(server: Running) -> AsyncIterator[Stub]:
    """Return a gRPC client of the server, with credentials."""
    async with channel(f"127.0.0.1:{server.grpc_port}") as open_channel:
        yield registry_pb2_grpc.RegistryStub(open_channel)


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Return a real browser, started once."""
    async with chromium() as browser:
        yield browser


@pytest.fixture
async def visit(browser: Browser, server: Running) -> AsyncIterator[Visits]:
    """Return what opens pages of the server, signed in."""
    async with visits_of(browser, f"http://127.0.0.1:{server.rest_port}") as visit:
        yield visit
