"""Work beside the requests that is to go on for as long as the process does."""

from collections.abc import Awaitable, Callable
from typing import Final

import structlog

EVENT: Final = "background work ended"

log = structlog.get_logger("luna")


async def reported(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Do work, and say it in the log when it fails: nobody waits for it, so nobody else would. The process goes on."""
    try:
        await work()
    except Exception:
        log.exception(EVENT, work=name, effect="the registry goes on without it", step="restart it, and report what is below")
