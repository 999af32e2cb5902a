"""How many files the process may have open: each connection is one, at both doors."""

import asyncio
import errno
import os
import resource
from collections.abc import Iterator
from typing import Final

import structlog

OWN: Final = 48
"""Files that the process needs for itself, with some to spare."""
MOST: Final = 65_536
"""Connections of each door at most, unless more are asked for: what they take of the memory counts too."""
FEWEST: Final = 8
"""Connections of each door at least, whether the files suffice or not."""
FEW: Final = 1000
"""Connections of each door below which a registry is likely to be short of them."""
OF_MACOS: Final = 10_240
"""What macOS allows while it says that there is no limit."""
LOOK: Final = 1.0
"""Seconds between two looks at whether there are files left."""
SAY_AGAIN: Final = 60.0
"""Seconds for which it is not said again that there are none."""

log = structlog.get_logger("luna.files")


def raise_limit() -> None:
    """Let the process open as many files as the system allows; programs of old make do with the 1,024 that it begins with."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, OF_MACOS), hard))


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


def exhausted() -> bool:
    """Whether no file can be opened now."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return False


async def watch_forever() -> None:
    """Say it in the log, and not too often, when there are no files left for connections; until cancelled.

    Both doors survive that: connections that cannot be taken are closed or wait.
    """
    loop = asyncio.get_running_loop()
    said_at = -SAY_AGAIN
    while True:
        if loop.time() - said_at >= SAY_AGAIN and exhausted():
            said_at = loop.time()
            log.error(
                "no files left",
                allowed=allowed(),
                effect="no connection can be taken until others end",
                step="raise the limit (ulimit -n, LimitNOFILE=), or lower LUNA_MAX_CONNECTIONS",
            )
        await asyncio.sleep(LOOK)
