"""Fixtures of the tests of the Python SDK."""

from collections.abc import AsyncIterator

import pytest
from seen import TTL

from support import Luna, luna


@pytest.fixture
async def server() -> AsyncIterator[Luna]:
    """Run a server with short leases in a process of its own."""
    async with luna("--lease-ttl", str(TTL)) as server:
        yield server
