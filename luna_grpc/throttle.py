"""Slows down whoever guesses passwords, address by address, so that nobody else notices.

Each address has a number of attempts at a time, and gets one back every second. Right credentials give theirs back at once; those
that are known to be right are no attempts at all. So clients that share an address with an attacker go on working.
"""

import time
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

from luna_grpc.errors import ResourceExhaustedError

ATTEMPTS: Final = 10
"""How many wrong logins of one address are taken at a time."""
MAX_ADDRESSES: Final = 10_000
"""How many addresses are remembered; the ones that were slowed down longest ago are forgotten first."""
HOME: Final = 64
"""The bits of an IPv6 address that stand for a customer; the others are free for him to choose."""


class Throttle:
    """Counts login attempts. `attempts` 0: no limit."""

    def __init__(self, attempts: int = ATTEMPTS, now: Callable[[], float] = time.monotonic) -> None:
        self._attempts = attempts
        self._now = now
        # For each address the moment from which on it has all its attempts again.
        self._full_at: dict[str, float] = {}
        self.refusals = 0
        """How many attempts were not even looked at."""

    def begin(self, address: str) -> None:
        """Take one attempt of an address.

        Raises:
            ResourceExhaustedError: it has none left.

        """
        if not self._attempts:
            return
        here, now = home(address), self._now()
        full_at = max(now, self._full_at.pop(here, now)) + 1
        wait = full_at - now - self._attempts
        if wait > 0:
            self._full_at[here] = full_at - 1
            self.refusals += 1
            raise ResourceExhaustedError(
                f"too many wrong logins came from {address}; try again in a second", retry_after=max(1, round(wait))
            )
        self._full_at[here] = full_at
        if len(self._full_at) > MAX_ADDRESSES:
            del self._full_at[next(iter(self._full_at))]

    def succeeded(self, address: str) -> None:
        """Give the attempt back."""
        here = home(address)
        if here in self._full_at:
            self._full_at[here] -= 1


def home(address: str) -> str:
    """Return what stands for whoever has an address."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    # As a socket that listens for both kinds calls an IPv4 client.
    return str(parsed.ipv4_mapped or ip_network((parsed, HOME), strict=False))
