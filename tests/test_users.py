"""The users file, and `luna user`, which writes it."""

import asyncio
import os
import pty
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from argon2 import PasswordHasher

from luna_grpc import users
from luna_grpc.access import Role, User
from luna_grpc.auth import Account
from support import clean_environment

HASH = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("secret")
GOOD = f'[alice]\nrole = "writer"\nprefixes = ["orders", "billing-"]\nhash = "{HASH}"\n\n[bob]\nrole = "reader"\nhash = "{HASH}"\n'


class Done(NamedTuple):
    """How a command ended."""

    code: int | None
    out: str
    err: str


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return where the users file is to be."""
    return tmp_path / "users.toml"


@pytest.fixture
def good_file(file: Path) -> Path:
    """Return a users file with alice and bob."""
    file.write_text(GOOD)
    return file


async def luna_user(*arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> Done:
    """Run `luna user` as people do."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "luna_grpc", "user", *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**clean_environment(), **(env or {})},
    )  # fmt: skip
    out, err = await process.communicate(stdin)
    assert b"Traceback" not in err
    return Done(process.returncode, out.decode(), err.decode())


# The file


def test_a_file_is_read(file: Path) -> None:
    """By name, with role, prefixes and hash."""
    file.write_text(GOOD)
    assert users.read(str(file)) == {
        "alice": Account(User("alice", Role.WRITER, ("orders", "billing-")), HASH),
        "bob": Account(User("bob", Role.READER), HASH),
    }
    file.write_text("")
    assert users.read(str(file)) == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff", "it is not text in UTF-8"),
        (b"[alice", "is not TOML"),
        (b'alice = "x"', "'alice' stands outside of a table; a user begins with a line [NAME]"),
        (b"[alice]\n", "user 'alice', role: Field required"),
        (GOOD.replace("writer", "boss").encode(), "user 'alice', role: Input should be 'reader', 'writer' or 'admin'"),
        (GOOD.replace(HASH, "secret").encode(), "user 'alice', hash: it is no argon2 hash; `luna user add` makes one"),
        (GOOD.replace('"orders"', '""').encode(), "user 'alice', prefixes: a prefix is the beginning of a service's name"),
        (GOOD.replace('"orders"', '"orders:h"').encode(), "a prefix is the beginning of a service's name"),
        (GOOD.replace("writer", "admin").encode(), "user 'alice': only a writer can have prefixes"),
        (GOOD.replace("hash", "password").encode(), "user 'alice', "),
        (GOOD.replace("[alice]", '["a:b"]').encode(), "the user name 'a:b' holds a colon"),
        (GOOD.replace("[bob]", "[alice]").encode(), "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused_as_a_whole(file: Path, content: bytes, words: str) -> None:
    """In one line that names the file and the user; half a file of users is none."""
    file.write_bytes(content)
    with pytest.raises(users.UsersFileError) as caught:
        users.read(str(file))
    assert str(file) in str(caught.value)
    assert words in str(caught.value)
    with pytest.raises(users.UsersFileError):
        users.read(str(file.parent))


def test_only_the_owner_reads_a_new_file(file: Path) -> None:
    """One that is there keeps its mode, its comments, and the others in it."""
    assert not users.readable_by_others(str(file))
    users.add(str(file), "alice", role=Role.WRITER, prefixes=["orders"], password="secret")
    assert file.stat().st_mode & 0o777 == 0o600
    assert not users.readable_by_others(str(file))
    file.write_text("# Ours.\n" + file.read_text())
    file.chmod(0o640)
    assert users.readable_by_others(str(file))
    users.add(str(file), "bob", role=Role.READER, prefixes=(), password="other")
    users.add(str(file), "alice", role=Role.ADMIN, prefixes=(), password="third", replace=True)
    assert file.stat().st_mode & 0o777 == 0o640
    assert file.read_text().startswith("# Ours.\n")
    accounts = users.read(str(file))
    assert {name: account.user.role for name, account in accounts.items()} == {"alice": Role.ADMIN, "bob": Role.READER}
    assert PasswordHasher().verify(accounts["alice"].hash, "third")


def test_a_refused_change_leaves_the_file_alone(file: Path) -> None:
    """Also when it cannot be written; no draft is left behind."""
    file.write_text(GOOD)
    path = str(file)
    changes: list[Callable[[], None]] = [
        lambda: users.add(path, "alice", role=Role.READER, prefixes=(), password="x"),
        lambda: users.add(path, "a:b", role=Role.READER, prefixes=(), password="x"),
        lambda: users.add(path, "carol", role=Role.READER, prefixes=["x"], password="x"),
        lambda: users.add(path, "carol", role=Role.READER, prefixes=(), password=""),
        lambda: users.add(path, "carol", role=Role.READER, prefixes=(), password="x" * 1025),
        lambda: users.remove(path, "carol"),
        lambda: users.add(str(file.parent / "none" / "users.toml"), "a", role=Role.READER, prefixes=(), password="x"),
    ]
    for change in changes:
        with pytest.raises(users.UsersFileError):
            change()
    assert file.read_text() == GOOD
    assert list(file.parent.iterdir()) == [file]


# The command line


async def test_users_are_added_listed_and_removed(file: Path) -> None:
    """The file by flag or by the variable of luna serve; passwords from standard input are not shown again."""
    where = {"LUNA_USERS_FILE": str(file)}
    added = await luna_user(
        "add", "ci", "--prefix", "orders", "--prefix", "billing-", "--password-stdin", stdin=b"s3cret-long\n", env=where
    )
    assert (added.code, added.err) == (0, "")
    assert added.out.startswith(f"ci is now a writer in {file}. A running registry reads the file again on SIGHUP")
    assert (await luna_user("add", "eyes", "--role", "reader", "--password-stdin", "--file", str(file), stdin=b"x\r\n")).code == 0
    listed = await luna_user("list", env=where)
    assert listed == Done(0, "ci\twriter\torders billing-\neyes\treader\n", "")
    assert "s3cret-long" not in added.out
    accounts = users.read(str(file))
    assert PasswordHasher().verify(accounts["ci"].hash, "s3cret-long")
    removed = await luna_user("remove", "ci", "--file", str(file))
    assert (removed.code, removed.err) == (0, "")
    assert set(users.read(str(file))) == {"eyes"}


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "words"),
    [
        (["add", "alice", "--password-stdin"], b"x\n", 1, "has a user 'alice' already: replace it with --replace"),
        (["add", "a:b", "--password-stdin"], b"x\n", 1, "the user name 'a:b' holds a colon"),
        (["add", "carol", "--password-stdin"], b"\n", 1, "the password must have 1 to 1024 characters"),
        (["add", "carol", "--password-stdin"], b"", 1, "the password must have 1 to 1024 characters"),
        (["add", "carol", "--password-stdin"], b"\xff\n", 1, "text in UTF-8"),
        (["add", "carol"], b"", 1, "there is no terminal to ask for the password on: use --password-stdin"),
        (["add", "carol", "--role", "reader", "--prefix", "x", "--password-stdin"], b"x\n", 1, "only a writer can have prefixes"),
        (
            ["add", "carol", "--role", "boss", "--password-stdin"],
            b"x\n",
            2,
            "': 'boss' is not one of 'reader', 'writer', 'admin'\n",
        ),
        (["remove", "carol"], b"", 1, "has no user 'carol'; it has: alice, bob"),
        (["remove"], b"", 2, "Missing argument"),
    ],
)
async def test_what_cannot_be_done_is_said_in_one_line(
    good_file: Path, arguments: list[str], stdin: bytes, code: int, words: str
) -> None:
    """1 when the file or what is said of a user is wrong, 2 when the command is; the file stays as it is."""
    done = await luna_user(*arguments, "--file", str(good_file), stdin=stdin)
    assert (done.code, done.out) == (code, "")
    assert words in done.err
    if code == 1:
        assert done.err.startswith("luna: ")
        assert done.err.count("\n") == 1
    assert set(users.read(str(good_file))) == {"alice", "bob"}


async def test_a_file_that_is_not_there(file: Path) -> None:
    """It is made by `add`; the others say so. No file named at all is a mistake in the command."""
    for command in (["list"], ["remove", "alice"]):
        done = await luna_user(*command, "--file", str(file))
        assert done.code == 1
        assert f"make one with luna user add NAME --file {file}" in done.err
    assert (await luna_user("list")).code == 2


async def test_a_terminal_is_asked_for_the_password_twice(file: Path) -> None:
    """And does not show it."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "luna_grpc", "user", "add", "alice", "--file", file,
        stdin=theirs, stdout=theirs, stderr=theirs, env=clean_environment(), start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    for question in (b"Password: ", b"Repeat for confirmation: "):
        while not shown.endswith(question):
            shown += await asyncio.wait_for(asyncio.to_thread(os.read, ours, 1024), 30)
        os.write(ours, b"s3cret\n")
    while b"alice is now a writer" not in shown:
        shown += await asyncio.wait_for(asyncio.to_thread(os.read, ours, 1024), 30)
    assert await process.wait() == 0
    os.close(ours)
    assert b"s3cret" not in shown
    assert PasswordHasher().verify(users.read(str(file))["alice"].hash, "s3cret")


@pytest.mark.parametrize("command", ["add", "remove", "list"])
async def test_each_command_has_an_example(command: str) -> None:
    """In its help."""
    done = await luna_user(command, "--help")
    assert done.code == 0
    assert f"Example: luna user {command}" in done.out


async def test_names_have_a_limit_and_weak_passwords_a_warning(file: Path) -> None:
    """A long name is refused; a short password is taken, and warned of on stderr."""
    refused = await luna_user("add", "a" * 129, "--password-stdin", "--file", str(file), stdin=b"long enough\n")
    assert (refused.code, refused.err) == (1, "luna: the user name has 129 characters; at most 128 are allowed\n")
    taken = await luna_user("add", "alice", "--password-stdin", "--file", str(file), stdin=b"seven77\n")
    assert (taken.code, "shorter than 8 characters" in taken.err) == (0, True)
    good = await luna_user("add", "bob", "--password-stdin", "--file", str(file), stdin=b"eight888\n")
    assert (good.code, good.err) == (0, "")


async def test_a_place_where_no_users_file_can_be_is_said(file: Path) -> None:
    """A directory that is not there, with the command that makes it; and a directory given as the file."""
    path = file.parent / "none" / "users.toml"
    missing = await luna_user("add", "bob", "--password-stdin", "--file", str(path), stdin=b"eight888\n")
    assert (missing.code, f"mkdir -p {path.parent}" in missing.err) == (1, True)
    for arguments in (["list"], ["remove", "bob"]):
        wrong = await luna_user(*arguments, "--file", str(file.parent))
        assert (wrong.code, f"is a directory: name a file in it, for example {file.parent}/users.toml" in wrong.err) == (1, True)
