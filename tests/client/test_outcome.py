"""Waiting for something that happens once, in threads and in event loops."""

import asyncio
import gc
from concurrent.futures import Future

import pytest

from luna_grpc.client.outcome import Outcome


def futures() -> int:
    """Return how many there are in this process."""
    gc.collect()
    return sum(isinstance(thing, Future) for thing in gc.get_objects())


async def test_a_wait_that_is_over_leaves_nothing_behind() -> None:
    """Whether its time is up or it is cancelled: a program may wait again and again for as long as it runs."""
    outcome: Outcome[int] = Outcome()
    before = futures()
    for _ in range(20):
        with pytest.raises(TimeoutError):
            await outcome.wait_async(0)
        waiting = asyncio.create_task(outcome.wait_async())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert futures() - before < 10  # the frames of the last error may still have some


async def test_all_who_wait_are_told_once() -> None:
    """The first value, by whatever thread it is set; whoever comes later has it at once, whoever was cancelled does not matter."""
    outcome: Outcome[int] = Outcome()
    waiting = [asyncio.create_task(outcome.wait_async(20)) for _ in range(3)]
    thread = asyncio.create_task(asyncio.to_thread(outcome.wait, 20))
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.to_thread(outcome.set, 7)
    outcome.set(8)
    assert await asyncio.gather(*waiting[1:], thread) == [7, 7, 7]
    assert (outcome.wait(0), await outcome.wait_async(0)) == (7, 7)
