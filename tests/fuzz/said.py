"""What anyone may say: good values, bad ones, and those at the edges, for hypothesis to choose from."""

from typing import Any

from hypothesis import strategies as st

from luna_grpc.v1 import registry_pb2 as pb

ANY_TEXT = st.one_of(
    st.text(st.characters()),  # lone surrogates as well
    st.text(alphabet="a:.[]-_/\\@?#%0 \t\n\0\x7f\u202e\ud800ä本"),
)
"""Whatever a string can hold."""
SENDABLE = st.text(st.characters(exclude_categories=["Cs"]))
"""What a proto or JSON can hold."""


def at_the_edge_of(most: int) -> st.SearchStrategy[str]:
    """Return texts about as long as is allowed."""
    return st.builds(lambda character, by: character * (most + by), st.sampled_from("xä本"), st.integers(-1, 1))


IDS = st.one_of(
    st.sampled_from(["a:h:1", "orders:localhost:8080", "s6:[::1]:80", "my-svc:10.0.0.1:65535", "a:h.:1", "a:h:0", "a:b c:1", "a"]),
    st.from_regex(r"[A-Za-z0-9_.-]{1,20}:(\[[0-9a-f:.]{2,20}\]|[a-z0-9.-]{1,20}):[0-9]{1,6}", fullmatch=True),
)
GOOD_IDS = st.builds(
    lambda name, host, port: f"{name}:{host}:{port}",
    st.from_regex(r"[A-Za-z0-9_.-]{1,12}", fullmatch=True),
    st.sampled_from(["localhost", "10.0.0.7", "[::1]", "[2001:db8::1]", "a-b.example", "h."]),
    st.integers(1, 65535),
)
NAMES = st.one_of(st.sampled_from(["", "a", "json", "..", "Bücher 本", " a", "a\n"]), at_the_edge_of(128), SENDABLE)
DESCRIPTIONS = st.one_of(st.sampled_from(["", "two\nlines", "\0"]), at_the_edge_of(1024), SENDABLE)
VERSIONS = st.one_of(st.sampled_from(["", "1.02.3-rc1", "\t"]), at_the_edge_of(64), SENDABLE)
URLS = st.one_of(
    st.sampled_from(["", "http://h:1", "https://h/x?y#z", "http://h?", "HTTP://h", "javascript:alert(1)", "http://[::1"]),
    st.from_regex(r"(https?|ftp)://[a-z0-9.:@\[\]_-]{0,12}(:[0-9]{0,6})?[/?#a-z%\\ ]{0,6}", fullmatch=True),
    st.integers(2040, 2042).map(lambda size: "http://" + "h" * size),
    SENDABLE,
)
WEIGHTS = st.one_of(st.none(), st.sampled_from([0, 1, -1, 2**32 - 1, 2**32]), st.integers(-(2**63), 2**63 - 1))
METADATA = st.one_of(
    st.dictionaries(st.one_of(SENDABLE, at_the_edge_of(128)), st.one_of(SENDABLE, at_the_edge_of(1024)), max_size=4),
    st.integers(62, 66).map(lambda size: {str(number): "x" for number in range(size)}),
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "name": NAMES,
    "description": DESCRIPTIONS,
    "version": VERSIONS,
    "url": URLS,
    "weight": WEIGHTS,
    "metadata": METADATA,
}
GOOD: dict[str, st.SearchStrategy[Any]] = {
    "name": st.sampled_from(["a", "other", "Bücher 本", "x" * 128]),
    "description": st.sampled_from(["", "Takes orders", "two\nlines", "x" * 1024]),
    "version": st.sampled_from(["1", "1.02.3-rc1", "x" * 64]),
    "url": st.sampled_from(["http://h:1", "https://h/x?y#z", "http://h?", "http://" + "h" * 2040]),
    "weight": st.sampled_from([None, 0, 1, 2**32 - 1]),
    "metadata": st.sampled_from([{}, {"zone": "eu", "ä": "ö\n"}, {"k": "x" * 1024}]),
}


def fields(*, at_fault: int = 6) -> st.SearchStrategy[dict[str, Any]]:
    """Return what is said of an instance but its id; at most so many fields are bad, or hardly any would come through."""
    return st.one_of(
        *(st.lists(st.sampled_from(sorted(FIELDS)), min_size=bad, max_size=bad, unique=True) for bad in range(at_fault + 1))
    ).flatmap(lambda bad: st.fixed_dictionaries({field: (FIELDS if field in bad else GOOD)[field] for field in FIELDS}))


def messages(ids: st.SearchStrategy[str] = IDS, *, at_fault: int = 2) -> st.SearchStrategy[pb.Instance]:
    """Return instances as gRPC clients send them."""
    return st.builds(message, ids, fields(at_fault=at_fault))


def message(instance_id: str, said: dict[str, Any], status: "pb.Status.ValueType" = pb.STATUS_UNSPECIFIED) -> pb.Instance:
    """Write an instance; a weight that the proto cannot hold is none."""
    weight = said.pop("weight")
    options = pb.BalancerOptions(weight=weight) if weight is not None and 0 <= weight < 2**32 else None
    return pb.Instance(instance_id=instance_id, balancer_options=options, status=status, **said)


def as_json(instance: pb.Instance) -> dict[str, Any]:
    """Return what REST shows of what gRPC shows."""
    weight = instance.balancer_options.weight
    answer = {
        "instanceId": instance.instance_id,
        "name": instance.name,
        "description": instance.description,
        "version": instance.version,
        "url": instance.url,
        "status": pb.Status.Name(instance.status).removeprefix("STATUS_"),
        "balancerOptions": {"weight": weight} if weight else {},
        "statusReason": pb.StatusReason.Name(instance.status_reason).removeprefix("STATUS_REASON_"),
        "registeredAt": instance.registered_at.ToMilliseconds(),
        "last_heartbeat": instance.last_heartbeat.ToMilliseconds(),
    }
    if instance.HasField("drained_until"):
        answer["drainedUntil"] = instance.drained_until.ToMilliseconds()
    return answer | ({"metadata": dict(instance.metadata)} if instance.metadata else {})
