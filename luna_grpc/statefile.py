"""The state file: what a registry has acknowledged, in SQLite, so that a restart does not lose it.

One thread of its own owns the connection. It takes whatever waits, writes it in one transaction and lets the disk confirm it
(`synchronous=FULL`: an fdatasync of the write-ahead log) before anyone is told. So under load many changes share one fdatasync.

When the file cannot be written, every change of that transaction is refused, and the next one is tried as if nothing had happened:
a disk that has room again needs no restart.
"""

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final, NamedTuple, Self, TypeAlias

import orjson
import structlog

from luna_grpc.errors import ResourceExhaustedError, UnavailableError
from luna_grpc.model import Info, Instance, Status, StatusReason

FORMAT: Final = 1
"""Goes up when an older Luna could not read the file any more."""
APPLICATION_ID: Final = int.from_bytes(b"Luna", "big")
MAX_WAITING: Final = 20_000
"""The most changes that wait for the disk; more are refused at once."""
TRANSACTION: Final = 1000
"""The most changes that share a transaction."""
LOCKED: Final = 2.0
"""Seconds to wait for a predecessor that is just ending."""

_COLUMNS: Final = (
    "instance_id", "generation", "owner", "name", "description", "version", "url", "weight", "metadata", "reported", "ended",
    "ended_at", "registered_at", "last_heartbeat", "drained_until",
)  # fmt: skip
_SCHEMA: Final = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE instances (
    instance_id TEXT PRIMARY KEY, generation INTEGER NOT NULL, owner TEXT NOT NULL, name TEXT NOT NULL, description TEXT NOT NULL,
    version TEXT NOT NULL, url TEXT NOT NULL, weight INTEGER, metadata BLOB NOT NULL, reported TEXT NOT NULL, ended TEXT,
    ended_at INTEGER, registered_at INTEGER NOT NULL, last_heartbeat INTEGER NOT NULL, drained_until INTEGER
);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
"""
_VALUES: Final = f"({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
# The order of a service's instances is that of their row numbers: who stays in a service keeps the number, who moves gets the last.
_KEEP: Final = f"INSERT INTO instances {_VALUES} ON CONFLICT (instance_id) DO UPDATE SET " + ", ".join(
    f"{column} = excluded.{column}" for column in _COLUMNS[1:]
)
_MOVE: Final = f"INSERT OR REPLACE INTO instances {_VALUES}"
_READ: Final = f"SELECT {', '.join(_COLUMNS)} FROM instances ORDER BY rowid"  # noqa: S608 - same
_FORGET: Final = "DELETE FROM instances WHERE instance_id = ?"
_GIVEN: Final = "UPDATE meta SET value = max(value, ?) WHERE key = 'last_generation'"

_CAUSES: Final = {
    "SQLITE_FULL": "the disk is full",
    "SQLITE_READONLY": "it is read-only",
    "SQLITE_CANTOPEN": "it cannot be opened",
    "SQLITE_IOERR": "the disk does not take it",
}

log = structlog.get_logger("luna.state")


class StateFileError(Exception):
    """The file cannot be used; the message says why and what to do."""


class Kept(NamedTuple):
    """A registration as it is kept: everything but its lease."""

    instance: Instance
    owner: str
    last_heartbeat: int
    """Milliseconds since the epoch, of the time when it was written: heartbeats are not."""
    ended_at: int | None = None
    """Milliseconds since the epoch; None while its lease is alive."""


Statement: TypeAlias = tuple[str, tuple[Any, ...]]
"""SQL and its values."""


class Write(NamedTuple):
    """Statements that belong together, and who waits for them."""

    statements: tuple[Statement, ...]
    done: asyncio.Future[None]


def keep(kept: Kept, *, moved: bool = False) -> Statement:
    """Return the statement that keeps a registration; `moved`: it was not in this service before."""
    instance, owner, last_heartbeat, ended_at = kept
    said = instance.info
    values = (
        said.instance_id, instance.generation, owner, said.name, said.description, said.version, said.url, said.weight,
        orjson.dumps(dict(said.metadata)), instance.reported.value, instance.ended and instance.ended.value, ended_at,
        instance.registered_at, last_heartbeat, instance.drained_until,
    )  # fmt: skip
    return (_MOVE if moved else _KEEP), values


def forget(instance_id: str) -> Statement:
    """Return the statement that forgets a registration."""
    return _FORGET, (instance_id,)


def given(generation: int) -> Statement:
    """Return the statement that remembers that a generation was given away."""
    return _GIVEN, (generation,)


class StateFile:
    """See the module. Made by `open`; to be closed."""

    def __init__(self, path: str, connection: sqlite3.Connection, *, fresh: bool, epoch: str, last_generation: int) -> None:
        self.path = path
        self.fresh = fresh
        """Whether the file was made just now: nothing is known of an earlier life."""
        self.epoch = epoch
        self.last_generation = last_generation
        """The highest that was ever given away."""
        self.failing_since: float | None = None
        """Monotonic seconds; None while the file can be written."""
        self.failure = ""
        """Why it cannot be written, in words."""
        self.waiting = 0
        """How many changes wait for the disk."""
        self.transactions = 0
        self._identity = _identity(path)
        self._connection = connection
        self._queue: SimpleQueue[Write | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = Thread(target=self._run, name="luna-state-file")
        self._thread.start()

    # Opening

    @classmethod
    def open(cls, path: str) -> Self:
        """Open the file; make it if it is not there.

        Raises:
            StateFileError: it is of another program or a newer Luna, damaged, in use, or cannot be written.

        """
        fresh = not Path(path).exists() or not Path(path).stat().st_size
        try:
            connection = sqlite3.connect(path, timeout=LOCKED, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise _unusable(path, error) from error
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE").connection.execute("COMMIT")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            if fresh:
                _make(connection)
            _check(connection, path)
            meta = dict(connection.execute("SELECT key, value FROM meta"))
            return cls(path, connection, fresh=fresh, epoch=str(meta["epoch"]), last_generation=int(meta["last_generation"]))
        except (sqlite3.Error, KeyError, ValueError) as error:
            connection.close()
            raise _unusable(path, error) from error
        except StateFileError:
            connection.close()
            raise

    def read(self) -> Iterator[Kept]:
        """Make sure that the file is whole; yield what is kept, in the order in which instances joined their services.

        Raises:
            StateFileError: it is damaged, or what is kept cannot have been written by Luna.

        """
        try:
            [found] = self._connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise StateFileError(_damaged(self.path, found))
            for row in self._connection.execute(_READ):
                yield _kept(row)
        except (sqlite3.Error, ValueError, TypeError, LookupError) as error:
            raise _unusable(self.path, error) from error

    # Writing

    def write(self, *statements: Statement) -> asyncio.Future[None]:
        """Write statements in one transaction; the future is done when the disk has them.

        The future raises UnavailableError when the file cannot be written; then nothing of it was.

        Raises:
            ResourceExhaustedError: too many changes wait already.

        """
        if self.waiting >= MAX_WAITING:
            raise ResourceExhaustedError(
                f"{self.waiting} changes wait for the disk of the state file already; try again later", retry_after=1
            )
        done: asyncio.Future[None] = self._loop.create_future()
        self.waiting += 1
        self._queue.put(Write(statements, done))
        return done

    async def close(self) -> None:
        """Write what waits, and close the file."""
        self._queue.put(None)
        await self._loop.run_in_executor(None, self._thread.join)

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
        with suppress(sqlite3.Error):  # every change is on the disk already; this only tidies up
            self._connection.close()

    def _try(self, writes: list[Write]) -> str:
        """Write all or nothing; return why not, in words, or nothing."""
        try:
            if _identity(self.path) != self._identity:
                return "it was removed or replaced while Luna was running; restart Luna with the file that it is to use"
            self._connection.execute("BEGIN IMMEDIATE")
            for statement, values in (each for write in writes for each in write.statements):
                self._connection.execute(statement, values)
            self._connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
            return _words(error)
        return ""

    def _tell(self, writes: list[Write], failure: str) -> None:
        """Let those who wait go on; called in the loop."""
        self.waiting -= len(writes)
        if failure and self.failing_since is None:
            self.failing_since = time.monotonic()
            log.error(
                "state file cannot be written", path=self.path, reason=failure, effect="changes are refused; heartbeats go on"
            )
        elif not failure:
            self.transactions += 1
            if self.failing_since is not None:
                log.warning("state file is written again", path=self.path, after=round(time.monotonic() - self.failing_since, 1))
                self.failing_since = None
        self.failure = failure
        for write in writes:
            if write.done.done():
                continue
            if failure:
                write.done.set_exception(
                    UnavailableError(
                        f"the change was not made, for the state file cannot be written: {failure}; heartbeats go on", retry_after=5
                    )
                )
            else:
                write.done.set_result(None)


def _make(connection: sqlite3.Connection) -> None:
    meta = "INSERT INTO meta VALUES ('epoch', hex(randomblob(8))), ('last_generation', 0);"
    connection.executescript(f"BEGIN;{_SCHEMA}{meta}COMMIT;")


def _check(connection: sqlite3.Connection, path: str) -> None:
    [application], [version] = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version"))
    if application != APPLICATION_ID:
        raise StateFileError(f"{path} is not a state file of Luna: name another with --state-file or LUNA_STATE_FILE")
    if version > FORMAT:
        raise StateFileError(
            f"the state file {path} was written by a newer Luna (format {version}; this one reads {FORMAT}): start that Luna, "
            "or name another file with --state-file or LUNA_STATE_FILE"
        )


def _kept(row: tuple[Any, ...]) -> Kept:
    (
        instance_id, generation, owner, name, description, version, url, weight, metadata, reported, ended, ended_at, registered_at,
        last_heartbeat, drained_until,
    ) = row  # fmt: skip
    info = Info.of(
        instance_id,
        name=name,
        description=description,
        version=version,
        url=url,
        weight=weight,
        metadata=orjson.loads(metadata),
    )
    why = StatusReason(ended) if ended else None
    instance = Instance(info, Status(reported), why, int(generation), int(registered_at), drained_until)
    return Kept(instance, owner, int(last_heartbeat), ended_at)


def _identity(path: str) -> tuple[int, int]:
    found = Path(path).stat()
    return found.st_dev, found.st_ino


def _unusable(path: str, error: Exception) -> StateFileError:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith("SQLITE_BUSY"):
        return StateFileError(
            f"the state file {path} is in use by another process: stop that one, or name another file with --state-file or "
            "LUNA_STATE_FILE"
        )
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_FULL", "SQLITE_IOERR")):
        return StateFileError(
            f"the state file {path} cannot be opened and written ({_words(error)}): its directory has to exist, and the user that "
            "runs Luna has to be allowed to write there"
        )
    return StateFileError(_damaged(path, str(error)))


def _damaged(path: str, found: str) -> str:
    return (
        f"the state file {path} is damaged ({found}); nothing in it was changed. Restore it from a backup, or start without what "
        f"it held by moving it away: mv {path} {path}.damaged"
    )


def _words(error: Exception) -> str:
    name = getattr(error, "sqlite_errorname", "")
    for known, words in _CAUSES.items():
        if name.startswith(known):
            return words
    return str(error)
