"""How bulk work lets others run."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from luna_grpc import pacing


class Others:
    """A task that is always ready to run, and counts its turns."""

    def __init__(self) -> None:
        self.turns = 0

    async def run(self) -> None:
        """Take a turn for ever."""
        while True:
            await asyncio.sleep(0)
            self.turns += 1


@asynccontextmanager
async def _others() -> AsyncIterator[Others]:
    others = Others()
    task = asyncio.create_task(others.run())
    await asyncio.sleep(0)
    yield others
    task.cancel()


async def test_others_get_several_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """grpc.aio needs six to take a call."""
    monkeypatch.setattr(pacing, "LONGEST_REST", 60)
    monkeypatch.setattr(pacing, "IDLE", 60)
    async with _others() as others:
        await pacing.let_others_run()
        assert pacing.TURNS - 1 <= others.turns <= pacing.TURNS + 1
    assert pacing.TURNS >= 12


async def test_whoever_has_something_to_do_gets_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they wait for may come from other threads, which takes more than turns."""
    monkeypatch.setattr(pacing, "LONGEST_REST", 60)
    monkeypatch.setattr(pacing, "IDLE", 0)
    async with _others() as others:
        await pacing.let_others_run()
        assert others.turns > pacing.TURNS + 10


async def test_bulk_work_goes_on_however_much_others_have_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """When they take long, it waits for no more than a turn."""
    monkeypatch.setattr(pacing, "LONGEST_REST", 0)
    async with _others() as others:
        await pacing.let_others_run()
        assert others.turns <= 2


async def test_pieces_are_done_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order in which they were asked for, with turns for others in between when they are long, also when one fails."""
    monkeypatch.setattr(pacing, "LONGEST_REST", 60)
    monkeypatch.setattr(pacing, "IDLE", 60)
    turn, done = pacing.OneAtATime(), list[int]()

    async def piece(number: int) -> None:
        async with turn:
            done.append(number)
            if number == 1:
                raise ValueError

    for piece_is_long in (True, False):
        monkeypatch.setattr(pacing, "PIECE", 0 if piece_is_long else 60)
        done.clear()
        async with _others() as others:
            results = await asyncio.gather(*(piece(number) for number in range(3)), return_exceptions=True)
            assert (others.turns >= 2 * pacing.TURNS) == piece_is_long
        assert [type(result) for result in results] == [type(None), ValueError, type(None)]
        assert done == [0, 1, 2]


async def test_what_a_task_has_worked_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own pieces, the one under way included, and not what others do in between or beside it."""
    clock = [0.0]
    monkeypatch.setattr(time, "thread_time", lambda: clock[0])
    turn = pacing.OneAtATime()

    async def work(*pieces: float) -> float:
        for seconds in pieces:
            async with turn:
                clock[0] += seconds
            clock[0] += 100  # what others do
        async with turn:
            clock[0] += 1
            return pacing.worked()

    assert await asyncio.gather(*(asyncio.create_task(work(*pieces)) for pieces in ((2, 3), (4,)))) == [6, 5]
    assert pacing.worked() == 0
