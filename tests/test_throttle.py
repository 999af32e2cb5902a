"""Whoever guesses is slowed down, and nobody else."""

import pytest

from luna_grpc.errors import ResourceExhaustedError
from luna_grpc.throttle import MAX_ADDRESSES, Throttle


class Time:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def taken(throttle: Throttle, address: str, attempts: int) -> int:
    """Make so many attempts; return how many were taken."""
    count = 0
    for _ in range(attempts):
        try:
            throttle.begin(address)
        except ResourceExhaustedError:
            continue
        count += 1
    return count


@pytest.fixture
def time() -> Time:
    """Return a clock that stands still."""
    return Time()


def test_so_many_attempts_at_a_time_and_one_more_each_second(time: Time) -> None:
    """Refused ones cost nothing, and say when to come back; after a while all are there again."""
    throttle = Throttle(10, time)
    assert taken(throttle, "10.0.0.7", 100) == 10
    assert throttle.refusals == 90
    with pytest.raises(ResourceExhaustedError, match=r"10\.0\.0\.7; try again in a second") as caught:
        throttle.begin("10.0.0.7")
    assert caught.value.retry_after == 1
    time.now += 1
    assert taken(throttle, "10.0.0.7", 5) == 1
    time.now += 3600
    assert taken(throttle, "10.0.0.7", 100) == 10


def test_addresses_are_slowed_down_one_by_one(time: Time) -> None:
    """A guesser hurts nobody else."""
    throttle = Throttle(2, time)
    assert taken(throttle, "10.0.0.7", 100) == 2
    assert taken(throttle, "10.0.0.8", 2) == 2


def test_right_credentials_give_their_attempt_back(time: Time) -> None:
    """However many come from one address."""
    throttle = Throttle(2, time)
    for _ in range(100):
        throttle.begin("10.0.0.7")
        throttle.succeeded("10.0.0.7")
    assert taken(throttle, "10.0.0.7", 100) == 2
    throttle.succeeded("10.0.0.8")  # forgotten meanwhile, or never known


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("10.0.0.7", "10.0.0.8", False),
        ("::ffff:10.0.0.7", "::ffff:10.0.0.8", False),
        ("::ffff:10.0.0.7", "10.0.0.7", True),
        ("", "unknown", False),
    ],
)
def test_an_ipv6_customer_has_a_whole_network(time: Time, one: str, other: str, same: bool) -> None:
    """The /64 counts, or every address in it would have attempts of its own; IPv4 clients of a socket for both have no network."""
    throttle = Throttle(3, time)
    assert taken(throttle, one, 3) == 3
    assert taken(throttle, other, 3) == (0 if same else 3)


def test_no_limit(time: Time) -> None:
    """0 attempts a time stands for that."""
    throttle = Throttle(0, time)
    assert taken(throttle, "10.0.0.7", 1000) == 1000


def test_only_so_many_addresses_are_remembered(time: Time) -> None:
    """Those that tried longest ago are forgotten first."""
    throttle = Throttle(2, time)
    taken(throttle, "first", 2)
    taken(throttle, "second", 2)
    assert taken(throttle, "first", 1) == 0  # a refusal counts as well
    for number in range(MAX_ADDRESSES - 1):
        throttle.begin(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert taken(throttle, "first", 1) == 0
    assert taken(throttle, "second", 1) == 1
