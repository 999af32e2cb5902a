"""The users file: who there is, with which role. TOML, written by `luna user`, read at the start and on SIGHUP.

[alice]
role = "writer"
prefixes = ["orders", "billing-"]
hash = "$argon2id$v=19$m=65536,t=3,p=4$..."
"""

import os
import stat
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import tomlkit
from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import InvalidHashError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from tomlkit.exceptions import TOMLKitError

from luna_grpc.access import Role, User
from luna_grpc.auth import Account
from luna_grpc.config import in_words

MAX_PASSWORD: Final = 1024
"""Characters."""
MAX_NAME: Final = 128
"""Characters."""
_PRIVATE: Final = 0o600


class UsersFileError(Exception):
    """The file cannot be used; the message says why and what to do."""


class _Entry(BaseModel):
    """One user, as the file has it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)

    role: Role
    prefixes: tuple[str, ...] = ()
    hash: str = Field(min_length=1)

    @field_validator("hash")
    @classmethod
    def _argon2(cls, value: str) -> str:
        try:
            extract_parameters(value)
        except InvalidHashError:
            raise ValueError("it is no argon2 hash; `luna user add` makes one") from None
        return value

    @field_validator("prefixes")
    @classmethod
    def _names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(prefix.isprintable() and prefix and ":" not in prefix for prefix in value):
            raise ValueError("a prefix is the beginning of a service's name: printable, not empty, and without a colon")
        return value

    @model_validator(mode="after")
    def _writers_only(self) -> "_Entry":
        if self.prefixes and self.role is not Role.WRITER:
            raise ValueError("only a writer can have prefixes")
        return self


def read(path: str) -> dict[str, Account]:
    """Return the users of a file by their names.

    Raises:
        UsersFileError: it cannot be read, or an entry is wrong.

    """
    _check_no_directory(path)
    try:
        entries = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsersFileError(
            f"the users file {path} cannot be read ({_why(error)}): make one with luna user add NAME --file {path}"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise UsersFileError(f"the users file {path} is not TOML: {error}") from None
    return {name: _account(path, name, entry) for name, entry in entries.items()}


def readable_by_others(path: str) -> bool:
    """Whether other users of the machine can read a file; False when it is not there."""
    return Path(path).exists() and bool(Path(path).stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))


def add(path: str, name: str, *, role: Role, prefixes: Sequence[str], password: str, replace: bool = False) -> None:
    """Write a user into a file; make the file if it is not there.

    Raises:
        UsersFileError: the file or what is said of the user is wrong, or there is such a user and `replace` is not set.

    """
    check_name(name)
    if not 0 < len(password) <= MAX_PASSWORD or not _is_text(password):
        raise UsersFileError(f"the password must have 1 to {MAX_PASSWORD} characters, and be text in UTF-8")
    document = _document(path, missing_ok=True)
    if name in document and not replace:
        raise UsersFileError(f"{path} has a user {name!r} already: replace it with --replace")
    entry: dict[str, object] = {"role": role.value, "hash": PasswordHasher().hash(password)}
    if prefixes:
        entry["prefixes"] = list(prefixes)
    _account(path, name, entry)
    document[name] = entry
    _write(path, document)


def remove(path: str, name: str) -> None:
    """Take a user out of a file.

    Raises:
        UsersFileError: the file is wrong or has no such user.

    """
    document = _document(path)
    if name not in document:
        raise UsersFileError(f"{path} has no user {name!r}; it has: {', '.join(document) or 'none'}")
    del document[name]
    _write(path, document)


def check_name(name: str) -> None:
    """Let pass what Basic auth can carry as a user name.

    Raises:
        UsersFileError: it cannot.

    """
    if len(name) > MAX_NAME:
        raise UsersFileError(f"the user name has {len(name)} characters; at most {MAX_NAME} are allowed")
    if not name:
        raise UsersFileError("the user name is empty: give the user a name")
    if ":" in name:
        raise UsersFileError(f"the user name {name!r} holds a colon, which Basic auth does not allow: leave it out")
    if not name.isprintable():
        raise UsersFileError(f"the user name {name!r} holds characters that cannot be shown: leave them out")


def _account(path: str, name: str, entry: object) -> Account:
    try:
        check_name(name)
    except UsersFileError as error:
        raise UsersFileError(f"the users file {path}: {error}") from None
    if not isinstance(entry, dict):
        raise UsersFileError(f"the users file {path}: {name!r} stands outside of a table; a user begins with a line [NAME]")
    try:
        said = _Entry.model_validate(entry)
    except ValidationError as error:
        wrong = error.errors()[0]
        where = "".join(f", {part}" for part in wrong["loc"][:1])
        raise UsersFileError(f"the users file {path}, user {name!r}{where}: {in_words(wrong)}") from None
    return Account(User(name, said.role, said.prefixes), said.hash)


def _document(path: str, *, missing_ok: bool = False) -> tomlkit.TOMLDocument:
    _check_no_directory(path)
    try:
        return tomlkit.parse(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if missing_ok:
            return tomlkit.document()
        raise UsersFileError(f"the users file {path} is not there: make one with luna user add NAME --file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsersFileError(f"the users file {path} cannot be read ({_why(error)})") from None
    except TOMLKitError as error:
        raise UsersFileError(f"the users file {path} is not TOML: {error}") from None


def _check_no_directory(path: str) -> None:
    if Path(path).is_dir():
        raise UsersFileError(f"the users file {path} is a directory: name a file in it, for example {Path(path) / 'users.toml'}")


def _write(path: str, document: tomlkit.TOMLDocument) -> None:
    """Write the whole file or nothing of it; only its owner can read a new one."""
    target = Path(path)
    if not target.parent.exists():
        raise UsersFileError(f"the users file {path} cannot be made, its directory does not exist: mkdir -p {target.parent}")
    try:
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else _PRIVATE
        with tempfile.NamedTemporaryFile("w", dir=target.parent, prefix=f".{target.name}.", encoding="utf-8", delete=False) as file:
            draft = Path(file.name)
            try:
                file.write(tomlkit.dumps(document))
                file.flush()
                os.fsync(file.fileno())
                draft.chmod(mode)
                draft.replace(target)
            finally:
                draft.unlink(missing_ok=True)
    except OSError as error:
        raise UsersFileError(f"the users file {path} cannot be written ({_why(error)})") from None


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or "it is not text in UTF-8"
