"""What stands in the state file: its tables, its rows, and how they are read and checked.

Each row carries a checksum of itself. SQLite finds out when a page is damaged, not when a text on it is; and a registry that serves
what nobody ever said is worse than one that does not start.
"""

import secrets
import sqlite3
from collections.abc import Generator
from typing import Any, Final, NamedTuple, TypeAlias
from zlib import crc32

import orjson

from luna_grpc.journal import CAPACITY, Entry, Kind
from luna_grpc.model import Info, Instance, Status, StatusReason, shown

FORMAT: Final = 2
"""Goes up when an older Luna could not read the file any more."""
APPLICATION_ID: Final = int.from_bytes(b"Luna", "big")

_COLUMNS: Final = (
    "instance_id", "generation", "owner", "name", "description", "version", "url", "weight", "metadata", "reported", "ended",
    "ended_at", "registered_at", "last_heartbeat", "drained_until", "checksum",
)  # fmt: skip
_SCHEMA: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE instances (
    instance_id TEXT PRIMARY KEY, generation INTEGER NOT NULL, owner TEXT NOT NULL, name TEXT NOT NULL, description TEXT NOT NULL,
    version TEXT NOT NULL, url TEXT NOT NULL, weight INTEGER, metadata TEXT NOT NULL, reported TEXT NOT NULL, ended TEXT,
    ended_at INTEGER, registered_at INTEGER NOT NULL, last_heartbeat INTEGER NOT NULL, drained_until INTEGER,
    checksum INTEGER NOT NULL
);
"""
_SINCE_2: Final = """
CREATE TABLE drains (instance_id TEXT PRIMARY KEY, until INTEGER NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE journal (
    number INTEGER PRIMARY KEY, at INTEGER NOT NULL, instance_id TEXT NOT NULL, service TEXT NOT NULL, kind TEXT NOT NULL,
    status TEXT NOT NULL, reason TEXT NOT NULL, up INTEGER NOT NULL, user TEXT NOT NULL, door TEXT NOT NULL,
    checksum INTEGER NOT NULL
);
"""
"""What a file of format 1 does not have."""
_VALUES: Final = f"({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
# The order of a service's instances is that of their row numbers: who stays in a service keeps the number, who moves gets the last.
_KEEP: Final = f"INSERT INTO instances {_VALUES} ON CONFLICT (instance_id) DO UPDATE SET " + ", ".join(
    f"{column} = excluded.{column}" for column in _COLUMNS[1:]
)
_MOVE: Final = f"INSERT OR REPLACE INTO instances {_VALUES}"
_FORGET: Final = "DELETE FROM instances WHERE instance_id = ?"
_META: Final = "INSERT INTO meta VALUES (?, ?, ?)"
_GIVEN: Final = "UPDATE meta SET value = ?2, checksum = ?3 WHERE key = ?1 AND value < ?2"
_READ: Final = f"SELECT {', '.join(_COLUMNS)} FROM instances ORDER BY rowid"  # noqa: S608 - only our own words are in it
_ENDED: Final = "SELECT instance_id, ended_at FROM instances WHERE ended IS NOT NULL ORDER BY ended_at"

_DRAIN: Final = "INSERT OR REPLACE INTO drains VALUES (?, ?, ?)"
_UNDRAIN: Final = "DELETE FROM drains WHERE instance_id = ?"
_OVER: Final = "DELETE FROM drains WHERE until <= ?"
_NOTE: Final = "INSERT OR REPLACE INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_TRIM: Final = "DELETE FROM journal WHERE number <= ?"

Statement: TypeAlias = tuple[str, tuple[Any, ...]]
"""SQL and its values."""


class WrongFileError(Exception):
    """The file is none that this Luna can read; the message says why."""


class Kept(NamedTuple):
    """A registration as it is kept: everything but its lease."""

    instance: Instance
    owner: str
    last_heartbeat: int
    """Milliseconds since the epoch, of the time when it was written: heartbeats are not."""
    ended_at: int | None = None
    """Milliseconds since the epoch; None while its lease is alive."""


class Ended(NamedTuple):
    """A registration without a live lease."""

    instance_id: str
    at: int
    """Milliseconds since the epoch."""


def keep(kept: Kept, *, moved: bool = False) -> Statement:
    """Return the statement that keeps a registration; `moved`: it was not in this service before."""
    instance, owner, last_heartbeat, ended_at = kept
    said = instance.info
    values = (
        said.instance_id, instance.generation, owner, said.name, said.description, said.version, said.url, said.weight,
        orjson.dumps(dict(said.metadata)).decode(), instance.reported.value, instance.ended and instance.ended.value, ended_at,
        instance.registered_at, last_heartbeat, instance.drained_until,
    )  # fmt: skip
    return (_MOVE if moved else _KEEP), _sealed(*values)


def forget(instance_id: str) -> Statement:
    """Return the statement that forgets a registration."""
    return _FORGET, (instance_id,)


def drain(instance_id: str, until: int) -> Statement:
    """Return the statement that keeps that an id is drained."""
    return _DRAIN, _sealed(instance_id, until)


def undrain(instance_id: str) -> Statement:
    """Return the statement that forgets that an id was drained."""
    return _UNDRAIN, (instance_id,)


def forget_drains(until: int) -> Statement:
    """Return the statement that forgets the drains that ended by a time in milliseconds since the epoch."""
    return _OVER, (until,)


def note(entry: Entry) -> Statement:
    """Return the statement that keeps an entry of the journal."""
    return _NOTE, _sealed(*entry)


def trim(number: int) -> Statement:
    """Return the statement that forgets what the journal keeps no more, when the latest entry has this number."""
    return _TRIM, (number - CAPACITY,)


def given(generation: int) -> Statement:
    """Return the statement that remembers that a generation was given away."""
    return _GIVEN, _sealed("last_generation", generation)


def make(connection: sqlite3.Connection) -> None:
    """Make the tables, with a new epoch."""
    connection.executescript(f"BEGIN;{_SCHEMA}{_SINCE_2}PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT};")
    for row in (_sealed("epoch", secrets.token_hex(8)), _sealed("last_generation", 0)):
        connection.execute(_META, row)
    connection.execute("COMMIT")


def check(connection: sqlite3.Connection) -> None:
    """Let those files pass that this Luna can read; what an older one has not made yet is made.

    Raises:
        WrongFileError: it is of another program, or of a newer Luna.

    """
    [application], [version] = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version"))
    if application != APPLICATION_ID:
        raise WrongFileError("is not one of Luna's; nothing in it was changed: restore it if it was one")
    if version > FORMAT:
        raise WrongFileError(f"was written by a newer Luna (format {version}; this one reads {FORMAT}): start that one")
    if version < FORMAT:
        connection.executescript(f"BEGIN;{_SINCE_2}PRAGMA user_version = {FORMAT};COMMIT;")


def read_meta(connection: sqlite3.Connection) -> tuple[str, int]:
    """Return the epoch, and the highest generation that was ever given away.

    Raises:
        Exception: of whatever kind; the file is damaged.

    """
    rows = connection.execute("SELECT key, value, checksum FROM meta ORDER BY key").fetchall()
    if [row[0] for row in rows] != ["epoch", "last_generation"] or any(row != _sealed(*row[:2]) for row in rows):
        raise ValueError("its epoch and generation are not as they were written")
    return rows[0][1], rows[1][1]


def read(connection: sqlite3.Connection) -> Generator[Kept, None, None]:
    """Make sure that the file is whole; yield what is kept, in the order in which instances joined their services.

    Raises:
        Exception: of whatever kind; the file is damaged.

    """
    [found] = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise ValueError(found.splitlines()[-1])
    for row in connection.execute(_READ):
        yield _kept(row)


def read_ended(connection: sqlite3.Connection) -> Generator[Ended, None, None]:
    """Yield those without a live lease, in the order in which they lost it."""
    for instance_id, at in connection.execute(_ENDED):
        yield Ended(instance_id, int(at))


def read_drains(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the ids that are drained, each with the end of that in milliseconds since the epoch.

    Raises:
        Exception: of whatever kind; the file is damaged.

    """
    rows = connection.execute("SELECT instance_id, until, checksum FROM drains").fetchall()
    return dict(_unsealed(row) for row in rows)


def read_journal(connection: sqlite3.Connection) -> Generator[Entry, None, None]:
    """Yield the entries of the journal, oldest first.

    Raises:
        Exception: of whatever kind; the file is damaged.

    """
    for row in connection.execute("SELECT * FROM journal ORDER BY number"):
        number, at, instance_id, service, kind, status, reason, up, user, door = _unsealed(row)
        yield Entry(number, at, instance_id, service, Kind(kind), Status(status), StatusReason(reason), up, user, door)


def _kept(row: tuple[Any, ...]) -> Kept:
    (
        instance_id, generation, owner, name, description, version, url, weight, metadata, reported, ended, ended_at, registered_at,
        last_heartbeat, drained_until,
    ) = _unsealed(row)  # fmt: skip
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
    instance = Instance(info, Status(reported), why, generation, registered_at, drained_until)
    return Kept(instance, owner, last_heartbeat, ended_at)


def _unsealed(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return what a row says, when it is as it was written."""
    values = row[:-1]
    if row != _sealed(*values):
        raise ValueError(f"the row of {shown(str(row[0]))} is not as it was written")
    return values


def _sealed(*values: Any) -> tuple[Any, ...]:  # noqa: ANN401 - whatever a row holds
    """Return a row with its checksum."""
    return *values, crc32(orjson.dumps(values, default=repr))
