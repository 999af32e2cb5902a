"""Opening a state file: what is good is opened, what is not is refused in one line that says what to do, and stays as it is."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from luna_grpc import stateformat, stateopen
from luna_grpc.durable import DurableStore
from luna_grpc.model import Status
from luna_grpc.stateopen import StateFileError
from luna_grpc.walcheck import is_damaged
from statefiles import LOG, Known, change, copied, deregister, durable, known, register, restored
from support import FakeClock, luna, refused, session

PAGE = 4096
FRAME = PAGE + 24


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the file is to be."""
    return tmp_path / "state.db"


@pytest.fixture
async def closed(path: Path, clock: FakeClock) -> dict[str, list[Known]]:
    """Make a file with something in it, close it, and return what is in it."""
    async with durable(path, clock) as store:
        await fill(store, clock)
        return known(store)


@pytest.fixture
async def killed(path: Path, clock: FakeClock) -> dict[str, list[Known]]:
    """Make a file as a kill leaves it: the last changes stand in its log only; return what is in them."""
    async with durable(path, clock) as store:
        await fill(store, clock)
        left = copied(path, "left.db")
        knowledge = known(store)
    for suffix in ("", LOG):
        Path(f"{left}{suffix}").rename(f"{path}{suffix}")
    return knowledge


async def fill(store: DurableStore, clock: FakeClock) -> None:
    """Register some, and remove some."""
    for number in range(1, 26):
        await register(store, clock, f"s{number % 4}:h:{number}", description="d" * 200, owner="me", metadata={"zone": "eu"})
    for number in range(1, 6):
        await deregister(store, f"s{number % 4}:h:{number}")


async def opened(path: Path) -> dict[str, list[Known]]:
    """Return what is in a file, as a registry that is started sees it."""
    async with durable(path) as store:
        return known(store)


async def why_not(path: Path) -> str:
    """Return why a file is not opened: one line, which names it."""
    with pytest.raises(StateFileError) as caught:
        await opened(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


# What is good


async def test_a_file_that_is_not_there_is_made(path: Path) -> None:
    """With an epoch of its own, and for the eyes of its user only: it knows every owner."""
    async with durable(path) as store:
        assert (store.file.fresh, store.count()) == (True, 0)
        epoch = store.epoch
        assert [(each.name, each.stat().st_mode & 0o777) for each in sorted(path.parent.iterdir())] == [
            ("state.db", 0o600), ("state.db-wal", 0o600),
        ]  # fmt: skip
    async with durable(path) as store:
        assert (store.file.fresh, store.epoch) == (False, epoch)
    async with durable(path.with_name("other.db")) as store:
        assert store.epoch != epoch


async def test_a_start_that_was_cut_off_leaves_nothing_in_the_way(path: Path) -> None:
    """A file gets its name when all of it is there."""
    path.with_name("state.db.new").write_bytes(b"half a file")
    assert await opened(path) == {}
    assert [each.name for each in path.parent.iterdir()] == ["state.db"]


async def test_what_a_kill_leaves_is_opened(path: Path, killed: dict[str, list[Known]]) -> None:
    """All of it, the log included."""
    assert await opened(path) == killed
    assert await opened(path) == killed


async def test_a_file_behind_a_link_is_opened(path: Path, killed: dict[str, list[Known]]) -> None:
    """With the log that lies beside the file, and not beside the link."""
    link = path.parent / "elsewhere" / "link.db"
    link.parent.mkdir()
    link.symlink_to(path)
    assert await opened(link) == killed
    assert [each.name for each in link.parent.iterdir()] == ["link.db"]


async def test_a_backup_is_opened(path: Path, tmp_path: Path, closed: dict[str, list[Known]]) -> None:
    """Made with SQLite's own means while the registry is stopped."""
    backup = tmp_path / "backup.db"
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    assert await opened(backup) == closed


async def test_a_torn_end_is_no_damage(path: Path, killed: dict[str, list[Known]]) -> None:
    """A crash in the middle of a transaction: what was never acknowledged is not there, all the rest is."""
    log = Path(f"{path}{LOG}")
    whole = log.read_bytes()
    last = whole[-FRAME:]
    log.write_bytes(whole + last[: FRAME // 2])
    assert not is_damaged(log)
    assert await restored_from(path) == killed
    log.write_bytes(whole + last)  # its checksum belongs elsewhere
    assert not is_damaged(log)
    assert await restored_from(path) == killed


async def restored_from(path: Path) -> dict[str, list[Known]]:
    """Return what is in a file without touching it."""
    copy = path.with_name("copy.db")
    for suffix in ("", LOG):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    return await opened(copy)


async def test_a_log_that_was_begun_anew_is_no_damage(path: Path, clock: FakeClock) -> None:
    """What is left in it from its last use does not count."""
    async with durable(path, clock) as store:
        await fill(store, clock)
        store.file._connection.execute("PRAGMA wal_checkpoint(RESTART)")
        await change(store, clock, "s1:h:9", reported=Status.DOWN)
        assert not is_damaged(Path(f"{path}{LOG}"))
        assert await restored(path) == known(store)


# What is not


@pytest.mark.usefixtures("closed")
async def test_a_file_of_a_newer_luna(path: Path) -> None:
    """Refused, with the format that it has."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 3")
    before = path.read_bytes()
    assert "was written by a newer Luna (format 3; this one reads 2)" in await why_not(path)
    assert path.read_bytes() == before


async def test_a_file_of_another_program(path: Path) -> None:
    """Refused, and left as it is."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE bookmarks (url TEXT); INSERT INTO bookmarks VALUES ('https://example.org/');")
    before = path.read_bytes()
    message = await why_not(path)
    assert "is not one of Luna's" in message
    assert "--state-file or LUNA_STATE_FILE" in message
    assert path.read_bytes() == before
    path.write_text("a letter to grandmother, and what not " * 200)
    before = path.read_bytes()
    assert "is none of Luna's, or damaged" in await why_not(path)
    assert path.read_bytes() == before


def zeros(data: bytes) -> bytes:
    """Lose a page in the middle."""
    return data[: 3 * PAGE] + bytes(PAGE) + data[4 * PAGE :]


def garbage(data: bytes) -> bytes:
    """Overwrite some of the middle."""
    return data[: 2 * PAGE + 2000] + b"garbage" * 1000 + data[2 * PAGE + 9000 :]


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-PAGE],
        lambda data: data[:100],
        lambda _: b"",
        zeros,
        garbage,
        lambda data: bytes(len(data)),
        lambda data: data[:PAGE] + bytes(len(data) - PAGE),
    ],
    ids=["half", "without its end", "its first bytes", "empty", "a page of zeros", "garbage", "all zeros", "one page"],
)
async def test_a_damaged_file(path: Path, damage: Callable[[bytes], bytes]) -> None:
    """Refused, time and again, with what to do, and left as it is."""
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    for _ in range(2):
        message = await why_not(path)
        assert "damaged" in message or "is empty" in message
        assert "backup" in message
        assert path.read_bytes() == damaged


async def test_any_damaged_byte_is_found_or_makes_no_difference(path: Path, closed: dict[str, list[Known]]) -> None:
    """Wherever it is in the file: a registry serves what it was told, or it does not start."""
    whole = path.read_bytes()
    outcomes = {"found": 0, "no difference": 0}
    damaged = path.with_name("damaged.db")
    for position in range(3, len(whole), 131):
        damaged.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        try:
            assert await opened(damaged) == closed
        except StateFileError:
            outcomes["found"] += 1
        else:
            outcomes["no difference"] += 1
    assert outcomes["found"] > 30


@pytest.mark.usefixtures("closed")
async def test_a_damaged_index(path: Path) -> None:
    """An id that is not found by its index could neither be changed nor removed any more."""
    whole = path.read_bytes()
    places = [match.start() for match in re.finditer(b"s2:h:10", whole)]
    assert len(places) > 1
    for place in places:
        path.write_bytes(whole[:place] + b"S" + whole[place + 1 :])
        assert "damaged" in await why_not(path)


@pytest.mark.usefixtures("killed")
async def test_any_damaged_byte_of_the_log_is_found(path: Path) -> None:
    """SQLite would take what comes before it for all there is. Only the last transaction cannot be told from a torn one."""
    log = Path(f"{path}{LOG}")
    whole = log.read_bytes()
    assert not is_damaged(log)
    ends = [start for start in range(32, len(whole), FRAME) if any(whole[start + 4 : start + 8])]  # each ends a transaction
    for position in range(0, ends[-2] + FRAME, 997):
        log.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        if position % FRAME in range(32 + 4, 32 + 8):  # says only where a transaction ends
            continue
        assert is_damaged(log), position
    message = await why_not(path)
    assert "its log" in message
    assert log.stat().st_size == len(whole)
    assert "its log" in await why_not(path)


@pytest.mark.usefixtures("killed")
async def test_what_comes_before_the_damage_can_be_had(path: Path) -> None:
    """By the means that docs/operations.md names."""
    log = Path(f"{path}{LOG}")
    whole = log.read_bytes()
    middle = len(whole) // 2
    log.write_bytes(whole[:middle] + b"garbage" + whole[middle + 7 :])
    assert "its log" in await why_not(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert 0 < sum(map(len, (await opened(path)).values())) < 25


async def test_a_log_without_its_file(path: Path, killed: dict[str, list[Known]]) -> None:
    """Someone moved only one of the two: SQLite would throw the log away."""
    path.rename(path.with_name("moved.db"))
    assert "is missing, but" in await why_not(path)
    path.with_name("moved.db").rename(path)
    assert await opened(path) == killed


async def test_a_row_that_was_altered(path: Path, closed: dict[str, list[Known]]) -> None:
    """By hand, for example: refused, with the instance; rows may be removed."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM instances WHERE instance_id = 's1:h:9'")
        connection.commit()
    assert sum(map(len, (await opened(path)).values())) == sum(map(len, closed.values())) - 1
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE instances SET reported = 'DOWN' WHERE instance_id = 's2:h:10'")
        connection.commit()
    assert "the row of 's2:h:10' is not as it was written" in await why_not(path)


@pytest.mark.parametrize(
    ("column", "value"),
    [("instance_id", "nonsense"), ("reported", "MAYBE"), ("ended", "TIRED"), ("metadata", "[1]"), ("metadata", "{"), ("name", "")],
)
async def test_a_row_that_cannot_be(path: Path, closed: dict[str, list[Known]], column: str, value: str) -> None:
    """Whatever wrote it: refused, with what is wrong."""
    with closing(sqlite3.connect(path)) as connection:
        cursor = connection.execute("SELECT * FROM instances LIMIT 1")
        names = [each[0] for each in cursor.description]
        row = dict(zip(names, cursor.fetchone(), strict=True))
        instance_id = row["instance_id"]
        row[column] = value
        *_, checksum = stateformat._sealed(*list(row.values())[:-1])
        connection.execute(f"UPDATE instances SET {column} = ?, checksum = ? WHERE instance_id = ?", (value, checksum, instance_id))
        connection.commit()
    if column == "name":  # empty means: as in the id
        assert await opened(path) == closed
    else:
        assert "is damaged" in await why_not(path)


def test_a_full_disk_at_the_start_is_no_damage() -> None:
    """Nor is any other trouble with the disk."""
    for name in ("SQLITE_FULL", "SQLITE_IOERR_READ", "SQLITE_READONLY_DIRECTORY", "SQLITE_CANTOPEN"):
        error = sqlite3.OperationalError("…")
        error.sqlite_errorname = name
        assert "cannot be opened and written" in str(stateopen.unusable("/x", error))


# Through the command line: exit code 1 and one line


async def said(path: Path, **changes: str) -> str:
    """Start a server with a file that it cannot use; return the line that it says."""
    code, lines = await refused("--port", "0", "--grpc-port", "0", env={"LUNA_STATE_FILE": str(path), **changes})
    lines = [line for line in lines if not line.startswith("{")]  # the log
    assert (code, len(lines)) == (1, 1), lines
    assert lines[0].startswith("luna: ")
    assert str(path) in lines[0]
    return lines[0]


@pytest.mark.usefixtures("killed")
async def test_what_a_person_sees(path: Path, tmp_path: Path) -> None:
    """Of a damaged file, a foreign one, an empty one, one in a directory that is not there, and one that is a directory."""
    whole = path.read_bytes()
    log = Path(f"{path}{LOG}")
    frames = log.read_bytes()
    log.write_bytes(frames[:1000] + b"garbage" + frames[1007:])
    assert "is damaged" in await said(path)
    log.unlink()
    path.write_bytes(whole[:-PAGE])
    assert "is damaged" in await said(path)
    path.write_text("no database" * 1000)
    assert "is none of Luna's" in await said(path)
    path.write_bytes(b"")
    assert f"rm {path}" in await said(path)
    assert f"mkdir -p {tmp_path}/nowhere" in await said(tmp_path / "nowhere" / "state.db")
    assert "is a directory: name a file in it" in await said(tmp_path)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Let another process use a file."""
    script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('BEGIN EXCLUSIVE'); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.communicate(b"\n", timeout=10)


@pytest.mark.usefixtures("closed")
async def test_a_file_in_use(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another program, or by another Luna, which goes on undisturbed."""
    monkeypatch.setattr(stateopen, "LOCKED", 0.01)
    with held(path):
        assert "is in use by another process" in await why_not(path)
    async with luna("--state-file", str(path)) as first, session(first.rest) as rest:
        assert "is in use by another process" in await said(path)
        async with rest.delete("/registry/v1/instances/s1:h:9") as answer:
            assert answer.status == 200
        async with rest.get("/registry/v1/services/json") as answer:
            assert sum(len(service["instances"]) for service in await answer.json()) == 19


def test_two_first_starts_at_the_same_time(tmp_path: Path) -> None:
    """One has the file, whichever it is; the other is told that it is in use, and nothing else is left behind."""
    script = (
        "import sys; from luna_grpc import stateopen; stateopen.LOCKED = 0.01; print(flush=True); input()\n"
        "try: stateopen.connected(sys.argv[1]); print('has it', flush=True); input()\n"
        "except stateopen.StateFileError as error: print(error, flush=True); input()"
    )
    for number in range(5):
        path = tmp_path / f"{number}" / "state.db"
        path.parent.mkdir()
        with (
            subprocess.Popen([sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one,
            subprocess.Popen([sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as two,
        ):
            for each in (one, two):
                assert each.stdout is not None
                each.stdout.readline()
            for each in (one, two):
                assert each.stdin is not None
                each.stdin.write(b"\n")
                each.stdin.flush()
            said = []
            for each in (one, two):
                assert each.stdout is not None
                said.append(each.stdout.readline().decode())
            for each in (one, two):
                each.communicate(b"\n", timeout=10)
        assert sorted("in use by another process" in line for line in said) == [False, True], said
        assert "has it\n" in said
        assert [each.name for each in path.parent.iterdir() if each.name.endswith(".new")] == []


async def test_a_log_that_is_just_written_is_not_damaged_but_in_use(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks at a file that another Luna writes sees half of something."""
    monkeypatch.setattr(stateopen, "LOCKED", 0.01)
    monkeypatch.setattr(stateopen, "is_damaged", lambda _: True)
    async with luna("--state-file", str(path)) as first, session(first.rest) as rest:
        body = {"instanceId": "a:h:1", "name": "a", "version": "1", "url": "http://h:1/", "status": "OK", "description": ""}
        async with rest.post("/registry/v1/instances/a:h:1", json=body) as answer:
            assert answer.status == 201
        assert "is in use by another process" in await why_not(path)


def test_a_file_that_may_not_be_written(tmp_path: Path) -> None:
    """Refused, with the reason; and so is a directory in which none can be made."""
    if not os.getuid() and shutil.which("setpriv") is None:
        pytest.skip("for root every file may be written, and setpriv (util-linux) is missing")
    unprivileged = [] if os.getuid() else ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--reuid=0"]
    path = tmp_path / "state.db"
    stateopen.connected(str(path))[0].close()
    path.chmod(0o444)
    tmp_path.chmod(0o555)
    script = "import sys; from luna_grpc import stateopen; stateopen.connected(sys.argv[1])"
    for each in (path, tmp_path / "new.db"):
        command = [*unprivileged, sys.executable, "-c", script, str(each)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent)
        assert f"the state file {each} cannot be opened and written" in done.stderr
    tmp_path.chmod(0o755)


def test_a_process_that_breaks_down_ends(path: Path) -> None:
    """Even if nobody closes the file."""
    script = (
        "import asyncio, sys\n"
        "from luna_grpc.statefile import StateFile\n"
        "async def main():\n"
        "    StateFile.open(sys.argv[1])\n"
        "    raise RuntimeError('broken down')\n"
        "asyncio.run(main())"
    )
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20, cwd=Path(__file__).parent.parent)
    assert done.returncode == 1
    assert "broken down" in done.stderr


async def test_no_thread_is_left_when_something_else_is_wrong(path: Path, tmp_path: Path) -> None:
    """A process that cannot start for another reason does end."""
    users = tmp_path / "users.toml"
    users.write_text("nonsense")
    users.chmod(0o600)
    code, lines = await refused("--state-file", str(path), "--users-file", str(users), "--port", "0", "--grpc-port", "0")
    assert (code, len(lines)) == (1, 1), lines
    async with luna() as other:
        port = other.rest.rpartition(":")[2]
        code, lines = await refused("--state-file", str(path), "--port", port, "--grpc-port", "0")
        assert code == 1
        assert port in lines[-1]
    assert await opened(path) == {}


def test_a_place_where_no_file_can_be_is_said(tmp_path: Path) -> None:
    """A directory that is not there, with the command that makes it; and a directory given as the file."""
    path = tmp_path / "none" / "state.db"
    with pytest.raises(StateFileError, match=f"mkdir -p {path.parent}"):
        stateopen.connected(str(path))
    with pytest.raises(StateFileError, match=f"is a directory: name a file in it, for example {tmp_path}/state.db"):
        stateopen.connected(str(tmp_path))
