"""What stands around a request: Accept, Host and Origin, credentials, peers and tokens. Nothing of it makes a parser fail."""

import base64
import ipaddress
import random
import re
import string
from collections.abc import AsyncIterator, Iterator
from urllib.parse import quote

import pytest
from aiohttp.test_utils import make_mocked_request
from argon2 import PasswordHasher
from hypothesis import given
from hypothesis import strategies as st
from said import ANY_TEXT, SENDABLE

from gateway.guard import Guard
from gateway.negotiate import prefers_html, prefers_json
from luna_grpc.auth import Authenticator
from luna_grpc.clock import Clock
from luna_grpc.errors import InvalidArgumentError, UnauthenticatedError
from luna_grpc.events import EventType
from luna_grpc.leases import LeasePolicy
from luna_grpc.memory import MemoryStore
from luna_grpc.model import ITSELF, Info, Status
from luna_grpc.registry import Registry
from luna_grpc.rpc import limits
from luna_grpc.rpc.listing import list_services
from luna_grpc.serve import Running, running
from luna_grpc.throttle import Throttle
from luna_grpc.v1 import registry_pb2 as pb
from raw_http import Answer, answers, ask
from support import basic, settings_for_tests

HEADER_TEXT = st.text(alphabet=st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]))


# Accept

RANGES = ["text/html", "text/*", "*/*", "application/json", "application/*", "image/png", "application/problem+json"]


WANTED = st.dictionaries(st.sampled_from(RANGES), st.sampled_from(["", "0", "0.1", "0.5", "1"]), min_size=1)


@given(WANTED, st.randoms())
def test_the_form_wanted_more_is_given(wanted: dict[str, str], chance: random.Random) -> None:
    """By the weight of the most exact range that matches (RFC 9110, section 12.5.1), however the header is spelled."""
    spelled = ("".join(map(chance.choice, zip(form, form.upper(), strict=True))) for form in wanted)
    separators = (chance.choice([";q=", "; q=", " ;Q="]) if weight else "" for weight in wanted.values())
    ranges = ["".join(parts) for parts in zip(spelled, separators, wanted.values(), strict=True)]
    request = make_mocked_request("GET", "/", headers={"Accept": chance.choice([",", ", ", " , "]).join(ranges)})
    weights = {form: float(weight or 1) for form, weight in wanted.items()}
    json = next((weights[form] for form in ("application/json", "application/*", "*/*") if form in weights), 0)
    html = next((weights[form] for form in ("text/html", "text/*", "*/*") if form in weights), 0)
    if json != html:
        assert prefers_json(request) is (json > html)
    assert not (prefers_json(request) and prefers_html(request))


@given(st.one_of(HEADER_TEXT, st.text(alphabet="texhmljsonap/*,;q=.01 naif-")))
def test_any_accept_header_has_an_answer(accept: str) -> None:
    """At most one of the two forms is preferred."""
    request = make_mocked_request("GET", "/", headers={"Accept": accept})
    assert not (prefers_json(request) and prefers_html(request))


# Host and Origin

HOSTS = [
    "localhost",
    "127.0.0.1",
    "[::1]",
    "luna.localhost",
    "luna.internal",
    "evil.example",
    "10.0.0.7",
    "",
    "localhost.evil.example",
]
OURS = {"localhost", "127.0.0.1", "[::1]", "luna.localhost", "luna.internal"}


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Running]:
    """Run one server for all that hypothesis thinks of."""
    async with running(settings_for_tests(allowed_hosts="Luna.internal", cors_origins="https://ops.example")) as server:
        yield server


async def put(server: Running, **headers: str) -> Answer:
    """Send a heartbeat of an unknown instance under these headers."""
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    head = f"PUT /registry/v1/instances/a:h:1 HTTP/1.1\r\nConnection: close\r\nAuthorization: {basic()}\r\nContent-Length: 0\r\n"
    [answer] = answers(await ask(server.rest_port, (head + "".join(lines) + "\r\n").encode("utf-8", "surrogateescape")))
    return answer


@given(host=st.sampled_from(HOSTS), port=st.sampled_from(["", ":", ":80", ":65536"]), capital=st.booleans())
async def test_hosts_are_known_by_their_names(server: Running, host: str, port: str, capital: bool) -> None:
    """Whatever the port and the case; the others are refused."""
    answer = await put(server, Host=(host.upper() if capital else host) + port)
    assert answer.status == (404 if host in OURS else 403)


@given(scheme=st.sampled_from(["http", "https", ""]), name=st.sampled_from([*HOSTS, "ops.example", "null"]), odd=st.booleans())
async def test_only_pages_of_our_own_and_of_friends_may_write(server: Running, scheme: str, name: str, odd: bool) -> None:
    """By the whole origin: scheme, name and port."""
    origin = f"{scheme}://{name}" if scheme else name
    origin += ":81" if odd else ""
    answer = await put(server, Host="luna.internal", Origin=origin)
    own = bool(scheme) and name == "luna.internal" and not odd
    assert answer.status == (404 if own or origin == "https://ops.example" else 403)


@given(
    host=st.one_of(HEADER_TEXT, ANY_TEXT.map(lambda text: text.encode("utf-8", "replace").decode("latin-1"))), origin=HEADER_TEXT
)
async def test_any_host_and_origin_have_an_answer(server: Running, host: str, origin: str) -> None:
    """A refusal in words, or that of an HTTP parser; never a failure."""
    answer = await put(server, Host=host, Origin=origin)
    assert answer.status in {400, 403, 404}


@given(st.one_of(ANY_TEXT, st.text(alphabet="localhost.:[]1270"), st.sampled_from(HOSTS)))
def test_a_host_name_that_is_answered_means_this_machine(host: str) -> None:
    """Or was allowed; nothing else gets past, whatever stands in it."""
    settings = settings_for_tests(allowed_hosts="luna.internal")
    guard = Guard(Registry(MemoryStore(Clock()), Clock(), LeasePolicy()), Authenticator("admin", ""), settings)
    if not guard._is_foreign_host(host):
        name = host if host.endswith("]") or ":" not in host else host.rpartition(":")[0]
        assert re.fullmatch(r"(.*\.)?localhost|luna\.internal|\[*::1\]*|\[*127\.[0-9.]+\]*", name, re.IGNORECASE | re.DOTALL)


# Credentials

NO_COLON = st.text(st.characters(exclude_characters=":", exclude_categories=["Cs"]), min_size=1)


@given(
    user=NO_COLON, password=SENDABLE, other=st.tuples(NO_COLON, SENDABLE), scheme=st.sampled_from(["Basic", "basic", "BASIC"]),
    space=st.sampled_from([" ", "  "]),
)  # fmt: skip
async def test_credentials_are_right_letter_by_letter(
    user: str, password: str, other: tuple[str, str], scheme: str, space: str
) -> None:
    """However the scheme is spelled; any others are wrong."""
    authenticator = Authenticator(user, password, throttle=Throttle(0))
    right = base64.b64encode(f"{user}:{password}".encode()).decode()
    assert (await authenticator.verified(f"{scheme}{space}{right}", "")).name == user
    for wrong in (other, (user, other[1]), (other[0], password)):
        header = basic(*wrong)
        if wrong == (user, password):
            assert authenticator.known(header) is not None
        else:
            assert authenticator.known(header) is None
            with pytest.raises(UnauthenticatedError):
                await authenticator.verified(header, "")


@pytest.fixture(scope="module")
def authenticators() -> Iterator[list[Authenticator]]:
    """Return one with a single user, and one with a users file; their hashes cost next to nothing."""
    simple = Authenticator("admin", "secret", throttle=Throttle(0))
    with_file = Authenticator("admin", "secret", {}, throttle=Throttle(0))
    with_file._unknown_hash = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("x")
    yield [simple, with_file]
    with_file.close()


@given(
    header=st.one_of(
        st.none(),
        # As HTTP and gRPC hand headers over.
        st.binary().map(lambda value: value.decode("utf-8", "surrogateescape")),
        st.text(alphabet="Basic YWRtn46=:!\t\x80\udcff"),
        st.binary().map(lambda value: "Basic " + base64.b64encode(value).decode()),
        st.integers(4000, 5000).map(lambda size: "Basic " + "QUFB" * size),
    )
)
async def test_any_header_is_refused(authenticators: list[Authenticator], header: str | None) -> None:
    """Nothing else comes of it, with a users file and without."""
    for authenticator in authenticators:
        with pytest.raises(UnauthenticatedError) as caught:
            await authenticator.verified(header, "")
        assert caught.value.message.isprintable()


# Peers


@given(st.one_of(st.ip_addresses(), st.ip_addresses(v=6)), st.integers(1, 65535))
def test_the_address_of_a_peer_is_read(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    """As gRPC writes it: an IPv6 address in brackets, percent-encoded."""
    text = f"[{address}]" if address.version == 6 else str(address)
    assert limits.address(limits.spelled(f"ipv{address.version}:{quote(text, safe=':')}:{port}")) == str(address)


@given(ANY_TEXT)
def test_any_peer_has_some_address(peer: str) -> None:
    """And can be slowed down by it."""
    throttle = Throttle(1, lambda: 0.0)
    throttle.begin(limits.address(peer))
    throttle.succeeded(limits.address(peer))
    throttle.begin(limits.address(peer))


# Tokens


async def registry_of(names: list[str]) -> Registry:
    """Return a registry with an instance or two of each of these services."""
    clock = Clock()
    registry = Registry(MemoryStore(clock), clock, LeasePolicy(warmup=0))
    for number, name in enumerate(names, 1):
        await registry.register(Info.of(f"a:h:{number}", name=name), Status.OK, actor=ITSELF)
    return registry


SERVICES = st.lists(st.sampled_from(["a", "b", "Bücher 本", "z/..", "x" * 128, "~"]), max_size=12)


@given(SERVICES, st.integers(1, 4), st.sampled_from(["", "a", "x"]))
async def test_pages_put_together_are_the_list(names: list[str], size: int, prefix: str) -> None:
    """Whatever the size of a page: each instance once, services in order."""
    registry = await registry_of(names)
    seen: list[tuple[str, str]] = []
    token = ""
    for _ in range(20):
        page = list_services(registry, pb.ListServicesRequest(page_size=size, page_token=token, name_prefix=prefix), 1000)
        seen += [(service.name, instance.instance_id) for service in page.services for instance in service.instances]
        token = page.next_page_token
        if not token:
            break
    wanted = [(name, f"a:h:{number}") for number, name in enumerate(names, 1) if name.startswith(prefix)]
    assert seen == sorted(wanted)


@given(
    st.one_of(
        SENDABLE,
        st.text(alphabet=string.ascii_letters + string.digits + "-_=+/"),
        SENDABLE.map(lambda text: base64.urlsafe_b64encode(text.encode()).decode()),
    )
)
async def test_any_page_token_is_gone_on_from_or_refused(token: str) -> None:
    """By the name of its field."""
    registry = await registry_of(["a", "b"])
    try:
        list_services(registry, pb.ListServicesRequest(page_token=token), 1000)
    except InvalidArgumentError as error:
        assert error.field == "page_token"


TOKEN_NAMES = st.sampled_from([(), ("a",), ("b",), ("a", "b"), ("a\0b",), ("a', 'b",), ("a", "b", "c"), ("",)]).map(frozenset)


@given(before=TOKEN_NAMES, after=TOKEN_NAMES, text=st.one_of(st.none(), SENDABLE), revision=st.integers(-1, 10**21))
async def test_a_resume_token_leads_to_the_present(
    before: frozenset[str], after: frozenset[str], text: str | None, revision: int
) -> None:
    """A token of the same names, or of all, is gone on from; with any other one the watcher starts over."""
    registry = await registry_of(["a", "b", "c", "a"])
    feed = registry.store.feed
    token = feed.token(names=before) if text is None else f"{text}-{revision}-all"
    watcher = registry.watch(after, token, lambda: None)
    batch = watcher.take()
    assert batch is not None
    assert batch.reset is not (text is None and before in (after, frozenset()))
    if batch.reset:
        present = {event.key for event in batch.events if event.type is EventType.UPSERTED}
        everything = {("a", "a:h:1"), ("b", "a:h:2"), ("c", "a:h:3"), ("a", "a:h:4")}
        assert present == {key for key in everything if not after or key[0] in after}
    watcher.close()
    assert feed.watchers() == []
