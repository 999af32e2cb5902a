"""`ServiceResolver` against real servers."""

import asyncio
import math
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from seen import PATIENCE, TTL, restarted

from luna_grpc import client
from luna_grpc.client import Registration, ServiceResolver, Status
from support import Luna, luna, until

IDS = [f"orders:localhost:{port}" for port in (1, 2, 3)]


@pytest.fixture
async def server() -> AsyncIterator[Luna]:
    """Run a server with short leases in a process of its own."""
    async with luna("--lease-ttl", str(TTL)) as server:
        yield server


def ids(resolver: ServiceResolver, name: str = "orders") -> list[str]:
    """Return who is in the list."""
    return [known.instance_id for known in resolver.instances(name)]


async def test_the_list_is_live(server: Luna) -> None:
    """It is there at the start, and whoever comes, changes or goes is seen."""
    async with Registration(IDS[0], address=server.grpc, metadata={"zone": "eu"}), ServiceResolver(address=server.grpc) as resolver:
        assert (ids(resolver), resolver.age, resolver.error, resolver.services) == ([IDS[0]], 0, None, ("orders",))
        assert resolver.pick("orders").metadata == {"zone": "eu"}
        async with Registration(IDS[1], address=server.grpc) as second:
            await until(lambda: ids(resolver) == IDS[:2])
            second.set_status(Status.DOWN)
            await until(lambda: resolver.instances("orders")[1].status is Status.DOWN)
            assert {resolver.pick("orders").instance_id for _ in range(10)} == {IDS[0]}
        await until(lambda: ids(resolver) == IDS[:1])


async def test_instances_are_picked_by_weight(server: Luna) -> None:
    """From threads as well."""
    async with Registration(IDS[0], weight=3, address=server.grpc), Registration(IDS[1], address=server.grpc):
        resolver = ServiceResolver("orders", address=server.grpc)
        await asyncio.to_thread(resolver.start)
        picked = await asyncio.gather(*(asyncio.to_thread(resolver.pick, "orders") for _ in range(40)))
        assert Counter(found.instance_id for found in picked) == {IDS[0]: 30, IDS[1]: 10}
        with pytest.raises(client.ConfigurationError, match="'bills' is not watched"):
            resolver.pick("bills")
        await asyncio.to_thread(resolver.stop)


async def test_the_last_list_is_served_while_the_registry_is_away(server: Luna) -> None:
    """With its age; when it is back the list is fresh again, and so is what has changed meanwhile."""
    async with (
        Registration(IDS[0], address=server.grpc),
        Registration(IDS[1], address=server.grpc) as second,
        ServiceResolver("orders", address=server.grpc) as resolver,
    ):
        await until(lambda: ids(resolver) == IDS[:2])
        await server.stop(signal.SIGKILL)
        await until(lambda: resolver.age > 0.2)
        assert ids(resolver) == IDS[:2]
        assert resolver.pick("orders").instance_id in IDS
        assert isinstance(resolver.error, client.UnavailableError)
        await second.stop_async()
        async with restarted(server):
            await until(lambda: resolver.age == 0)
            await until(lambda: ids(resolver) == IDS[:1])
            assert resolver.error is None
    assert 0 < resolver.age < math.inf


async def test_a_registry_that_is_not_there_is_waited_for(server: Luna) -> None:
    """For as long as the program wants, or in the background; wrong credentials are an error at once."""
    with pytest.raises(client.CredentialsError, match="LUNA_AUTH_PASSWORD"):
        await ServiceResolver(address=server.grpc, password="wrong", wait=60).start_async()
    await server.stop()
    with pytest.raises(client.UnavailableError, match="wait=0"):
        await ServiceResolver(address=server.grpc, wait=0.3).start_async()
    async with ServiceResolver(address=server.grpc, wait=0) as resolver:
        assert (resolver.age, resolver.instances("orders")) == (math.inf, ())
        async with restarted(server):
            await until(lambda: resolver.age == 0)


async def test_a_resolver_that_is_started_again_has_a_list_of_its_own(server: Luna) -> None:
    """The thread of the first run may end when it likes: what it still does to the list, it does before the second run begins."""
    go_on = threading.Event()
    async with Registration(IDS[0], address=server.grpc):
        resolver = ServiceResolver("orders", address=server.grpc)
        lost = resolver._catalogue.lost
        resolver._catalogue.lost = lambda now: lost(now) if go_on.wait(PATIENCE) else None  # type: ignore[method-assign]
        await resolver.start_async()
        resolver.stop()
        again = asyncio.create_task(resolver.start_async())
        await asyncio.wait({again}, timeout=0.5)
        go_on.set()
        await again
        await until(lambda: [thread.name for thread in threading.enumerate()].count("luna resolver") == 1)
        assert (resolver.age, ids(resolver)) == (0, IDS[:1])
        resolver.stop()


async def test_a_resolver_that_does_not_run_says_so(server: Luna) -> None:
    """Neither before its start nor after its end is there a list that anyone should rely on; a start that failed is no start."""
    resolver = ServiceResolver("orders", address=server.grpc)
    failed = ServiceResolver("orders", address="127.0.0.1:1", wait=0.2)
    with pytest.raises(client.UnavailableError):
        await failed.start_async()
    async with Registration(IDS[0], address=server.grpc):
        for _ in range(2):
            for idle in (resolver, failed):
                for use in (idle.pick, idle.instances, lambda _, idle=idle: idle.services):
                    with pytest.raises(client.StoppedError, match="call start, or use it within `with`"):
                        use("orders")
            async with resolver:
                assert resolver.pick("orders").instance_id == IDS[0]
                with pytest.raises(client.ConfigurationError, match="started already: stop it first"):
                    resolver.start()


async def test_why_there_is_nobody_to_pick(server: Luna) -> None:
    """A service that nobody has, one whose instances are all DOWN, and a list that has not come yet are told apart."""
    async with ServiceResolver(address="127.0.0.1:1", wait=0) as waiting:
        with pytest.raises(client.NoInstanceError, match="the first list has not come"):
            waiting.pick("orders")
    async with Registration(IDS[0], status=Status.DOWN, address=server.grpc), ServiceResolver(address=server.grpc) as resolver:
        with pytest.raises(client.NoInstanceError, match="no instance is OK, and 1 are DOWN"):
            resolver.pick("orders")
        with pytest.raises(client.NoInstanceError, match="there is no instance of 'order': see that one is registered"):
            resolver.pick("order")


FORKING = """
import os, sys
from luna_grpc.client import ForkedError, ServiceResolver
with ServiceResolver(address=sys.argv[1]) as resolver:
    if os.fork() == 0:
        try:
            resolver.pick("orders")
        except ForkedError:
            print("forked", flush=True)
    else:
        os.wait()
        print(resolver.age, flush=True)
"""


async def test_a_forked_process_is_told(server: Luna) -> None:
    """The list of its parent would never change."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FORKING, server.grpc, stdout=asyncio.subprocess.PIPE, env=os.environ | {"GRPC_VERBOSITY": "NONE"}
    )
    said, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert (process.returncode, said) == (0, b"forked\n0.0\n")
