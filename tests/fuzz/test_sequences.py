"""Any sequence of operations, through both real doors, leads to what a small independent model says; see reference.py."""

import gc
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from doors import Doors
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import MALFORMED, Said

from luna_grpc import durable
from support import SOAK

EXAMPLES = 1000 if SOAK else 60


class Op(NamedTuple):
    """Something to ask for: a method of Doors, and what it is given."""

    what: str
    said: dict[str, Any]


def operations() -> st.SearchStrategy[list[Op]]:
    """Make sequences whose ids and streams meet again and again."""
    ids = st.sampled_from(["a:h:1", "a:h:1", "a:h:2", "a:h:2", "b:[::1]:80", MALFORMED])
    said = st.sampled_from([
        Said("a", "first"), Said("a", "second", weight=3, zone="eu"), Said("other", "third"), Said("b", "", "2", "https://h/x?y"),
    ])  # fmt: skip
    statuses = st.sampled_from(["OK", "OK", "DOWN"])
    generations = st.sampled_from(["none", "none", "current", "older", "newer"])
    maybe_said = st.one_of(st.none(), st.none(), said)
    slots = st.integers(0, 1)
    dying = st.sampled_from(["KEEP", "MARK_DOWN", "DEREGISTER"])
    owners = st.sampled_from(["", "", "one", "two"])
    beats = st.lists(st.tuples(ids, generations, st.sampled_from(["", "OK", "DOWN"]), maybe_said), max_size=3)

    def op(what: str, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Op]:
        return st.builds(Op, st.just(what), st.fixed_dictionaries(arguments))

    by_grpc = op("register", instance_id=ids, said=said, status=statuses, owner=owners, replace=st.booleans(), rest=st.just(False))
    by_rest = op("register", instance_id=ids, said=said, status=statuses, rest=st.just(True))
    return st.lists(
        st.one_of(
            by_grpc,
            by_rest,
            op("renew", instance_id=ids, generation=generations, status=st.sampled_from(["", "OK", "DOWN"]), said=maybe_said),
            op("put", instance_id=ids, status=statuses, said=maybe_said),
            op("deregister", instance_id=ids, generation=generations, rest=st.booleans()),
            op("drain", instance_id=ids, steps=st.integers(2, 20), rest=st.booleans()),
            op("undrain", instance_id=ids, rest=st.booleans()),
            op("open", slot=slots, on_disconnect=dying),
            op("say", slot=slots, beats=beats, bare=st.lists(ids, max_size=3)),
            op("say", slot=slots, beats=beats, bare=st.lists(ids, max_size=3)),
            op("half_close", slot=slots),
            op("break_off", slot=slots),
            op("wait", steps=st.integers(0, 8)),
            op("resume", watch=st.integers(0, 2)),
            op("restart"),
        ),
        min_size=8,
        max_size=30,
    )


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder for state files; what nobody waits for is written at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "SOON", 0.0)
        yield tmp_path_factory.mktemp("state")


numbers = count()


@pytest.mark.parametrize("kept", ["in memory", "in a state file"])
@settings(max_examples=EXAMPLES)
@given(sequence=operations())
async def test_any_sequence_of_operations(folder: Path, kept: str, sequence: list[Op]) -> None:
    """After each step both doors show what the model says, and every watch knows it; over restarts too."""
    number = next(numbers)
    if number % 100 == 0:  # what was frozen for one server is not to be kept for thousands that follow
        gc.unfreeze()
    async with Doors(str(folder / f"{number}.db") if kept == "in a state file" else "") as doors:
        await doors.agree()
        for operation in sequence:
            await getattr(doors, operation.what)(**operation.said)
            await doors.agree()
