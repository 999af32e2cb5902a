"""Drains: which there are, and which are over."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luna_grpc.drains import LONGEST, SPARE, Drains, checked
from luna_grpc.errors import InvalidArgumentError


@pytest.mark.parametrize("seconds", [0, 0.99, -1, LONGEST + 0.1, float("nan"), float("inf"), float("-inf")])
def test_no_time_for_a_drain(seconds: float) -> None:
    """It names the field, and how long a drain may last."""
    with pytest.raises(InvalidArgumentError, match=r"duration is .*30 days") as caught:
        checked(seconds)
    assert caught.value.field == "duration"


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.one_of(st.none(), st.integers(0, 9))), max_size=40), st.integers(1, 3))
def test_the_same_as_looking_at_all_of_them(steps: list[tuple[str, int | None]], limit: int) -> None:
    """Whatever is added (also again), removed (None) and over."""
    drains, known = Drains({"a": 5}), {"a": 5}
    for instance_id, until in steps:
        if until is None:
            drains.remove(instance_id)
            known.pop(instance_id, None)
        else:
            drains.add(instance_id, until)
            known[instance_id] = until
        assert dict(drains) == known
    for wall_ms in range(10):
        gone: list[str] = []
        while part := drains.over(wall_ms, limit):
            assert len(part) <= limit
            gone += part
        assert sorted(gone) == sorted(each for each, until in known.items() if until == wall_ms)
    assert len(drains) == 0


def test_new_ends_do_not_pile_up() -> None:
    """One that is drained again and again takes no more room."""
    drains = Drains()
    for until in range(10_000):
        drains.add("a:h:1", until)
    assert len(drains._queue) <= 2 + SPARE + 1
