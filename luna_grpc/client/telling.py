"""How a program is told how its registration is doing: once, by the way that it has asked for."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Final

from luna_grpc.client.actions import State
from luna_grpc.client.errors import ClientError

log: Final = logging.getLogger("luna_grpc.client")


def note(instance_id: str, state: State, error: ClientError | None, *, is_told: bool) -> None:
    """Write it to the log: as a warning when something is wrong of which the program is not told otherwise."""
    level = logging.INFO if error is None or is_told else logging.WARNING
    log.log(level, "%s is %s%s", instance_id, state.value, f": {error}" if error else "")


def call(on_lost: Callable[[ClientError], None], error: ClientError, loop: asyncio.AbstractEventLoop | None) -> None:
    """Call a function of the program: in its loop, if it has one that is not closed, or else where it may take its time."""
    if loop is not None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(on_lost, error)
    else:
        threading.Thread(target=_call, args=(on_lost, error), name="luna on_lost", daemon=True).start()


def _call(on_lost: Callable[[ClientError], None], error: ClientError) -> None:
    try:
        on_lost(error)
    except Exception:
        log.exception("on_lost has failed")
