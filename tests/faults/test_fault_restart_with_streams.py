"""Thousands of streams lose their registry at one moment, and come back to one that knows nothing."""

import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable

import pytest
from fleets import Plan, fleet
from harness import measured, soak
from probe import probing

from support import luna, session

CONNECTIONS, STREAMS = soak(20, 100), 50
ALL = CONNECTIONS * STREAMS
TTL = soak(9.0, 30.0)
INTERVAL = TTL / 3
LAG = 250
"""Milliseconds."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_all_streams_come_back_after_a_restart(
    number: signal.Signals, record_property: Callable[[str, object], None]
) -> None:
    """Within two intervals all are registered and answered again, nobody is left behind, and the loop is never held for long."""
    flags = ("--lease-ttl", str(TTL), "--log-level", "warning")
    with tempfile.TemporaryFile() as errors:
        async with luna(*flags, stderr=errors.fileno()) as first, fleet(Plan(first.grpc, CONNECTIONS, STREAMS)) as clients:
            seen = await clients.all_alive(since=0, within=60)
            assert seen.registered == ALL
            rest_port, grpc_port = (address.rpartition(":")[2] for address in (first.rest, first.grpc))
            assert await first.stop(number) == (0 if number is signal.SIGTERM else -number)
            ports = ("--port", rest_port, "--grpc-port", grpc_port)
            async with luna(*flags, *ports, stderr=errors.fileno()) as second, probing(second) as probe:
                ready = time.monotonic()
                await clients.all_alive(since=ready, within=2 * INTERVAL)
                back = time.monotonic()
                seen = await clients.all_alive(since=back, within=2 * INTERVAL)
                assert seen.registered == 2 * ALL
                async with session(second.rest) as rest, rest.get("/registry/v1/services/json") as answer:
                    listed = [instance["status"] for service in await answer.json() for instance in service["instances"]]
                assert Counter(listed) == {"OK": ALL}
                measured(record_property, f"seconds from ready until {ALL} streams are back", back - ready)
                measured(record_property, "milliseconds for which another request waits, at most", probe.longest)
                assert probe.longest <= LAG
        errors.seek(0)
        assert errors.read() == b""
