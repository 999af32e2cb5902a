"""The queue of deadlines."""

import weakref
from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from luna_grpc.leases import LeaseQueue


@dataclass(eq=False)
class Lease:
    """The least that the queue wants."""

    deadline: float
    live: bool = True
    entry: list[Any] | None = None


def test_what_has_run_out_is_due_once_soonest_first() -> None:
    """A lease that is due is not watched over any more."""
    queue: LeaseQueue[Lease] = LeaseQueue()
    late, soon = Lease(20), Lease(10)
    queue.add(late)
    queue.add(soon)
    assert queue.due(9.9, 10) == []
    assert queue.due(20, 10) == [soon, late]
    assert queue.due(99, 10) == []


def test_renewing_costs_the_queue_nothing_and_moves_the_moment() -> None:
    """The queue reads the deadline that the lease has by then."""
    queue: LeaseQueue[Lease] = LeaseQueue()
    lease = Lease(10)
    queue.add(lease)
    lease.deadline = 15
    assert queue.due(12, 10) == []
    assert queue.due(15, 10) == [lease]


def test_a_slice_looks_at_no_more_than_its_limit() -> None:
    """Also when most entries have been renewed."""
    queue: LeaseQueue[Lease] = LeaseQueue()
    leases = [Lease(number) for number in range(10)]
    for lease in leases:
        queue.add(lease)
    assert queue.due(100, 3) == leases[:3]
    leases[3].deadline = leases[4].deadline = 200
    assert queue.due(100, 3) == [leases[5]]
    assert queue.pending(100)


def test_an_ended_lease_is_forgotten_and_can_come_back() -> None:
    """It never has two entries."""
    queue: LeaseQueue[Lease] = LeaseQueue()
    lease = Lease(10)
    queue.add(lease)
    lease.live = False
    lease.live, lease.deadline = True, 30
    queue.add(lease)
    assert len(queue) == 1
    lease.live = False
    assert queue.due(50, 10) == []
    assert lease.entry is None
    lease.live, lease.deadline = True, 70
    queue.add(lease)
    assert queue.due(70, 10) == [lease]


def test_a_lease_that_is_replaced_is_held_on_to_no_longer() -> None:
    """Its successor is due at its own moment, be that later or earlier."""
    for moment in (5, 10, 15):
        queue: LeaseQueue[Lease] = LeaseQueue()
        old, new = Lease(10), Lease(moment)
        queue.add(old)
        gone = weakref.ref(old)
        queue.replace(old, new)
        assert old.entry is None
        del old
        assert gone() is None
        assert queue.due(moment - 0.1, 10) == []
        assert queue.due(moment, 10) == [new]
        assert queue.due(99, 10) == []
        assert len(queue) == 0


def test_a_forgotten_lease_is_not_held_on_to() -> None:
    """And is never due."""
    queue: LeaseQueue[Lease] = LeaseQueue()
    lease = Lease(10)
    queue.forget(lease)
    queue.add(lease)
    queue.forget(lease)
    gone = weakref.ref(lease)
    del lease
    assert gone() is None
    assert queue.due(99, 10) == []


def test_nothing_is_due_while_held() -> None:
    """A hold ends at its latest moment."""
    queue: LeaseQueue[Lease] = LeaseQueue()
    queue.add(Lease(10))
    queue.hold(50)
    queue.hold(40)
    assert queue.due(49.9, 10) == []
    assert not queue.pending(49.9)
    assert len(queue.due(50, 10)) == 1


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "renew", "end", "due"]), st.integers(0, 5), st.integers(0, 30), st.integers(1, 4)),
        max_size=60,
    )
)
def test_the_queue_agrees_with_looking_at_every_lease(steps: list[tuple[str, int, int, int]]) -> None:
    """Whatever is done to the leases, exactly those that ran out become due."""
    queue: LeaseQueue[Lease] = LeaseQueue()
    leases: dict[int, Lease] = {}
    now = 0.0
    for action, number, seconds, limit in steps:
        lease = leases.get(number)
        if action == "add" and lease is None:
            leases[number] = Lease(now + seconds)
            queue.add(leases[number])
        elif action == "renew" and lease is not None:
            lease.deadline = max(lease.deadline, now + seconds)
        elif action == "end" and lease is not None:
            lease.live = False
            del leases[number]
        elif action == "due":
            now += seconds
            due = []
            while queue.pending(now):
                due += queue.due(now, limit)
            expected = [lease for lease in leases.values() if lease.deadline <= now]
            assert sorted(map(id, due)) == sorted(map(id, expected))
            leases = {number: lease for number, lease in leases.items() if lease not in due}
