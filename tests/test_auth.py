"""Whose credentials these are, and what it takes to find out."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

from luna_grpc import auth
from luna_grpc.access import Role, User
from luna_grpc.auth import Account, Authenticator
from luna_grpc.errors import ResourceExhaustedError, UnauthenticatedError
from luna_grpc.throttle import Throttle
from support import basic

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
HERE = "10.0.0.7"


class Hasher:
    """The real one, at next to no cost; it counts, and can be held up."""

    def __init__(self) -> None:
        self.checked: list[str] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def hash(self, password: str) -> str:
        return CHEAP.hash(password)

    def verify(self, hash_: str, password: bytes) -> bool:
        self.checked.append(hash_)
        assert self.go_on.wait(10)
        return CHEAP.verify(hash_, password)


def account(name: str, password: str, role: Role = Role.WRITER, prefixes: tuple[str, ...] = ()) -> Account:
    """Return a user as the users file has it."""
    return Account(User(name, role, prefixes), CHEAP.hash(password))


ACCOUNTS = {"alice": account("alice", "a"), "bob": account("bob", "b", Role.READER)}


@pytest.fixture
def hasher(monkeypatch: pytest.MonkeyPatch) -> Hasher:
    """Let authenticators use a hasher that counts."""
    hasher = Hasher()
    monkeypatch.setattr(auth, "PasswordHasher", lambda: hasher)
    return hasher


@pytest.fixture
def authenticator(hasher: Hasher) -> Iterator[Authenticator]:
    """Return one that knows alice and bob, and admin with the password `secret`."""
    authenticator = Authenticator("admin", "secret", ACCOUNTS, throttle=Throttle(10, lambda: 0.0))
    yield authenticator
    hasher.go_on.set()
    authenticator.close()


async def refused(authenticator: Authenticator, header: str | None, address: str = HERE) -> str:
    """Return the words of a refusal."""
    with pytest.raises(UnauthenticatedError) as caught:
        await authenticator.verified(header, address)
    return caught.value.message


async def test_each_user_is_known_by_name_and_password(authenticator: Authenticator) -> None:
    """The one of the settings is an admin; the others are what their file says."""
    assert (await authenticator.verified(basic("admin", "secret"), HERE)).role is Role.ADMIN
    assert await authenticator.verified(basic("alice", "a"), HERE) is ACCOUNTS["alice"].user
    assert await authenticator.verified(basic("bob", "b"), HERE) is ACCOUNTS["bob"].user
    wrong = {
        await refused(authenticator, basic(name, password)) for name, password in [("alice", "b"), ("eve", "a"), ("admin", "")]
    }
    assert wrong == {"the user name or the password is wrong"}
    assert "no credentials were sent" in await refused(authenticator, None)
    assert authenticator.failures == 3


async def test_without_a_password_there_is_no_user_of_the_settings(hasher: Hasher) -> None:
    """A users file with nobody's password beside it lets nobody in with an empty one."""
    authenticator = Authenticator("admin", None, ACCOUNTS)
    for password in ("", "None", "secret"):
        await refused(authenticator, basic("admin", password))
    assert hasher.checked == [authenticator._unknown_hash] * 3
    authenticator.close()


async def test_what_was_right_is_hashed_once(authenticator: Authenticator, hasher: Hasher) -> None:
    """From then on it is known at once; what was wrong is hashed each time."""
    header = basic("alice", "a")
    assert authenticator.known(header) is None
    await authenticator.verified(header, HERE)
    assert authenticator.known(header) is ACCOUNTS["alice"].user
    for _ in range(3):
        await authenticator.verified(header, HERE)
    assert len(hasher.checked) == 1
    for _ in range(3):
        await refused(authenticator, basic("alice", "x"))
    assert len(hasher.checked) == 4


async def test_credentials_are_not_kept_in_clear(authenticator: Authenticator) -> None:
    """What is remembered is a keyed digest, with another key in each process."""
    await authenticator.verified(basic("alice", "a"), HERE)
    [digest] = authenticator._remembered
    other = Authenticator("admin", "secret")
    assert len(digest) == 32
    assert other._digest(basic("alice", "a").encode()) != digest


async def test_an_unknown_user_costs_as_much_as_a_known_one(authenticator: Authenticator, hasher: Hasher) -> None:
    """Both are hashed, with the same parameters, so that the time taken tells nobody who there is."""
    await refused(authenticator, basic("alice", "x"))
    await refused(authenticator, basic("eve", "x"))
    assert hasher.checked == [ACCOUNTS["alice"].hash, authenticator._unknown_hash]
    assert hasher.checked[0].rpartition("$")[0].rpartition("$")[0] == hasher.checked[1].rpartition("$")[0].rpartition("$")[0]


async def test_the_same_credentials_from_many_at_once_are_hashed_once(authenticator: Authenticator, hasher: Hasher) -> None:
    """And are one attempt: after a restart all clients behind one address come at the same moment."""
    hasher.go_on.clear()
    logins = [asyncio.create_task(authenticator.verified(basic("alice", "a"), HERE)) for _ in range(500)]
    await asyncio.sleep(0)
    hasher.go_on.set()
    assert {user.name for user in await asyncio.gather(*logins)} == {"alice"}
    assert len(hasher.checked) == 1
    guesses = [asyncio.create_task(authenticator.verified(basic("alice", "x"), HERE)) for _ in range(500)]
    assert {type(each) for each in await asyncio.gather(*guesses, return_exceptions=True)} == {UnauthenticatedError}
    assert len(hasher.checked) == 2


async def test_a_client_that_leaves_stops_nobody_elses_check(authenticator: Authenticator, hasher: Hasher) -> None:
    """The hash goes on for those who still wait, and is remembered."""
    hasher.go_on.clear()
    first, second = (asyncio.create_task(authenticator.verified(basic("alice", "a"), HERE)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    hasher.go_on.set()
    assert (await second).name == "alice"
    assert len(hasher.checked) == 1


async def test_only_so_many_logins_are_checked_at_a_time(hasher: Hasher) -> None:
    """Further ones are refused for now, but for those that are known already."""
    authenticator = Authenticator("admin", "secret", ACCOUNTS, throttle=Throttle(0))
    await authenticator.verified(basic("bob", "b"), HERE)
    hasher.go_on.clear()
    waiting = [asyncio.create_task(refused(authenticator, basic("eve", str(n)))) for n in range(auth.MAX_CHECKING)]
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhaustedError) as caught:
        await authenticator.verified(basic("alice", "a"), HERE)
    assert caught.value.retry_after == 1
    assert (await authenticator.verified(basic("bob", "b"), HERE)).name == "bob"
    assert (await authenticator.verified(basic("admin", "secret"), HERE)).name == "admin"
    hasher.go_on.set()
    await asyncio.gather(*waiting)
    assert (await authenticator.verified(basic("alice", "a"), HERE)).name == "alice"
    authenticator.close()


async def test_a_guesser_is_slowed_down_and_those_who_are_known_are_not(authenticator: Authenticator, hasher: Hasher) -> None:
    """Though they share an address. Whoever is right but not known yet has to wait there like the guesser, and not elsewhere."""
    await authenticator.verified(basic("alice", "a"), HERE)
    for guess in range(10):
        await refused(authenticator, basic("bob", str(guess)))
    hashed = len(hasher.checked)
    with pytest.raises(ResourceExhaustedError) as caught:
        await authenticator.verified(basic("bob", "b"), HERE)
    assert caught.value.retry_after == 1
    assert len(hasher.checked) == hashed  # it was not even looked at
    assert (await authenticator.verified(basic("alice", "a"), HERE)).name == "alice"
    assert (await authenticator.verified(basic("admin", "secret"), HERE)).name == "admin"
    assert (await authenticator.verified(basic("bob", "b"), "10.0.0.8")).name == "bob"
    assert (await authenticator.verified(basic("bob", "b"), HERE)).name == "bob"  # known from now on


async def test_only_so_many_credentials_are_remembered(authenticator: Authenticator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are forgotten first, and hashed again."""
    monkeypatch.setattr(auth, "MAX_REMEMBERED", 1)
    await authenticator.verified(basic("alice", "a"), HERE)
    await authenticator.verified(basic("bob", "b"), HERE)
    assert authenticator.known(basic("alice", "a")) is None
    assert authenticator.known(basic("bob", "b")) is not None


# Reloading


async def test_who_has_changed_has_to_prove_it_anew(authenticator: Authenticator) -> None:
    """A new password, role or prefix, or no place in the file any more; whoever is the same stays known and current."""
    users = {name: await authenticator.verified(basic(name, name[0]), HERE) for name in ("alice", "bob")}
    told: list[bool] = []
    authenticator.observe(lambda: told.append(authenticator.is_current(users["alice"])))
    authenticator.replace({"alice": account("alice", "new"), "bob": Account(*ACCOUNTS["bob"])})
    assert told == [False]
    assert authenticator.is_current(users["bob"])
    assert authenticator.known(basic("bob", "b")) is users["bob"]
    assert authenticator.known(basic("alice", "a")) is None
    await refused(authenticator, basic("alice", "a"))
    assert (await authenticator.verified(basic("alice", "new"), HERE)).name == "alice"
    authenticator.replace({"alice": ACCOUNTS["alice"]})
    assert not authenticator.is_current(users["bob"])
    await refused(authenticator, basic("bob", "b"))
    await refused(authenticator, basic("alice", "new"))


@pytest.mark.parametrize("user", [User("alice", Role.READER), User("alice", Role.WRITER, ("orders",)), User("alicia", Role.WRITER)])
async def test_another_role_or_prefix_is_another_user(authenticator: Authenticator, user: User) -> None:
    """Though the password is the same: what was remembered would let the old rights live on."""
    was = await authenticator.verified(basic("alice", "a"), HERE)
    authenticator.replace({user.name: Account(user, ACCOUNTS["alice"].hash)})
    assert not authenticator.is_current(was)
    assert authenticator.known(basic("alice", "a")) is None
    assert await authenticator.verified(basic(user.name, "a"), HERE) is user


async def test_a_check_under_way_does_not_bring_back_who_was_removed(authenticator: Authenticator, hasher: Hasher) -> None:
    """The users count as they are when the hash is done."""
    hasher.go_on.clear()
    login = asyncio.create_task(refused(authenticator, basic("alice", "a")))
    await asyncio.sleep(0)
    authenticator.replace({})
    hasher.go_on.set()
    await login
    assert authenticator.known(basic("alice", "a")) is None


async def test_the_user_of_the_settings_is_always_current(authenticator: Authenticator) -> None:
    """The file does not speak of it."""
    user = await authenticator.verified(basic("admin", "secret"), HERE)
    authenticator.replace({})
    assert authenticator.is_current(user)
    assert authenticator.known(basic("admin", "secret")) is user


def test_argon2_tells_wrong_from_right() -> None:
    """The hashes of these tests are real ones, if cheap."""
    with pytest.raises(VerifyMismatchError):
        CHEAP.verify(ACCOUNTS["alice"].hash, "b")


@pytest.mark.parametrize("spelling", ["basic {}", "BASIC   {}", " Basic {} "])
async def test_another_spelling_of_right_credentials_is_no_guess(
    authenticator: Authenticator, hasher: Hasher, spelling: str
) -> None:
    """Once the usual one is known, wrong guesses of others at the same address keep nobody out."""
    await authenticator.verified(basic("alice", "a"), HERE)
    hashed = len(hasher.checked)
    for number in range(10):
        await refused(authenticator, basic("alice", f"guess {number}"))
    encoded = basic("alice", "a").removeprefix("Basic ")
    assert (await authenticator.verified(spelling.format(encoded), HERE)).name == "alice"
    assert len(hasher.checked) == hashed + 10
