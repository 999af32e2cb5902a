"""Something that happens once, waited for by threads and by event loops."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Outcome(Generic[T]):
    """A value that comes once; later ones are not looked at."""

    def __init__(self) -> None:
        self._future: Future[T] = Future()

    def set(self, value: T) -> None:
        """Let those who wait go on."""
        with suppress(InvalidStateError):
            self._future.set_result(value)

    def wait(self, seconds: float | None = None) -> T:
        """Return the value.

        Raises:
            TimeoutError: it did not come in time.

        """
        return self._future.result(seconds)

    async def wait_async(self, seconds: float | None = None) -> T:
        """Return the value, as `wait` does."""
        copy: Future[T] = Future()  # a wait that is cancelled cancels this one only
        self._future.add_done_callback(_into(copy))
        async with asyncio.timeout(seconds):
            return await asyncio.wrap_future(copy)


def _into(copy: Future[T]) -> Callable[[Future[T]], None]:
    def done(future: Future[T]) -> None:
        with suppress(InvalidStateError):
            copy.set_result(future.result())

    return done
