"""Opening the state file: made when it is not there, refused when it is not good, and in words that say what to do."""

import fcntl
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from luna_grpc import stateformat
from luna_grpc.stateformat import WrongFileError
from luna_grpc.walcheck import is_damaged

LOG: Final = "-wal"
"""What SQLite adds to the name of a file for the log that belongs to it."""
LOCKED: Final = 2.0
"""Seconds to wait for a predecessor that is just ending."""
_LOCKS: Final = (510, 0x4000_0002)
"""How many bytes SQLite locks from where on: https://www.sqlite.org/fileformat2.html#the_lock_byte_page ."""
_OTHER: Final = "name another file with --state-file or LUNA_STATE_FILE"
_CAUSES: Final = {
    "SQLITE_FULL": "the disk is full",
    "SQLITE_READONLY": "it is read-only",
    "SQLITE_CANTOPEN": "it cannot be opened",
    "SQLITE_IOERR": "the disk does not take it",
}


class StateFileError(Exception):
    """The file cannot be used; the message says why and what to do."""


def connected(path: str) -> tuple[sqlite3.Connection, bool]:
    """Open a file for this process alone; return whether it was made just now.

    Raises:
        StateFileError: it is of another program or a newer Luna, damaged, in use, or cannot be written.

    """
    connection = None
    try:
        _check_place(Path(path))
        fresh = _is_missing(path)
        if fresh:
            _make(path)
        connection = _connection(path)
        _lock(connection)
        stateformat.check(connection)
        _use_log(connection)
    except Exception as error:
        if connection is not None:
            connection.close()
        raise unusable(path, error) from error
    return connection, fresh


def _check_place(file: Path) -> None:
    if file.is_dir():
        raise StateFileError(f"the state file {file} is a directory: name a file in it, for example {file / 'state.db'}")
    if not file.parent.exists():
        raise StateFileError(f"the state file {file} cannot be made, its directory does not exist: mkdir -p {file.parent}")


def _is_missing(path: str) -> bool:
    """Return whether a file is to be made, when what is there is not damaged at first sight."""
    file, log = Path(path), Path(path + LOG)
    if not file.exists():
        if log.exists() and log.stat().st_size:
            raise StateFileError(
                f"the state file {path} is missing, but {log} with its last changes is there: put {path} back beside it, or start "
                f"without what they held by moving the log away: mv {log} {log}.old"
            )
        return True
    if not file.stat().st_size:
        raise StateFileError(
            f"the state file {path} is empty, so what it held is lost: restore it from a backup, or start with an empty registry "
            f"by removing it: rm {path}"
        )
    if log.exists() and is_damaged(log) and not _is_locked(file):  # of a file that is written now nothing can be said
        raise StateFileError(_damaged(path, f"its log {log} is not as it was written"))
    return False


def _is_locked(file: Path) -> bool:
    with file.open("r+b") as opened:
        try:
            fcntl.lockf(opened, fcntl.LOCK_SH | fcntl.LOCK_NB, *_LOCKS)
        except BlockingIOError:
            return True
    return False


def _make(path: str) -> None:
    """Make a file; it gets its name when all of it is on the disk, so there is never a part of one.

    Raises:
        StateFileError: another process makes it, or has just made it.

    """
    new = path + ".new"
    with open(new, "a+b", opener=lambda name, flags: os.open(name, flags, 0o600)) as making:
        try:
            fcntl.flock(making, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateFileError(_in_use(path)) from None
        if Path(path).exists():  # whoever had the lock before has made it meanwhile
            Path(new).unlink(missing_ok=True)
            raise StateFileError(_in_use(path))
        making.truncate(0)  # what is in it is of a start that was cut off
        with closing(_connection(new)) as connection:
            stateformat.make(connection)
        Path(new).rename(path)
    _keep_name(path)


def _keep_name(path: str) -> None:
    """Let the disk have the name of a file."""
    directory = os.open(Path(path).parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _connection(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=LOCKED, isolation_level=None, check_same_thread=False)


def _lock(connection: sqlite3.Connection) -> None:
    """Keep all others out until the connection is closed, or the process is gone."""
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("BEGIN EXCLUSIVE")
    connection.execute("COMMIT")


def _use_log(connection: sqlite3.Connection) -> None:
    """Write to a log first, and wait for the disk at the end of each transaction."""
    [mode] = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise sqlite3.OperationalError(f"its file system is not fit for it: journal mode {mode} and not wal")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")  # macOS only: an fsync alone does not reach the disk there
    connection.execute("BEGIN IMMEDIATE")  # the log is made now, if it is not there
    connection.execute("COMMIT")


def unusable(path: str, error: Exception) -> StateFileError:
    """Return in words for people what went wrong at opening or reading a file."""
    name = getattr(error, "sqlite_errorname", "")
    if isinstance(error, StateFileError):
        return error
    if isinstance(error, WrongFileError):
        return StateFileError(f"the state file {path} {error}, or {_OTHER}")
    if name == "SQLITE_NOTADB":
        return StateFileError(
            f"the state file {path} is none of Luna's, or damaged from its first byte on; nothing in it was changed: {_OTHER}, or "
            "restore it from a backup"
        )
    if name.startswith("SQLITE_BUSY"):
        return StateFileError(_in_use(path))
    if isinstance(error, OSError) or name.startswith((*_CAUSES, "SQLITE_PERM")):
        return StateFileError(
            f"the state file {path} cannot be opened and written ({words(error)}): its directory has to exist and to have room, "
            "and the user that runs Luna has to be allowed to write there"
        )
    return StateFileError(_damaged(path, str(error)))


def _in_use(path: str) -> str:
    return f"the state file {path} is in use by another process: stop that one, or {_OTHER}"


def _damaged(path: str, found: str) -> str:
    return (
        f"the state file {path} is damaged ({found}); nothing of it was thrown away. Move it away, and {path}{LOG} if that is "
        "there; then put a backup in its place, or start with an empty registry"
    )


def words(error: Exception) -> str:
    """Return what went wrong at the disk in words for people."""
    name = getattr(error, "sqlite_errorname", "")
    for known, cause in _CAUSES.items():
        if name.startswith(known):
            return f"{cause} ({name})"
    return getattr(error, "strerror", None) or str(error)
