"""The rules for what a client may say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luna_grpc.errors import InvalidArgumentError
from luna_grpc.model import Info, Instance, Status, StatusReason, check_instance_id, shown


@pytest.mark.parametrize(
    "instance_id",
    [
        "orders:localhost:8080",
        "my-svc_2.v1:10.0.0.7:1",
        "s6:[::1]:80",
        "s6:[2001:db8::8a2e:370:7334]:65535",
        "a:xn--bcher-kva.example:80",
        "a:my_host.docker:80",
        "a:host.:80",
        ".:h:1",
        "-:h:1",
        "x" * 128 + ":h:1",
    ],
)
def test_well_formed_ids_are_kept_as_they_are(instance_id: str) -> None:
    """Every form that the contract names is accepted."""
    assert check_instance_id(instance_id) == instance_id


@pytest.mark.parametrize(
    "instance_id",
    [
        "",
        "orders",
        "orders:localhost",
        "orders:localhost:",
        "orders:localhost:0",
        "orders:localhost:080",
        "orders:localhost:65536",
        "orders:localhost:99999",
        "orders:localhost:٨٠",
        ":localhost:80",
        "orders::80",
        "örders:localhost:80",
        "or/ders:localhost:80",
        "orders:local host:80",
        "orders:localhost:80\n",
        "orders:local\0host:80",
        "orders:-bad:80",
        "orders:bad-:80",
        "orders:a..b:80",
        "orders:999.1.1.1:80",
        "orders:1.2.3:80",
        "orders:::1:80",
        "orders:[::1:80",
        "orders:[zz]:80",
        "orders:[1.2.3.4]:80",
        "orders:localhost:80:90",
        "x" * 129 + ":h:1",
        "a:" + "x" * 64 + ":80",
        "a:" + ".".join(["x" * 60] * 5) + ":80",
    ],
)
def test_malformed_ids_are_refused_by_name(instance_id: str) -> None:
    """The error names the field."""
    with pytest.raises(InvalidArgumentError) as caught:
        check_instance_id(instance_id)
    assert caught.value.field == "instance_id"


@given(st.text(max_size=80))
def test_any_text_is_an_id_or_a_clear_error(text: str) -> None:
    """No input makes the parser fail otherwise."""
    try:
        assert check_instance_id(text) == text
    except InvalidArgumentError as error:
        assert error.message.isprintable()


def test_only_the_id_is_needed() -> None:
    """The other fields have defaults."""
    info = Info.of("orders:db.local:8080")
    assert (info.name, info.description, info.version, info.url, info.weight) == (
        "orders", "", "", "http://db.local:8080/", None,
    )  # fmt: skip
    assert Info.of("s6:[::1]:80").url == "http://[::1]:80/"


@pytest.mark.parametrize(
    ("given_url", "kept"),
    [
        ("http://h:1", "http://h:1/"),
        ("https://h", "https://h/"),
        ("http://h?x=1", "http://h/?x=1"),
        ("http://h/a b".replace(" ", "%20"), "http://h/a%20b"),
        ("http://[::1]:80", "http://[::1]:80/"),
        ("HTTP://h/", "HTTP://h/"),
    ],
)
def test_an_empty_path_becomes_a_slash(given_url: str, kept: str) -> None:
    """Else a url is kept as sent."""
    assert Info.of("a:b:1", url=given_url).url == kept


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("url", {"url": "javascript:alert(1)"}),
        ("url", {"url": "ftp://h/"}),
        ("url", {"url": "http://"}),
        ("url", {"url": "http:///path"}),
        ("url", {"url": "//h/"}),
        ("url", {"url": "http://h:99999/"}),
        ("url", {"url": "http://h:x/"}),
        ("url", {"url": "http://[::1/"}),
        ("url", {"url": "http://h/a b"}),
        ("url", {"url": "http://h/\n"}),
        ("url", {"url": "http://h\\@evil/"}),
        ("url", {"url": "http://h/" + "x" * 2048}),
        ("url", {"url": "http://" + "h" * 2041}),
        ("name", {"name": "json"}),
        ("name", {"name": ".."}),
        ("name", {"name": " a"}),
        ("name", {"name": "a\0"}),
        ("name", {"name": "a\u202e\n"}),
        ("name", {"name": "x" * 129}),
        ("version", {"version": "x" * 65}),
        ("version", {"version": "1\t2"}),
        ("description", {"description": "x" * 1025}),
        ("description", {"description": "\ud800"}),
        ("weight", {"weight": -1}),
        ("weight", {"weight": 2**32}),
        ("metadata", {"metadata": {"": "x"}}),
        ("metadata", {"metadata": {"k\n": "x"}}),
        ("metadata", {"metadata": {"k" * 129: "x"}}),
        ("metadata", {"metadata": {"k": "x" * 1025}}),
        ("metadata", {"metadata": {"k": "\0"}}),
        ("metadata", {"metadata": {str(number): "" for number in range(65)}}),
    ],
)
def test_bad_fields_are_refused_by_name(field: str, changes: dict[str, object]) -> None:
    """The error names the field that is at fault."""
    with pytest.raises(InvalidArgumentError) as caught:
        Info.of("a:b:1", **changes)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_what_is_allowed_is_kept_as_sent() -> None:
    """Non-ASCII names, odd versions, line breaks in descriptions; a weight of 0 is no weight."""
    info = Info.of(
        "a:b:1", name="Bücher 本", version="1.02.3-rc1+build", description="two\nlines", weight=0, metadata={"zone": "eu\n1"}
    )
    assert info.name == "Bücher 本"
    assert info.version == "1.02.3-rc1+build"
    assert info.description == "two\nlines"
    assert info.weight is None
    assert info.metadata == {"zone": "eu\n1"}


@pytest.mark.parametrize(
    ("reported", "ended", "drained", "status", "reason"),
    [
        (Status.OK, None, None, Status.OK, StatusReason.REPORTED),
        (Status.DOWN, None, None, Status.DOWN, StatusReason.REPORTED),
        (Status.OK, StatusReason.LEASE_EXPIRED, None, Status.DOWN, StatusReason.LEASE_EXPIRED),
        (Status.DOWN, StatusReason.DISCONNECTED, None, Status.DOWN, StatusReason.DISCONNECTED),
        (Status.OK, StatusReason.LEASE_EXPIRED, 1, Status.DOWN, StatusReason.DRAINED),
        (Status.OK, None, 1, Status.DOWN, StatusReason.DRAINED),
    ],
)
def test_the_effective_status_follows_from_two_facts(
    reported: Status, ended: StatusReason | None, drained: int | None, status: Status, reason: StatusReason
) -> None:
    """What was reported counts only while the lease lives and nobody drained the instance."""
    instance = Instance(Info.of("a:b:1"), reported, ended, 1, 0, drained)
    assert (instance.status, instance.reason, instance.up) == (status, reason, status is Status.OK)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{'a' * 129}:localhost:80", "the serviceName of the instance id has 129 characters; at most 128 are allowed"),
        (f"orders:{'a' * 254}:80", "the domain of the instance id has 254 characters; at most 253 are allowed"),
    ],
)
def test_an_instance_id_that_is_too_long_is_told_the_limit(text: str, words: str) -> None:
    """The part that is too long, how long it is, and the most."""
    with pytest.raises(InvalidArgumentError) as refused:
        check_instance_id(text)
    assert refused.value.message == words


def test_a_shortened_quote_is_closed() -> None:
    """What is cut off stands outside of it; no escape is left open before the end."""
    assert shown("a" * 90) == f"'{'a' * 79}'..."
    assert shown("a" * 78 + chr(92) * 9) == f"'{'a' * 78}'..."
