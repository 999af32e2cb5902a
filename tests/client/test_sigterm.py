"""SIGTERM and the registrations of a process, with the handler itself; test_registration.py has it with real processes."""

import signal
from collections.abc import Iterator

import pytest

from luna_grpc.client import AlreadyRegisteredError, Registration
from luna_grpc.client.runner import Pool
from luna_grpc.client.sigterm import SigtermHandler


@pytest.fixture
def ended() -> Iterator[list[str]]:
    """Return what was done, by a program with a handler of its own."""
    done: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda *_: done.append("before"))
    yield done
    signal.signal(signal.SIGTERM, before)


def handler(name: str, ended: list[str]) -> SigtermHandler:
    """Return one that says what it does."""
    return SigtermHandler(lambda: ended.append(f"{name} leaves"), lambda: ended.append(f"{name} has left"))


def test_all_leave_once_whatever_the_order_of_starting_and_stopping(ended: list[str]) -> None:
    """Installed twice, taken away in between and come back: each leaves once, and then what was there before is done once.

    They leave together, so that their drains do not add up.
    """
    one, two = handler("one", ended), handler("two", ended)
    one.install()
    one.install()
    two.install()
    one.uninstall()
    one.install()
    signal.raise_signal(signal.SIGTERM)
    assert ended == ["two leaves", "one leaves", "two has left", "one has left", "before"]
    one.uninstall()
    two.uninstall()
    signal.raise_signal(signal.SIGTERM)
    assert ended[5:] == ["before"]


def test_sigterm_while_a_registration_starts_is_that_of_the_program(ended: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to leave yet."""

    def add(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        raise AlreadyRegisteredError

    monkeypatch.setattr(Pool, "add", add)
    with pytest.raises(AlreadyRegisteredError):
        Registration("orders:localhost:8080", handle_sigterm=True).start()
    assert ended == ["before"]


def test_a_handler_that_was_installed_over_it_is_no_circle(ended: list[str]) -> None:
    """It calls ours, which has it as what was there before after another start."""
    one, two = handler("one", ended), handler("two", ended)
    one.install()
    ours = signal.getsignal(signal.SIGTERM)
    assert callable(ours)

    def theirs(number: int, _: object) -> None:
        ended.append("theirs")
        ours(number, None)

    signal.signal(signal.SIGTERM, theirs)
    two.install()
    signal.raise_signal(signal.SIGTERM)
    assert ended == ["one leaves", "two leaves", "one has left", "two has left", "theirs"]
    one.uninstall()
    two.uninstall()
