"""The state file: what a registry has acknowledged, in SQLite, so that a restart does not lose it.

One thread of its own writes. It takes whatever waits, writes it in one transaction and lets the disk confirm it, with an fdatasync
of the write-ahead log (`synchronous=FULL`), before anyone is told. So under load many changes share one fdatasync.

When the file cannot be written, every change of that transaction is refused, and the next one is tried: a disk that has room again
needs no restart. What the disk did not confirm is thrown out of the log before the next transaction. Else the end of a longer one
could stand behind a shorter one that is good, and nobody could tell that from a damaged log (see `luna_grpc.walcheck`).
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import suppress
from itertools import islice
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Final, NamedTuple, Self, TypeVar

import structlog

from luna_grpc import stateformat
from luna_grpc.errors import UnavailableError
from luna_grpc.journal import Entry
from luna_grpc.stateformat import Ended, Kept, Statement
from luna_grpc.stateopen import LOG, connected, unusable, words

TRANSACTION: Final = 1000
"""The most changes that share a transaction."""
SLICE: Final = 500
"""Registrations read before others get their turn."""
SILENCE: Final = 5.0
"""Seconds without an answer of the disk that are worth an alarm."""
RETRY_AFTER: Final = 5
"""Seconds, for clients whose change could not be kept."""

log = structlog.get_logger("luna.state")
T = TypeVar("T")


class Write(NamedTuple):
    """Statements that belong together, and who waits for them."""

    statements: tuple[Statement, ...]
    generation: int
    """The highest that is given away with them; 0: none."""
    done: asyncio.Future[None]


class StateFile:
    """See the module. Made by `open`; to be closed."""

    def __init__(self, path: str, connection: sqlite3.Connection, *, fresh: bool) -> None:
        self.path = path
        self.fresh = fresh
        """Whether the file was made just now: nothing is known of an earlier life."""
        self.epoch, self.last_generation = stateformat.read_meta(connection)
        self.failing_since: float | None = None
        """Monotonic seconds; None while the file can be written."""
        self.failure = ""
        """Why it cannot be written, in words."""
        self.waiting = 0
        """How many changes wait for the disk."""
        self.transactions = 0
        """How many the disk has confirmed since the start."""
        self._asked_at = 0.0  # since when the disk owes an answer, if something waits
        self._silent = False  # whether it was noticed that it takes long
        self._leftovers = True  # whether the log may hold more than what was confirmed: of a crash, or of a failed transaction
        self._identity = _identity(path)
        self._connection = connection
        self._in_use = Lock()  # the connection, by a thread
        self._queue: SimpleQueue[Write | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._closed = asyncio.Event()
        # A daemon: a process that ends without closing the file is to end all the same.
        Thread(target=self._run, name="luna-state-file", daemon=True).start()

    @classmethod
    def open(cls, path: str) -> Self:
        """Open the file; make it if it is not there.

        Raises:
            StateFileError: it is of another program or a newer Luna, damaged, in use, or cannot be written.

        """
        path = os.path.realpath(path)  # SQLite puts its log beside the file itself, not beside a link to it
        connection, fresh = connected(path)
        try:
            return cls(path, connection, fresh=fresh)
        except Exception as error:
            connection.close()
            raise unusable(path, error) from error

    @property
    def lag(self) -> float:
        """For how many seconds the disk has not answered while changes wait for it; 0 when none does."""
        return time.monotonic() - self._asked_at if self.waiting else 0.0

    # Reading

    def read(self) -> AsyncIterator[list[Kept]]:
        """Yield what is kept, in parts, in the order in which instances joined their services.

        Raises:
            StateFileError: the file is damaged.

        """
        return self._in_parts(stateformat.read(self._connection))

    def read_ended(self) -> AsyncIterator[list[Ended]]:
        """Yield those without a live lease, in parts, in the order in which they lost it."""
        return self._in_parts(stateformat.read_ended(self._connection))

    async def read_drains(self) -> dict[str, int]:
        """Return the ids that are drained, each with the end of that in milliseconds since the epoch.

        Raises:
            StateFileError: the file is damaged.

        """
        return await asyncio.to_thread(self._drains)

    def _drains(self) -> dict[str, int]:
        try:
            with self._in_use:
                return stateformat.read_drains(self._connection)
        except Exception as error:
            raise unusable(self.path, error) from error

    def read_journal(self) -> AsyncIterator[list[Entry]]:
        """Yield the entries of the journal, in parts, oldest first."""
        return self._in_parts(stateformat.read_journal(self._connection))

    async def _in_parts(self, things: Generator[T, None, None]) -> AsyncIterator[list[T]]:
        try:
            while part := await asyncio.to_thread(self._part_of, things):
                yield part
        finally:
            await asyncio.to_thread(self._leave, things)

    def _part_of(self, things: Iterator[T]) -> list[T]:
        try:
            with self._in_use:
                return list(islice(things, SLICE))
        except Exception as error:
            raise unusable(self.path, error) from error

    def _leave(self, things: Generator[T, None, None]) -> None:
        with self._in_use:
            things.close()  # else the file stays open

    # Writing

    def write(self, *statements: Statement, generation: int = 0) -> asyncio.Future[None]:
        """Write statements in one transaction; the future is done when the disk has them.

        The future raises UnavailableError when the file cannot be written; then nothing of it was.
        """
        if not self.waiting:
            self._asked_at = time.monotonic()
        elif self.lag > SILENCE and not self._silent:
            self._silent = True
            log.error("the disk of the state file does not answer", path=self.path, effect="changes wait; heartbeats go on")
        done: asyncio.Future[None] = self._loop.create_future()
        self.waiting += 1
        self._queue.put(Write(statements, generation, done))
        return done

    async def close(self) -> None:
        """Write what waits, and close the file."""
        self._queue.put(None)
        await self._closed.wait()

    def _run(self) -> None:
        """Write until closed; what the thread does."""
        over = False
        while not over:
            batch = [self._queue.get()]
            with suppress(Empty):
                while len(batch) < TRANSACTION:
                    batch.append(self._queue.get_nowait())
            over = None in batch
            writes = [write for write in batch if write is not None]
            if writes:
                failure = self._try(writes)
                self._loop.call_soon_threadsafe(self._tell, writes, failure)
        with self._in_use, suppress(sqlite3.Error):  # every change is on the disk already; this only tidies up
            self._connection.close()
        self._loop.call_soon_threadsafe(self._closed.set)

    def _try(self, writes: list[Write]) -> str:
        """Write all or nothing; return why not, in words, or nothing."""
        generation = max(write.generation for write in writes)
        try:
            if _identity(self.path) != self._identity:
                return "it was removed or replaced while Luna was running; put it back, or restart Luna"
            if self._leftovers:
                self._begin_log_anew()
            self._connection.execute("BEGIN IMMEDIATE")
            if generation:
                self._connection.execute(*stateformat.given(generation))
            for statement, values in (each for write in writes for each in write.statements):
                self._connection.execute(statement, values)
            self._connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told to those who wait
            # Where there is no room, the frame that ends the transaction was not written either; and to empty the log would give
            # the room that it has to others.
            self._leftovers = self._leftovers or getattr(error, "sqlite_errorname", "") != "SQLITE_FULL"
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
            return words(error)
        return ""

    def _begin_log_anew(self) -> None:
        """Let the file have all that was confirmed, and empty the log.

        Raises:
            sqlite3.Error: the disk does not take it; then nothing may be added to the log either.

        """
        [busy, *_] = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise sqlite3.OperationalError("its log is being read")
        self._leftovers = False

    def _tell(self, writes: list[Write], failure: str) -> None:
        """Let those who wait go on; called in the loop."""
        self.waiting -= len(writes)
        self._note(failure)
        for write in writes:
            if write.done.done():  # nobody waits any more
                continue
            if failure:
                write.done.set_exception(
                    UnavailableError(
                        f"the change was not made, for the state file cannot be written: {failure}; heartbeats go on",
                        retry_after=RETRY_AFTER,
                    )
                )
            else:
                write.done.set_result(None)

    def _note(self, failure: str) -> None:
        """Take note of an answer of the disk, and tell the log when it is another one than before."""
        now = time.monotonic()
        if self._silent:
            self._silent = False
            log.warning("the disk of the state file answers again", path=self.path, after=round(self.lag, 1))
        self._asked_at = now
        if failure and self.failing_since is None:
            self.failing_since = now
            log.error(
                "state file cannot be written", path=self.path, reason=failure, effect="changes are refused; heartbeats go on"
            )
        elif not failure and self.failing_since is not None:
            log.warning("state file is written again", path=self.path, after=round(now - self.failing_since, 1))
            self.failing_since = None
        self.failure = failure
        self.transactions += not failure


def _identity(path: str) -> list[tuple[int, int]]:
    """Tell the file and its log from others of the same names; one that is not there is like no other."""
    identity = []
    for name in (path, path + LOG):
        try:
            found = os.stat(name)  # noqa: PTH116 - before every transaction, and half as dear
        except FileNotFoundError:
            identity.append((0, 0))
        else:
            identity.append((found.st_dev, found.st_ino))
    return identity
