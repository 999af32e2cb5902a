"""How many files the process may have open: each connection is one, at both doors."""

import os
import resource
from collections.abc import Iterator
from typing import Final

OWN: Final = 48
"""Files that the process needs for itself, with some to spare."""
MOST: Final = 65_536
"""Connections of each door at most, unless more are asked for: what they take of the memory counts too."""
FEWEST: Final = 8
"""Connections of each door at least, whether the files suffice or not."""
FEW: Final = 1000
"""Connections of each door below which a registry is likely to be short of them."""


def raise_limit() -> None:
    """Let the process open as many files as the system allows; programs of old make do with the 1,024 that it begins with."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # macOS says that there is no limit, and has one
            most = os.sysconf("SC_OPEN_MAX")
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def allowed() -> int:
    """Return how many files the process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST * 2 + OWN if soft == resource.RLIM_INFINITY else soft


def connections(wanted: int | None) -> int:
    """Return how many connections each door is to have; None: half of what the files allow."""
    return wanted or max(FEWEST, min(MOST, (allowed() - OWN) // 2))


def warnings(wanted: int | None) -> Iterator[str]:
    """Yield what is wrong with the number of files."""
    if wanted and wanted > allowed() - OWN:
        yield (
            f"the system allows {allowed()} open files, too few for LUNA_MAX_CONNECTIONS={wanted}: raise the limit "
            f"(ulimit -n {wanted + OWN}; systemd: LimitNOFILE=), or lower the setting to {max(FEWEST, allowed() - OWN)}"
        )
    elif not wanted and connections(None) < FEW:
        yield (
            f"the system allows {allowed()} open files, so each door takes {connections(None)} connections at a time: raise the "
            "limit (ulimit -n 65536; systemd: LimitNOFILE=65536)"
        )
