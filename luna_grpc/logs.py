"""Structured logs on stderr: for people on a terminal, JSON elsewhere."""

import logging
import sys
import time
from collections.abc import Callable
from typing import Final, TextIO

import structlog

from luna_grpc.events import Event
from luna_grpc.model import Door

MOST_A_SECOND: Final = 10
"""Lines for instances that go DOWN or are removed without anyone asking, of which the sweeper says how many there were; and lines
for failed logins.
"""

log = structlog.get_logger("luna")


def configure(level: str, stream: TextIO = sys.stderr) -> None:
    """Set up structlog, and let the libraries' own logging come out the same way."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        # What is below the level costs nothing: its methods do nothing.
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        cache_logger_on_first_use=True,
    )
    last: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]  # the other kind shows variables
        if stream.isatty()
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # One line a request would cost more than the request; and what gRPC tells for its own developers helps nobody else.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    logging.getLogger("grpc._cython.cygrpc").setLevel(logging.WARNING)


class _Few:
    """Lets no more than `MOST_A_SECOND` pass in a second."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._second = 0
        self._passed = 0

    def passes(self) -> bool:
        """Whether one more may pass."""
        second = int(self._now())
        self._passed = self._passed + 1 if second == self._second else 1
        self._second = second
        return self._passed <= MOST_A_SECOND


class ChangeLog:
    """Writes a line for each change; when many leases end at once, for the first of them."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._few = _Few(now)

    def __call__(self, event: Event) -> None:
        """Note a change."""
        instance, actor = event.instance, event.actor
        if actor is None or ((actor.door is Door.INTERNAL or instance.ended is not None) and not self._few.passes()):
            return
        log.info(
            event.change.value,
            instance_id=instance.info.instance_id,
            service=instance.info.name,
            status=instance.status.value,
            reason=instance.reason.value,
            generation=instance.generation,
            user=actor.user.name,
            door=actor.door.value,
            peer=actor.peer,
        )


class FailedLogins:
    """Writes a line for each failed login, or for a few of them: strangers can make any number.

    Of what was sent it tells the name of a user whom there is, and nothing else: it may be a password, typed into the wrong field.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._few = _Few(now)

    def __call__(self, peer: str, user: str | None, failures: int) -> None:
        """Note a failed login, the `failures`th since the start; `user` None: there is no such user."""
        if self._few.passes():
            log.warning("login failed", peer=peer, user=user, failures_since_start=failures)
