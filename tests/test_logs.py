"""What the log says, and how much of it."""

from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from luna_grpc.access import Role, User
from luna_grpc.auth import Authenticator
from luna_grpc.errors import UnauthenticatedError
from luna_grpc.leases import LeasePolicy
from luna_grpc.logs import MOST_A_SECOND, ChangeLog, FailedLogins
from luna_grpc.memory import MemoryStore
from luna_grpc.model import Actor, Door, Info, Status, StatusReason
from luna_grpc.registry import Beat, Registry
from luna_grpc.sweeper import CollectorPolicy, sweep_once
from luna_grpc.throttle import Throttle
from support import FakeClock, basic

ALICE = Actor(User("alice", Role.WRITER), Door.REST, "192.0.2.7")


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    """Return the lines that are logged from now on."""
    with capture_logs() as lines:
        yield lines


@pytest.fixture
def registry(clock: FakeClock) -> Registry:
    """Return a registry whose changes are logged."""
    store = MemoryStore(clock, evict_after=60)
    store.feed.observe(ChangeLog(lambda: clock.seconds))
    return Registry(store, clock, LeasePolicy(ttl=1, warmup=0))


async def pass_a_ttl(registry: Registry, clock: FakeClock) -> None:
    """Let all leases run out."""
    for _ in range(5):
        clock.advance(0.25)
        await sweep_once(registry, CollectorPolicy())


async def test_each_change_of_status_is_one_line_with_its_reason(clock: FakeClock, registry: Registry, lines: list[Any]) -> None:
    """And says who did it from where; heartbeats that change nothing are no lines."""
    info = Info.of("a:h:1")
    await registry.register(info, Status.OK, actor=ALICE)
    await registry.heartbeat(Beat("a:h:1"), actor=ALICE)
    await registry.heartbeat(Beat("a:h:1", status=Status.DOWN), actor=ALICE)
    await registry.heartbeat(Beat("a:h:1", status=Status.OK), actor=ALICE)
    await registry.heartbeat(Beat("a:h:1", info=Info.of("a:h:1", version="2")), actor=ALICE)
    await pass_a_ttl(registry, clock)
    await registry.heartbeat(Beat("a:h:1"), actor=ALICE)
    await registry.disconnect([registry.get("a:h:1")], ALICE)
    await registry.deregister("a:h:1", actor=ALICE)
    told = [(line["event"], line["status"], line["reason"], line["door"]) for line in lines if "instance_id" in line]
    assert told == [
        ("registered", "OK", "REPORTED", "rest"),
        ("status changed", "DOWN", "REPORTED", "rest"),
        ("status changed", "OK", "REPORTED", "rest"),
        ("changed", "OK", "REPORTED", "rest"),
        ("status changed", "DOWN", "LEASE_EXPIRED", "internal"),
        ("status changed", "OK", "REPORTED", "rest"),
        ("status changed", "DOWN", "DISCONNECTED", "rest"),
        ("deregistered", "DOWN", "DISCONNECTED", "rest"),
    ]
    assert {line["log_level"] for line in lines} == {"info"}
    assert (lines[0]["instance_id"], lines[0]["service"], lines[0]["user"], lines[0]["peer"]) == (
        "a:h:1",
        "a",
        "alice",
        "192.0.2.7",
    )


async def test_many_leases_that_end_at_once_are_a_few_lines_and_a_sum(
    clock: FakeClock, registry: Registry, lines: list[Any]
) -> None:
    """Whatever is asked for is a line each all the same."""
    for number in range(1, 501):
        await registry.register(Info.of(f"a:h:{number}"), Status.OK, actor=ALICE)
    assert len(lines) == 500
    lines.clear()
    await pass_a_ttl(registry, clock)
    assert sum(line.get("reason") == StatusReason.LEASE_EXPIRED for line in lines) == MOST_A_SECOND
    assert [line["expired"] for line in lines if line["event"] == "swept"] == [500]
    assert len(lines) == MOST_A_SECOND + 1


def test_failed_logins_are_a_few_lines_a_second(clock: FakeClock, lines: list[Any]) -> None:
    """The number in a line tells how many there were in between."""
    note = FailedLogins(lambda: clock.seconds)
    for number in range(1, 101):
        note("192.0.2.7", None, number)
    assert len(lines) == MOST_A_SECOND
    clock.advance(1)
    note("192.0.2.7", None, 101)
    assert lines[-1] == {
        "event": "login failed", "log_level": "warning", "peer": "192.0.2.7", "user": None, "failures_since_start": 101,
    }  # fmt: skip


async def test_a_failed_login_names_only_a_user_whom_there_is(lines: list[Any]) -> None:
    """What else was typed as a user name may be a password."""
    authenticator = Authenticator("admin", "correct horse", throttle=Throttle(0))
    for header in (basic("admin", "wrong"), basic("correct horse", ""), "Bearer correct horse", "Basic !!", basic("root", "wrong")):
        with pytest.raises(UnauthenticatedError):
            await authenticator.verified(header, "192.0.2.7")
    assert [line["user"] for line in lines] == ["admin", None, None, None, None]
    await authenticator.verified(basic("admin", "correct horse"), "192.0.2.7")
    assert len(lines) == 5
    assert "correct" not in str(lines)
