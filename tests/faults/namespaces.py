"""Two network namespaces with a cable between them, which can be cut without a word."""

import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from support import need, not_here

SERVER: Final = "192.0.2.1"
CLIENT: Final = "192.0.2.2"
"""Addresses that are nobody's; they exist in the namespaces only."""
# Where packets arrive, at both ends: whoever sends one is told nothing, and sends it again as over any network that loses them.
CUT: Final = 'table inet cut { chain arriving { type filter hook input priority 0; iifname "eth0" drop; }; }'


class Cable:
    """The two namespaces, and what lies between them."""

    def __init__(self, server: str, client: str) -> None:
        self._namespaces = (server, client)
        self.at_server = within(server)
        self.at_client = within(client)
        """Commands that run others there, and become them."""

    def cut(self) -> None:
        """Lose every packet from now on."""
        for namespace in self._namespaces:
            run(*within(namespace), "nft", CUT)

    def heal(self) -> None:
        """Lose no more."""
        for namespace in self._namespaces:
            run(*within(namespace), "nft", "delete table inet cut")


def within(namespace: str) -> Sequence[str]:
    """Return the command that runs another one in a namespace, and becomes it."""
    return ("ip", "netns", "exec", namespace)


def run(*command: str) -> None:
    """Run a command that must not fail."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


@contextmanager
def cable() -> Iterator[Cable]:
    """Make the namespaces and remove them, whatever happens; skip the test where nobody may."""
    need("ip", "nft")
    names = [f"luna-{secrets.token_hex(4)}-{end}" for end in ("server", "client")]
    try:
        for name in names:
            _add(name)
        run("ip", "link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for name, address in zip(names, (SERVER, CLIENT), strict=True):
            run("ip", "-n", name, "address", "add", f"{address}/30", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "link", "set", "eth0", "up")
        yield Cable(*names)
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _add(name: str) -> None:
    added = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if added.returncode != 0:
        not_here(f"only root makes network namespaces, and not in every container: {added.stderr.strip()}")
