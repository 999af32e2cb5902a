"""How bulk work lets others run: between two slices of it the event loop takes a number of turns.

One turn is not enough. To take a gRPC call takes grpc.aio six turns, and the next call is taken only after that: with one turn
after each slice of 3 ms, calls would queue up for seconds. Turns in which nobody has anything to do take microseconds.
"""

import asyncio
import time
from typing import Final

SLICE: Final = 0.001
"""Seconds of bulk work after which others are to run."""
TURNS: Final = 12
"""How many turns of the loop they get."""
IDLE: Final = 0.0002
"""Seconds; when all those turns took no longer, nobody had anything to do."""
REST: Final = 0.001
"""Seconds that they get on top, if somebody had: time for what other threads bring, gRPC's among them."""
LONGEST_REST: Final = 0.02
"""Seconds after which the bulk work goes on, even if the turns are not over."""


async def let_others_run() -> None:
    """Return after some turns of the loop; see the module."""
    began = time.perf_counter()
    for _ in range(TURNS):
        await asyncio.sleep(0)
        if time.perf_counter() - began >= LONGEST_REST:
            return
    if time.perf_counter() - began > IDLE:
        await asyncio.sleep(REST)
