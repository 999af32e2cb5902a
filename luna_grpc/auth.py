"""Basic auth (RFC 7617) and client certificates, the same for both doors: whose credentials are these?

Checking a password against an argon2 hash takes tens of milliseconds and 64 MB, on purpose. So it is done in one thread beside the
loop, once for each pair of credentials: what was right is remembered under an HMAC with a key that lives as long as the process.
Only credentials that are not remembered count as a login attempt, and only those are slowed down; see `luna_grpc.throttle`.
"""

import asyncio
import base64
import binascii
import hmac
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from luna_grpc.access import Role, User
from luna_grpc.errors import NoCredentialsError, ResourceExhaustedError, UnauthenticatedError
from luna_grpc.logs import FailedLogins
from luna_grpc.model import shown
from luna_grpc.throttle import Throttle

CHALLENGE: Final = 'Basic realm="Luna", charset="UTF-8"'
"""The value of `WWW-Authenticate` that goes with a refusal."""
MAX_REMEMBERED: Final = 10_000
"""The most credentials that are remembered."""
MAX_CHECKING: Final = 100
"""The most credentials that wait to be checked; more are refused for now."""
MAX_HEADER: Final = 4096
"""Characters; longer credentials are nobody's."""

_REFUSAL: Final = "the user name or the password is wrong"


class Account(NamedTuple):
    """A user, and what the password hashes to."""

    user: User
    hash: str
    """As argon2 writes it."""


class Authenticator:
    """Knows the users, and who has proved to be one."""

    def __init__(
        self,
        username: str,
        password: str | None,
        accounts: Mapping[str, Account] | None = None,
        *,
        throttle: Throttle | None = None,
    ) -> None:
        """`password` None: there are only `accounts`; or, without those too, a user `username` known by certificate alone."""
        self._simple = None if password is None and accounts is not None else User(username, Role.ADMIN)
        self._simple_header: bytes | None = None
        if password is not None:
            # What nearly every client sends, letter by letter: compared before anything is parsed.
            self._simple_header = b"Basic " + base64.b64encode(f"{username}:{password}".encode())
            self._simple_pair = (username.encode(), password.encode())
        self._accounts: dict[str, Account] = dict(accounts or {})
        self._throttle = throttle or Throttle()
        self._key = secrets.token_bytes(32)
        self._remembered: dict[bytes, Account] = {}
        self._checking: dict[bytes, asyncio.Future[Account | None]] = {}
        self._hasher = PasswordHasher()
        self._unknown_hash = self._hasher.hash(secrets.token_urlsafe()) if accounts is not None else ""
        self._executor = ThreadPoolExecutor(1, "luna-argon2") if accounts is not None else None
        self._observers: list[Callable[[], None]] = []
        self._failed_logins = FailedLogins()
        self.failures = 0
        """How many login attempts had wrong credentials."""

    @property
    def throttled(self) -> int:
        """How many login attempts were not even looked at."""
        return self._throttle.refusals

    def known(self, authorization: str | None) -> User | None:
        """Return whose credentials a header carries, when that is known without any work."""
        if authorization is None:
            return None
        header = authorization.encode(errors="surrogateescape")
        if self._simple_header is not None and hmac.compare_digest(header, self._simple_header):
            return self._simple
        if not self._remembered:
            return None
        account = self._remembered.get(self._digest(header))
        if account is None or self._accounts.get(account.user.name) is not account:
            return None
        return account.user

    async def verified(self, authorization: str | None, address: str) -> User:
        """Return whose credentials a header carries, whatever it takes to find out.

        `address` is where the attempt comes from.

        Raises:
            ResourceExhaustedError: too many wrong ones came from there, or too many wait to be checked.
            UnauthenticatedError: there is no header, it is not Basic auth, or the credentials are wrong.

        """
        if authorization is None:
            raise NoCredentialsError("no credentials were sent: use Basic auth")
        header = _usual(authorization)
        user = self.known(header.decode(errors="surrogateescape"))
        if user is not None:
            return user
        # What is being checked for another client already is not one more guess: after a restart many come with the same.
        attempt = self._digest(header) not in self._checking
        if attempt:
            self._throttle.begin(address)
        user = await self._found(header)
        if user is None:
            self.failures += 1
            self._failed_logins(address, self._named(authorization), self.failures)
            raise UnauthenticatedError(_REFUSAL)
        if attempt:
            self._throttle.succeeded(address)
        return user

    def certified(self, names: Sequence[str]) -> User:
        """Return the user that a client certificate stands for: the first of its names that a user has.

        To be asked when no credentials were sent, for those count instead.

        Raises:
            UnauthenticatedError: none of them is a user's.

        """
        for name in names:
            if name in self._accounts:
                return self._accounts[name].user
            if self._simple is not None and name == self._simple.name:
                return self._simple
        raise UnauthenticatedError(
            f"no credentials were sent, and none of the client certificate's names is a user's ({shown(', '.join(names))}): send "
            "Basic auth, or have a user of such a name added"
        )

    # Reloading

    def replace(self, accounts: Mapping[str, Account]) -> None:
        """Know these users from now on; those that are still the same stay known, and the others have to prove themselves anew."""
        self._accounts = {name: was if (was := self._accounts.get(name)) == now else now for name, now in accounts.items()}
        for observer in self._observers:
            observer()

    def observe(self, observer: Callable[[], None]) -> None:
        """Call `observer` after each `replace`."""
        self._observers.append(observer)

    def is_current(self, user: User) -> bool:
        """Whether a user still is who it was when the credentials were checked."""
        account = self._accounts.get(user.name)
        return user is self._simple or (account is not None and account.user is user)

    def close(self) -> None:
        """Let go of the thread."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    # How it is found out

    def _named(self, authorization: str) -> str | None:
        """Return the user name in a header, when there is a user of that name."""
        pair = _pair(authorization.encode(errors="surrogateescape"))
        name = pair[0].decode(errors="replace") if pair else ""
        known = name in self._accounts or (self._simple is not None and name == self._simple.name)
        return name if known else None

    async def _found(self, header: bytes) -> User | None:
        pair = _pair(header)
        if pair is None:
            return None
        if self._simple_header is not None and _same(pair, self._simple_pair):
            return self._simple
        account = await self._checked(header, pair)
        # While it was checked, the users may have been replaced.
        return account.user if account and self._accounts.get(account.user.name) is account else None

    async def _checked(self, header: bytes, pair: tuple[bytes, bytes]) -> Account | None:
        """Check a password; the same credentials from many clients at once are checked once."""
        if self._executor is None:
            return None
        digest = self._digest(header)
        checking = self._checking.get(digest)
        if checking is None:
            if len(self._checking) >= MAX_CHECKING:
                raise ResourceExhaustedError("too many logins are being checked; try again in a second", retry_after=1)
            account = self._accounts.get(pair[0].decode(errors="replace"))
            work = asyncio.get_running_loop().run_in_executor(self._executor, self._matches, account, pair[1])
            checking = self._checking[digest] = asyncio.ensure_future(self._remember(digest, account, work))
        return await asyncio.shield(checking)

    async def _remember(self, digest: bytes, account: Account | None, work: "asyncio.Future[bool]") -> Account | None:
        try:
            if not await work or account is None:
                return None
        finally:
            del self._checking[digest]
        if len(self._remembered) >= MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[digest] = account
        return account

    def _matches(self, account: Account | None, password: bytes) -> bool:
        """Check against some hash in any case, so that the time taken does not tell which users there are."""
        try:
            return self._hasher.verify(account.hash if account else self._unknown_hash, password) and account is not None
        except (Argon2Error, InvalidHashError):
            return False

    def _digest(self, header: bytes) -> bytes:
        return hmac.digest(self._key, header, "sha256")


def _pair(header: bytes) -> tuple[bytes, bytes] | None:
    """Return the user name and the password in a header."""
    scheme, _, encoded = header.strip().partition(b" ")
    if scheme.lower() != b"basic" or len(encoded) > MAX_HEADER:
        return None
    try:
        username, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except binascii.Error:
        return None
    return (username, password) if colon else None


def _usual(authorization: str) -> bytes:
    """Return a header as nearly every client spells it: who writes "basic" or more spaces is known all the same."""
    header = authorization.encode(errors="surrogateescape")
    pair = _pair(header)
    return header if pair is None else b"Basic " + base64.b64encode(b":".join(pair))


def _same(one: tuple[bytes, bytes], other: tuple[bytes, bytes]) -> bool:
    # Both are always compared, so that the time taken does not tell which one was wrong.
    right_name = hmac.compare_digest(one[0], other[0])
    right_password = hmac.compare_digest(one[1], other[1])
    return right_name and right_password
