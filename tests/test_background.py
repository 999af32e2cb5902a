"""Work beside the requests."""

import structlog

from luna_grpc.background import EVENT, reported


async def test_work_that_fails_is_in_the_log() -> None:
    """At error level, with its name and the exception; who runs it goes on."""

    async def work() -> None:
        raise ValueError("a bug")

    with structlog.testing.capture_logs() as lines:
        await reported("looking", work)
    [line] = lines
    assert (line["event"], line["log_level"], line["work"], line["exc_info"]) == (EVENT, "error", "looking", True)
