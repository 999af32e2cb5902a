"""What is known of services, from messages that a test writes, and whose turn it is."""

import math
from collections import Counter
from random import Random

import pytest

from luna_grpc.client.catalogue import Catalogue, Instance, RoundRobin, instance
from luna_grpc.model import Status, StatusReason
from luna_grpc.v1 import registry_pb2 as pb


def message(*changes: str, reset: bool = False, synced: bool = False, token: str = "") -> pb.WatchServicesResponse:
    """Return a message; a change is `+orders:1` or `-orders:1`."""
    told = pb.WatchServicesResponse(reset=reset, synced=synced, resume_token=token)
    for change in changes:
        name, _, port = change[1:].partition(":")
        kind = pb.EVENT_TYPE_UPSERTED if change[0] == "+" else pb.EVENT_TYPE_REMOVED
        event = told.events.add(type=kind)
        event.instance.instance_id, event.instance.name = f"{name}:localhost:{port}", name
    return told


def ports(catalogue: Catalogue, name: str = "orders") -> list[str]:
    """Return what tells the instances of a service apart."""
    return [known.instance_id.rpartition(":")[2] for known in catalogue.instances(name)]


@pytest.fixture
def catalogue() -> Catalogue:
    """Return one that was told of two instances at token `a`."""
    catalogue = Catalogue([])
    catalogue.apply(message("+orders:1", reset=True))
    catalogue.apply(message("+orders:2", synced=True, token="a"))
    return catalogue


def test_a_snapshot_counts_when_it_is_complete() -> None:
    """Nobody is told a part of the truth."""
    catalogue = Catalogue(["orders"])
    assert catalogue.request() == pb.WatchServicesRequest(names=["orders"])
    catalogue.apply(message("+orders:1", reset=True))
    assert (ports(catalogue), catalogue.age(5)) == ([], math.inf)
    catalogue.apply(message("+orders:2", synced=True, token="a"))
    assert (ports(catalogue), catalogue.age(5)) == (["1", "2"], 0)
    assert catalogue.request().resume_token == "a"


def test_changes_count_at_once(catalogue: Catalogue) -> None:
    """Each moves the token on; a service goes with its last instance."""
    catalogue.apply(message("+orders:3", "-orders:1", token="b"))
    assert (ports(catalogue), catalogue.request().resume_token) == (["2", "3"], "b")
    catalogue.apply(message("-orders:2", "-orders:3", "-orders:9", "-none:1", token="c"))
    assert (ports(catalogue), catalogue.services()) == ([], ())


def test_the_last_list_is_kept_while_the_registry_is_away(catalogue: Catalogue) -> None:
    """With its age, from the end of the connection until it is complete again."""
    catalogue.lost(100)
    catalogue.lost(105)  # another try that failed
    assert (ports(catalogue), catalogue.age(107)) == (["1", "2"], 7)
    catalogue.apply(message("+orders:3"))  # what was missed
    assert (ports(catalogue), catalogue.age(108)) == (["1", "2", "3"], 8)
    catalogue.apply(message(synced=True, token="b"))
    assert catalogue.age(109) == 0


def test_names_that_nobody_has_take_nothing(catalogue: Catalogue) -> None:
    """They may come from whoever asks a program."""
    assert [catalogue.instances(f"none-{number}") for number in range(100)] == [()] * 100
    assert len(catalogue._lists) == 0


def test_another_snapshot_replaces_the_list_at_its_end(catalogue: Catalogue) -> None:
    """Whatever it did not name is gone then, and not before."""
    catalogue.lost(100)
    catalogue.apply(message("+orders:2", "+bills:1", reset=True))
    assert (ports(catalogue), catalogue.services(), catalogue.age(101)) == (["1", "2"], ("orders",), 1)
    catalogue.apply(message("+bills:2", synced=True, token="b"))
    assert (ports(catalogue), ports(catalogue, "bills"), catalogue.age(102)) == (["2"], ["1", "2"], 0)


def test_a_snapshot_that_breaks_off_is_forgotten(catalogue: Catalogue) -> None:
    """The next one begins anew, from the same token."""
    catalogue.apply(message("+orders:7", reset=True))
    catalogue.lost(100)
    assert catalogue.request().resume_token == "a"
    catalogue.apply(message("+orders:8", synced=True, token="b"))  # it was continued after all
    assert ports(catalogue) == ["1", "2", "8"]


def test_an_instance_is_read_as_it_is_written() -> None:
    """All that programs may want to know of it."""
    said = pb.Instance(instance_id="orders:localhost:1", name="shop", url="http://x/", version="1", description="Sells")
    said.status, said.status_reason = pb.STATUS_DOWN, pb.STATUS_REASON_DRAINED
    said.balancer_options.weight = 3
    said.metadata["zone"] = "eu"
    assert instance(said) == Instance(
        "orders:localhost:1", "shop", "http://x/", Status.DOWN, StatusReason.DRAINED, "1", "Sells", 3, {"zone": "eu"}
    )
    assert instance(pb.Instance()).weight == 1


def weighted(**weights: int) -> list[Instance]:
    """Return instances that are OK."""
    return [
        instance(pb.Instance(instance_id=name, status=pb.STATUS_OK, balancer_options=pb.BalancerOptions(weight=weight)))
        for name, weight in weights.items()
    ]


def test_heavy_instances_come_more_often_and_not_in_a_row() -> None:
    """In each round exactly as often as they weigh."""
    turns = RoundRobin(Random(1))
    picked = [found.instance_id for _ in range(70) if (found := turns.pick(weighted(a=4, b=2, c=1)))]
    for start in range(0, 70, 7):
        assert Counter(picked[start : start + 7]) == {"a": 4, "b": 2, "c": 1}
    assert "aaa" not in "".join(picked)


def test_processes_do_not_begin_with_the_same_instance() -> None:
    """Or it would get the first request of each."""
    first = Counter(found.instance_id for seed in range(90) if (found := RoundRobin(Random(seed)).pick(weighted(a=1, b=1, c=1))))
    assert set(first) == {"a", "b", "c"}
    assert max(first.values()) < 50


def test_those_that_are_not_ok_are_skipped() -> None:
    """And one that comes back does not get at once all that it has missed."""
    turns = RoundRobin(Random(1))
    both = weighted(a=1, b=1)
    ill = [both[0], instance(pb.Instance(instance_id="b", status=pb.STATUS_DOWN))]
    assert [found.instance_id for _ in range(10) if (found := turns.pick(ill))] == ["a"] * 10
    assert sorted(found.instance_id for _ in range(4) if (found := turns.pick(both))) == ["a", "a", "b", "b"]
    assert turns.pick([ill[1]]) is None
    assert turns.pick([]) is None
