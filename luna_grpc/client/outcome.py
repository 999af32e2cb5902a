"""Something that happens once, waited for by threads and by event loops."""

import asyncio
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Outcome(Generic[T]):
    """A value that comes once; later ones are not looked at."""

    def __init__(self) -> None:
        self._future: Future[T] = Future()
        self._future.add_done_callback(self._pass_on)
        self._waiting: set[Future[T]] = set()  # one for each wait of an event loop: a wait that is cancelled ends no other

    @property
    def is_set(self) -> bool:
        """Whether it has come."""
        return self._future.done()

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
        own: Future[T] = Future()
        self._waiting.add(own)
        try:
            if self._future.done():  # asked after we are among those who wait: nothing falls in between
                return self._future.result()
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(own)
        finally:
            self._waiting.discard(own)

    def _pass_on(self, future: Future[T]) -> None:
        for waiting in [*self._waiting]:
            with suppress(InvalidStateError):
                waiting.set_result(future.result())
