"""What the person says who runs a registry: settings, and the users file."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from argon2 import PasswordHasher
from hypothesis import given
from hypothesis import strategies as st
from said import ANY_TEXT, SENDABLE

from luna_grpc import users
from luna_grpc.access import Role, User
from luna_grpc.auth import Account
from luna_grpc.config import ConfigError, Settings, flag, load, variable, warnings

# What the environment and a command line can hold.
VALUES = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    st.binary().map(lambda value: value.replace(b"\0", b"").decode("utf-8", "surrogateescape")),
    st.sampled_from(
        ["0", "1", "-1", "1e3", "nan", "inf", "1_0", " 5 ", "0x10", "true", "info", "127.0.0.1", "tcp://10.0.0.1:4000"]
    ),
    st.floats().map(str),
    st.integers().map(str),
)


@pytest.fixture(scope="module")
def environment() -> Iterator[pytest.MonkeyPatch]:
    """Return the environment, without settings of the machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields:
            patch.delenv(variable(name), raising=False)
        yield patch


@pytest.mark.parametrize("name", Settings.model_fields)
@given(value=VALUES)
def test_a_setting_is_taken_or_named(environment: pytest.MonkeyPatch, name: str, value: str) -> None:
    """The same as a flag and as a variable; an error is one line that names both, or the rule about open doors."""
    by_flag = outcome(name, {name: value})
    environment.setenv(variable(name), value)
    by_variable = outcome(name, {})
    environment.delenv(variable(name))
    if value and not value.startswith("tcp://"):
        assert by_variable == by_flag
    taken, what = by_flag
    if taken:
        assert outcome(name, {name: what}) == by_flag


def outcome(name: str, flags: dict[str, object]) -> tuple[bool, object]:
    """Return whether settings are taken, and what is taken for one of them, or how it is refused."""
    try:
        return True, getattr(load(flags), name)
    except ConfigError as error:
        [line] = str(error).splitlines()
        assert line.isprintable()
        wrong, missing = f"{flag(name)} / {variable(name)}: ", r"--tls-\w+ / LUNA_TLS_\w+ is missing: "
        assert line.startswith((wrong, "the password is empty, and others can reach ")) or re.match(missing, line)
        return False, line


@given(st.dictionaries(st.text(alphabet="LUNA_PORTGCKEY").map("LUNA_".__add__), VALUES, max_size=3))
def test_any_environment_has_its_warnings(given_there: dict[str, str]) -> None:
    """One line for each variable at most."""
    assert len(list(warnings(given_there))) <= len(given_there)


# The users file

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
NAMES = st.text(st.characters(exclude_characters=":", exclude_categories=["C", "Z"]), min_size=1)
PREFIXES = st.lists(NAMES, max_size=3)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return where a users file can be; hashing costs next to nothing meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(users, "PasswordHasher", lambda: CHEAP)
        yield tmp_path_factory.mktemp("users") / "users.toml"


@given(name=NAMES, other=NAMES, prefixes=PREFIXES, password=SENDABLE.filter(bool))
def test_a_user_that_was_added_is_read(path: Path, name: str, other: str, prefixes: list[str], password: str) -> None:
    """Whatever the name, the prefixes and the password are made of; the others in the file and its comments stay."""
    path.write_text("# Who may do what.\n")
    users.add(str(path), name, role=Role.WRITER, prefixes=prefixes, password=password)
    if other != name:
        users.add(str(path), other, role=Role.READER, prefixes=(), password="x")
    accounts = users.read(str(path))
    assert (accounts[name].user.role, accounts[name].user.prefixes) == (Role.WRITER, tuple(prefixes))
    assert set(accounts) == {name, other}
    assert CHEAP.verify(accounts[name].hash, password)
    users.remove(str(path), name)
    assert set(users.read(str(path))) == {other} - {name}
    assert path.read_text().startswith("# Who may do what.\n")


@given(st.one_of(ANY_TEXT, st.text(min_size=1020, max_size=1030)), ANY_TEXT, st.lists(ANY_TEXT, max_size=2), st.sampled_from(Role))
def test_a_user_is_added_or_refused(path: Path, password: str, name: str, prefixes: list[str], role: Role) -> None:
    """A refusal is one line, and leaves the file as it is."""
    path.unlink(missing_ok=True)
    try:
        users.add(str(path), name, role=role, prefixes=prefixes, password=password)
    except users.UsersFileError as error:
        assert str(error).isprintable()
        assert not path.exists()
    else:
        assert users.read(str(path))[name].user == User(name, role, tuple(prefixes))
        assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) in ([], [path])


TOML = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.datetimes(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)
    ),
    max_leaves=5,
)
HASH = CHEAP.hash("x")


def entries() -> st.SearchStrategy[dict[str, Any]]:
    """Return users of which some are odd."""
    good: dict[str, Any] = {"role": "writer", "hash": HASH, "prefixes": ["a"]}
    odd = st.builds(lambda field, value: good | {field: value}, st.sampled_from(["role", "hash", "prefixes", "x"]), TOML)
    lacking = st.sampled_from(["role", "hash", "prefixes"]).map(lambda field: {key: good[key] for key in good if key != field})
    return st.dictionaries(st.one_of(NAMES, st.text(alphabet=":\n x")), st.one_of(st.just(good), odd, lacking, TOML), max_size=2)


@given(
    content=st.one_of(
        st.binary(),
        ANY_TEXT.map(lambda text: text.encode(errors="replace")),
        entries().map(lambda each: tomlkit.dumps(each).encode()),
    )
)
def test_any_file_is_read_or_refused(path: Path, content: bytes) -> None:
    """Never in part; the refusal is one line that names the file."""
    path.write_bytes(content)
    try:
        accounts = users.read(str(path))
    except users.UsersFileError as error:
        assert str(path) in str(error)
        assert str(error).isprintable()
    else:
        assert set(accounts) == set(tomllib.loads(content.decode()))
        assert all(isinstance(account, Account) and account.user.name == name for name, account in accounts.items())
