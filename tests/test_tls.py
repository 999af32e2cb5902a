"""TLS at both doors: who gets through a handshake, who is who, and how certificates are exchanged."""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from aiohttp import ClientConnectionError, ClientSession, TCPConnector
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from luna_grpc import users
from luna_grpc.access import Role, User
from luna_grpc.auth import Account, Authenticator
from luna_grpc.errors import UnauthenticatedError
from luna_grpc.rpc import tls as rpc_tls
from luna_grpc.serve import Running, _renew, running
from luna_grpc.tls import DAY, Certificates, Files, Identity, TlsError, names, read
from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from pki import Client, Pki, issued, only
from support import Stub, basic, channel, instance_json, settings_for_tests

LIST = "/registry/v1/services/json"
INSTANCE = "/registry/v1/instances/orders:localhost:1"
PASSWORD = "secret"
HANDSHAKE, ALERT = b"\x16", b"\x15"
"""How the records of TLS begin."""
WARNINGS = {"certificate expires soon", "certificate has expired"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """Return CAs and files that no test changes."""
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    """Return CAs and files of a test's own."""
    return Pki(tmp_path)


@pytest.fixture(scope="module")
async def secure(shared: Pki) -> AsyncIterator[Running]:
    """Run both doors with TLS, for clients without certificates."""
    async with running(settings_for_tests(**shared.flags())) as server:
        yield server


@pytest.fixture(scope="module")
async def mutual(shared: Pki, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """Run both doors with a client CA, an admin with a password, and users of all roles in a file."""
    file = str(tmp_path_factory.mktemp("users") / "users.toml")
    for role in Role:
        users.add(file, f"{role}.example", role=role, prefixes=(), password=PASSWORD)
    settings = settings_for_tests(auth_password=PASSWORD, users_file=file, max_failed_logins=0, **shared.flags(clients=True))
    async with running(settings) as server:
        yield server


# The files


def files(pki: Pki) -> Files:
    """Return the paths."""
    return Files(str(pki.cert), str(pki.key), str(pki.client_ca_file))


def _make_a_directory(pki: Pki) -> None:
    pki.key.unlink()
    pki.key.mkdir()


SPOILT: dict[str, tuple[Callable[[Pki], object], str]] = {
    "no certificate file": (lambda pki: pki.cert.unlink(), "the TLS file {cert} does not exist"),
    "no key file": (lambda pki: pki.key.unlink(), "the TLS file {key} does not exist"),
    "no client CA file": (lambda pki: pki.client_ca_file.unlink(), "the TLS file {ca} does not exist"),
    "a directory": (_make_a_directory, "the TLS file {key} is a directory: name a file in it"),
    "an empty certificate": (lambda pki: pki.write(pki.cert, b""), "{cert} and {key} are no certificate and its key, both in PEM"),
    "a key that is none": (
        lambda pki: pki.write(pki.key, b"\x00\xff"),
        "{cert} and {key} are no certificate and its key, both in PEM",
    ),
    "another key": (
        lambda pki: pki.write(pki.key, pki.server().key),
        "the key in {key} is not that of the first certificate in {cert}",
    ),
    "an encrypted key": (
        lambda pki: pki.install(issued(pki.ca, password=b"x")),
        "the key in {key} is encrypted: write it without a password, openssl pkey -in {key} -out",
    ),
    "a client CA that is none": (
        lambda pki: pki.write(pki.client_ca_file, pki.server().key),
        "the client CA {ca} holds no certificates in PEM",
    ),
    "a certificate for clients": (
        lambda pki: pki.install(issued(pki.ca, usages=[x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH])),
        "clients would refuse the certificate in {cert} (unsuitable certificate purpose): it must be one for servers",
    ),
    "an unusual curve": (
        lambda pki: pki.install(issued(pki.ca, key=ec.generate_private_key(ec.BrainpoolP256R1()))),
        "clients would refuse the certificate in {cert} (no shared cipher)",
    ),
}
"""For each way to spoil the files what is to be said of it."""


@pytest.mark.parametrize("what", SPOILT)
def test_files_that_cannot_be_used(pki: Pki, what: str) -> None:
    """Are refused in one line that says which file it is, and why."""
    assert read(files(pki)).contents.cert == pki.cert.read_bytes()
    spoil, said = SPOILT[what]
    spoil(pki)
    with pytest.raises(TlsError) as caught:
        read(files(pki))
    assert str(caught.value).startswith(said.format(cert=pki.cert, key=pki.key, ca=pki.client_ca_file))
    assert "\n" not in str(caught.value)


def test_files_that_change_while_they_are_read(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """Are refused: the context would be of another certificate than the rest."""
    contents = iter([Files.contents(files(pki)), Files.contents(files(pki))._replace(cert=b"another")])
    monkeypatch.setattr(Files, "contents", lambda _: next(contents))
    with pytest.raises(TlsError, match="are being written just now"):
        read(files(pki))


async def test_keys_that_only_one_of_the_two_tls_libraries_knows(pki: Pki) -> None:
    """Are refused for both doors, before either uses them."""
    await rpc_tls.check(read(files(pki)), "127.0.0.1")
    pki.install(issued(pki.ca, key=ed448.Ed448PrivateKey.generate()))
    with pytest.raises(TlsError, match="gRPC cannot use the certificate"):
        await rpc_tls.check(read(files(pki)), "127.0.0.1")
    with pytest.raises(TlsError, match="gRPC cannot use the certificate"):
        async with running(settings_for_tests(**pki.flags())):
            pass


def test_a_key_that_everyone_can_read(pki: Pki) -> None:
    """Is a warning with what to do; one that a group can read is none."""
    pki.key.chmod(0o640)
    with capture_logs() as logs:
        Certificates(files(pki))
    assert logs == []
    pki.key.chmod(0o644)
    with capture_logs() as logs:
        Certificates(files(pki))
    [warning] = logs
    assert (warning["log_level"], warning["step"]) == ("warning", f"chmod o= {pki.key}")


class Clock:
    """Seconds since the epoch, as a test says."""

    def __init__(self, at: float) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


class Use:
    """Takes new identities, or refuses them."""

    def __init__(self) -> None:
        self.used: list[Identity] = []
        self.refusal: Exception | None = None

    async def __call__(self, identity: Identity) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.used.append(identity)


async def test_the_end_of_a_certificate(pki: Pki) -> None:
    """Is warned of from 14 days before it on, once a day, and at once when a new certificate is as old."""
    clock = Clock(read(files(pki)).expires - 14 * DAY - 10)

    async def warned(after: float, certificates: Certificates) -> list[str]:
        clock.at += after
        with capture_logs() as logs:
            await certificates.look(Use())
        return [entry["event"] for entry in logs if entry["event"] in WARNINGS]

    with capture_logs() as logs:
        certificates = Certificates(files(pki), now=clock)
    assert logs == []
    assert await warned(5, certificates) == []
    assert await warned(10, certificates) == ["certificate expires soon"]
    assert await warned(DAY - 1, certificates) == []
    assert await warned(1, certificates) == ["certificate expires soon"]
    assert await warned(13 * DAY, certificates) == ["certificate has expired"]
    pki.install(pki.server(days=200))
    assert await warned(1, certificates) == []
    pki.install(pki.server(days=-1))
    assert await warned(1, certificates) == ["certificate has expired"]
    with capture_logs() as logs:
        Certificates(files(pki))
    [warning] = logs
    assert (warning["event"], warning["log_level"], warning["path"]) == ("certificate has expired", "warning", str(pki.cert))


async def test_a_look_at_the_files(pki: Pki) -> None:
    """Brings new ones into use, once, and says nothing when there are none, unless somebody asked."""
    certificates, use = Certificates(files(pki)), Use()
    with capture_logs() as logs:
        await certificates.look(use)
        assert (logs, use.used) == ([], [])
        await certificates.look(use, asked=True)
        assert [entry["event"] for entry in logs] == ["certificate not renewed"]
    pki.install(pki.server())
    with capture_logs() as logs:
        await certificates.look(use)
        await certificates.look(use)
    assert [entry["event"] for entry in logs] == ["certificate renewed"]
    assert [identity.contents.cert for identity in use.used] == [pki.cert.read_bytes()]
    assert certificates.identity is use.used[0]
    pki.trust(trustme.CA())
    await certificates.look(use)
    assert len(use.used) == 2


async def test_wrong_new_files(pki: Pki) -> None:
    """Are an error in the log when they are still wrong at the next look, once; what was in use stays in use."""
    certificates, use = Certificates(files(pki)), Use()
    before = certificates.identity
    new = pki.server()
    pki.write(pki.cert, new.cert)

    async def logged(*, asked: bool = False) -> list[tuple[str, str]]:
        with capture_logs() as logs:
            await certificates.look(use, asked=asked)
        return [(entry["log_level"], entry["event"]) for entry in logs]

    error = ("error", "certificate not renewed")
    assert [await logged() for _ in range(4)] == [[], [error], [], []]
    assert await logged(asked=True) == [error]
    assert await logged() == []
    assert (certificates.identity, use.used) == (before, [])
    pki.write(pki.key, new.key)
    assert await logged() == [("info", "certificate renewed")]
    # A pair that was only just being written was no mistake.
    pki.write(pki.cert, (new := pki.server()).cert)
    assert await logged() == []
    pki.write(pki.key, new.key)
    assert await logged() == [("info", "certificate renewed")]
    # What a door cannot use is like a wrong file, and tried again.
    for refusal in (TlsError("no"), OSError("too many open files")):
        use.refusal = refusal
        pki.install(pki.server())
        assert [await logged() for _ in range(3)] == [[], [error], []]
        assert certificates.identity is use.used[-1]
        use.refusal = None
        assert await logged() == [("info", "certificate renewed")]


# Names


def test_the_names_of_a_certificate() -> None:
    """The common name, then DNS names, URIs and email addresses; nothing else is a name."""
    certificate = {
        "subject": ((("organizationName", "admin"),), (("commonName", "orders"),), (("commonName", "admin"),)),
        "subjectAltName": (("email", "a@b.c"), ("URI", "spiffe://a/b"), ("IP Address", "10.0.0.1"), ("DNS", "a.b"), ("DNS", "c.d")),
    }
    assert names(certificate) == ["orders", "a.b", "c.d", "spiffe://a/b", "a@b.c"]
    assert names({}) == names(None) == names({"subject": ()}) == []


def test_a_certificate_stands_for_the_first_user_that_it_names() -> None:
    """Out of the users file or the settings, and for as long as there is that user; else nobody knows it."""
    reader = Account(User("reader", Role.READER), "-")
    both = Authenticator("admin", PASSWORD, {"reader": reader})
    assert both.certified(["nobody", "reader", "admin"]).role is Role.READER
    assert both.certified(["admin", "reader"]).role is Role.ADMIN
    user = both.certified(["reader"])
    both.replace({"reader": Account(User("reader", Role.READER), "-")})
    assert both.is_current(user)
    both.replace({"reader": Account(User("reader", Role.WRITER), "-")})
    assert not both.is_current(user)
    assert both.certified(["reader"]).role is Role.WRITER
    file_only = Authenticator("admin", None, {"reader": reader})
    for authenticator, given in ((both, ["nobody"]), (both, []), (file_only, ["admin"])):
        with pytest.raises(UnauthenticatedError, match="none of the client certificate's names is a user's"):
            authenticator.certified(given)


@pytest.mark.parametrize("header", ["", "Basic", basic(), basic(password="None"), basic("", ""), "Basic Og=="])
async def test_a_user_without_a_password_has_no_password(header: str) -> None:
    """Who is known by certificate alone cannot sign in otherwise, not with an empty one either."""
    authenticator = Authenticator("admin", None)
    assert authenticator.certified(["admin"]).role is Role.ADMIN
    assert authenticator.known(header) is None
    with pytest.raises(UnauthenticatedError):
        await authenticator.verified(header, "10.0.0.1")


# Handshakes


@asynccontextmanager
async def rest(server: Running, client: Client | ssl.SSLContext, header: str = "") -> AsyncIterator[ClientSession]:
    """Return an HTTP client with TLS."""
    context = client.context if isinstance(client, Client) else client
    headers = {"Authorization": header} if header else {}
    base = f"https://localhost:{server.rest_port}"
    async with ClientSession(base, headers=headers, connector=TCPConnector(ssl=context, force_close=True)) as session:
        yield session


@asynccontextmanager
async def stub(server: Running, client: Client, header: str = "") -> AsyncIterator[Stub]:
    """Return a gRPC client with TLS."""
    async with channel(f"localhost:{server.grpc_port}", header, client.credentials) as open_channel:
        yield registry_pb2_grpc.RegistryStub(open_channel)


async def outcome(call: Awaitable[Any]) -> str:
    """Return OK, or the code of an rpc's refusal and its words."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name} {error.details()}"
    return "OK"


async def rest_status(server: Running, client: Client, header: str = "", method: str = "GET", path: str = LIST) -> int:
    """Return the status of a request, or 0 when there is no connection."""
    async with rest(server, client, header) as session:
        try:
            async with session.request(method, path) as response:
                return response.status
        except ClientConnectionError:
            return 0


async def list_outcome(server: Running, client: Client, header: str = "") -> str:
    """Return what comes of asking for the list over gRPC."""
    async with stub(server, client, header) as registry:
        return await outcome(registry.ListServices(pb.ListServicesRequest(), timeout=10))


async def test_clients_that_trust_the_right_ca(secure: Running, shared: Pki) -> None:
    """Get through at both doors; those that trust another one do not, nor those that speak plaintext."""
    assert await rest_status(secure, shared.anonymous(), basic()) == 200
    assert await list_outcome(secure, shared.anonymous(), basic()) == "OK"
    stranger = shared.anonymous(trustme.CA())
    async with rest(secure, stranger, basic()) as session:
        with pytest.raises(ClientConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            await session.get(LIST)
    assert (await list_outcome(secure, stranger, basic())).startswith("UNAVAILABLE")
    async with ClientSession() as session:
        with pytest.raises(ClientConnectionError):
            await session.get(f"http://localhost:{secure.rest_port}{LIST}")
    async with channel(f"localhost:{secure.grpc_port}") as plain:
        refused = await outcome(registry_pb2_grpc.RegistryStub(plain).ListServices(pb.ListServicesRequest(), timeout=10))
    assert refused.startswith("UNAVAILABLE")
    assert await rest_status(secure, shared.anonymous(), basic()) == 200
    assert await list_outcome(secure, shared.anonymous(), basic()) == "OK"


async def _shake_hands(port: int, context: ssl.SSLContext) -> tuple[str | None, str | None, bytes]:
    """Return the version of TLS, the protocol above it, and the certificate of a server."""
    _, writer = await asyncio.open_connection("localhost", port, ssl=context)
    tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
    agreed = tls.version(), tls.selected_alpn_protocol(), tls.getpeercert(binary_form=True) or b""
    writer.close()
    return agreed


async def _answer_to_hello(port: int, context: ssl.SSLContext) -> bytes:
    """Return what comes back when a client says hello."""
    incoming, hello = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, hello, server_hostname="localhost").do_handshake()
    reader, writer = await asyncio.open_connection("localhost", port)
    writer.write(hello.read())
    answer = await asyncio.wait_for(reader.read(65536), 10)
    writer.close()
    return answer


@pytest.mark.parametrize("door", ["rest", "grpc"])
async def test_versions(secure: Running, shared: Pki, door: str) -> None:
    """TLS 1.2 and 1.3 are spoken and 1.1 is refused; above TLS there is http/1.1 at the one door and h2 at the other."""
    port, protocol = (secure.rest_port, "http/1.1") if door == "rest" else (secure.grpc_port, "h2")
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = only(shared.anonymous().context, version)
        context.set_alpn_protocols(["h2", "http/1.1"])
        assert (await _shake_hands(port, context))[:2] == (version.name.replace("_", "."), protocol)
        assert (await _answer_to_hello(port, context))[:1] == HANDSHAKE
    assert (await _answer_to_hello(port, only(shared.anonymous().context, ssl.TLSVersion.TLSv1_1)))[:1] in {b"", ALERT}


@pytest.mark.parametrize("door", ["rest", "grpc"])
async def test_a_client_that_never_shakes_hands(pki: Pki, door: str) -> None:
    """Is waited for no longer than one that never sends its headers."""
    async with running(settings_for_tests(header_timeout=0.2, **pki.flags())) as server:
        reader, writer = await asyncio.open_connection("localhost", server.rest_port if door == "rest" else server.grpc_port)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


async def test_a_client_certificate_is_required(mutual: Running, shared: Pki) -> None:
    """At both doors, whatever is asked, health included: one of a trusted CA, not none, and not one of another CA."""
    known = shared.client("nobody.example")
    strangers = [shared.anonymous(), shared.client("admin.example", ca=trustme.CA()), shared.client("admin.example", ca=shared.ca)]
    for path, header in ((LIST, basic(password=PASSWORD)), ("/livez", ""), ("/readyz", "")):
        assert await rest_status(mutual, known, header, path=path) == 200
        for stranger in strangers:
            assert await rest_status(mutual, stranger, header, path=path) == 0
    for client, expected in ((known, "OK"), *((stranger, "UNAVAILABLE") for stranger in strangers)):
        assert (await list_outcome(mutual, client, basic(password=PASSWORD))).split()[0] == expected
        async with channel(f"localhost:{mutual.grpc_port}", "", client.credentials) as open_channel:
            check = health_pb2_grpc.HealthStub(open_channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
            assert (await outcome(check)).split()[0] == expected


async def test_a_ca_in_the_middle_can_be_trusted_alone(pki: Pki) -> None:
    """Both doors then take its clients, and not those of the CA above it."""
    middle = pki.client_ca.create_child_ca()
    pki.trust(middle)
    async with running(settings_for_tests(**pki.flags(clients=True))) as server:
        inside, outside = pki.client("admin", ca=middle), pki.client("admin")
        assert (await rest_status(server, inside), await list_outcome(server, inside)) == (200, "OK")
        assert await rest_status(server, outside) == 0
        assert (await list_outcome(server, outside)).startswith("UNAVAILABLE")


# Certificates as users


@pytest.mark.parametrize(
    ("client", "header", "read_as", "write_as"),
    [
        ("reader", "", 200, 403),
        ("writer", "", 200, 404),
        ("admin", "", 200, 404),
        ("nobody", "", 401, 401),
        ("by common name", "", 200, 403),
        ("by email", "", 200, 403),
        # A header counts instead, whatever the certificate says.
        ("admin", basic("reader.example", PASSWORD), 200, 403),
        ("reader", basic("admin.example", PASSWORD), 200, 404),
        ("nobody", basic(password=PASSWORD), 200, 404),
        ("admin", basic(password="wrong"), 401, 401),
        ("admin", "Bearer x", 401, 401),
        ("admin", " ", 401, 401),
    ],
)
async def test_a_certificate_as_a_user(mutual: Running, shared: Pki, client: str, header: str, read_as: int, write_as: int) -> None:
    """It may do what the user may, at both doors; who is none is told what to do."""
    match client:
        case "by common name":
            someone = shared.client("nobody.example", common_name="reader.example")
        case "by email":
            someone = Client((shared.ca,), issued(shared.client_ca, x509.RFC822Name("a@b.c"), common_name="reader.example"))
        case _:
            someone = shared.client(f"{client}.example")
    assert await rest_status(mutual, someone, header) == read_as
    assert await rest_status(mutual, someone, header, "DELETE", INSTANCE) == write_as
    codes = {200: "OK", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}
    async with stub(mutual, someone, header) as registry:
        listed = await outcome(registry.ListServices(pb.ListServicesRequest()))
        deleted = await outcome(registry.Deregister(pb.DeregisterRequest(instance_id="orders:localhost:1")))
    assert (listed.split()[0], deleted.split()[0]) == (codes[read_as], codes[write_as])
    if read_as == 401 and not header:
        words = (
            "no credentials were sent, and none of the client certificate's names is a user's ('nobody.example'): send Basic auth"
        )
        assert words in listed
        async with rest(mutual, someone) as session:
            response = await session.get(LIST)
            assert words in (await response.json())["error"]
            assert response.headers["WWW-Authenticate"].startswith("Basic")


async def test_every_kind_of_name_is_the_same_at_both_doors(pki: Pki) -> None:
    """A common name beside all kinds of alternative names: the same user is found by each of them, in the same order."""
    said = [
        x509.UniformResourceIdentifier("spiffe://luna.example/orders"),
        x509.RFC822Name("a@b.c"),
        x509.DNSName("orders.example"),
    ]
    client = Client((pki.ca,), issued(pki.client_ca, *said, x509.IPAddress(IPv4Address("10.0.0.1")), common_name="o"))
    wanted = ["o", "orders.example", "spiffe://luna.example/orders", "a@b.c"]
    async with running(settings_for_tests(**pki.flags(clients=True))) as server:
        async with rest(server, client) as session:
            words = (await (await session.get(LIST)).json())["error"]
        assert ", ".join(wanted) in words
        assert words in await list_outcome(server, client)


async def test_without_a_password_only_certificates_count(pki: Pki) -> None:
    """With a client CA and no password, the one user there is is known by certificate, and by an empty password no more."""
    async with running(settings_for_tests(**pki.flags(clients=True))) as server:
        assert await rest_status(server, pki.client("x.example", common_name="admin")) == 200
        assert await rest_status(server, pki.client("x.example"), basic()) == 401
        assert (await list_outcome(server, pki.client("x.example"), basic())).startswith("UNAUTHENTICATED")


async def _read_all(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


async def test_streams_of_certificates_are_checked_again(mutual: Running, shared: Pki) -> None:
    """When the users are reloaded, the stream of one who is gone or has changed is refused, and those of the others go on."""
    authenticator = mutual.authenticator
    accounts = dict(authenticator._accounts)
    writer = accounts["writer.example"]
    changed = writer._replace(user=User("writer.example", Role.READER))
    async with stub(mutual, shared.client("reader.example")) as reading, stub(mutual, shared.client("writer.example")) as writing:
        staying, refused = (each.WatchServices(pb.WatchServicesRequest()) for each in (reading, writing))
        beating = writing.StreamHeartbeats()
        await beating.write(pb.StreamHeartbeatsRequest(sequence=1))
        for stream in (staying, refused, beating):
            await stream.read()
        authenticator.replace(accounts | {"writer.example": changed})
        for stream in (refused, beating):
            assert (await outcome(_read_all(stream))).startswith("UNAUTHENTICATED the users of the registry have changed")
        assert (await outcome(writing.Deregister(pb.DeregisterRequest(instance_id="a:b:1")))).startswith("PERMISSION_DENIED")
        authenticator.replace(accounts)
        assert not staying.done()
        await reading.ListServices(pb.ListServicesRequest())
        staying.cancel()


# New certificates


async def renewed(server: Running) -> None:
    """Let the server look at its files."""
    certificates = server.certificates
    assert certificates is not None
    await certificates.look(partial(_renew, server.grpc, server.rest), asked=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_new_handshakes_get_the_new_certificate(pki: Pki, host: str) -> None:
    """At both doors, on the same ports, while what is open goes on; again and again."""
    async with running(settings_for_tests(host=host, **pki.flags())) as server:
        client = pki.anonymous()
        async with rest(server, client, basic()) as session, stub(server, client, basic()) as registry:
            await session.post(INSTANCE, json=instance_json("orders:localhost:1"))
            watch = aiter(registry.WatchServices(pb.WatchServicesRequest()))
            await anext(watch)
            old = pki.anonymous()
            for _ in range(3):
                pki.ca = trustme.CA()
                pki.install(pki.server())
                await renewed(server)
                for port in (server.rest_port, server.grpc_port):
                    *_, shown = await _shake_hands(port, pki.anonymous().context)
                    assert ssl.DER_cert_to_PEM_cert(shown).encode().strip() in pki.cert.read_bytes()
                assert (await rest_status(server, pki.anonymous(), basic()), await rest_status(server, old, basic())) == (200, 0)
                assert await list_outcome(server, pki.anonymous(), basic()) == "OK"
                assert (await list_outcome(server, old, basic())).startswith("UNAVAILABLE")
            await registry.Heartbeat(pb.HeartbeatRequest(instance_id="orders:localhost:1"))
            await registry.Deregister(pb.DeregisterRequest(instance_id="orders:localhost:1"))
            while pb.EVENT_TYPE_REMOVED not in [event.type for event in (await anext(watch)).events]:
                pass


async def test_a_new_certificate_that_one_door_cannot_use(pki: Pki) -> None:
    """Is used by neither: they would differ."""
    async with running(settings_for_tests(**pki.flags())) as server:
        assert server.certificates is not None
        before = server.certificates.identity
        pki.install(issued(pki.ca, key=ed448.Ed448PrivateKey.generate()))
        with capture_logs() as logs:
            await renewed(server)
        assert [(entry["log_level"], entry["event"]) for entry in logs] == [("error", "certificate not renewed")]
        for port in (server.rest_port, server.grpc_port):
            *_, shown = await _shake_hands(port, pki.anonymous().context)
            assert ssl.DER_cert_to_PEM_cert(shown).encode().strip() in before.contents.cert


async def test_a_client_ca_that_is_taken_out(pki: Pki) -> None:
    """Its clients get through no more, not even by resuming a TLS session from before; those of the new one do."""
    async with running(settings_for_tests(**pki.flags(clients=True))) as server:
        client = pki.client("x.example", common_name="admin")
        assert (await rest_status(server, client), await list_outcome(server, client)) == (200, "OK")
        sessions = {}
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = only(pki.client("x.example", common_name="admin").context, version)
            _, sessions[context] = await asyncio.to_thread(_resume, server.rest_port, context, None)
            assert (await asyncio.to_thread(_resume, server.rest_port, context, sessions[context]))[0]
        pki.client_ca, before = trustme.CA(), pki.client_ca
        pki.trust(pki.client_ca)
        await renewed(server)
        for context, session in sessions.items():
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.to_thread(_resume, server.rest_port, context, session)
        assert await rest_status(server, client) == 0
        assert (await list_outcome(server, client)).startswith("UNAVAILABLE")
        client = pki.client("x.example", common_name="admin")
        assert (await rest_status(server, client), await list_outcome(server, client)) == (200, "OK")
        pki.trust(before, pki.client_ca)
        await renewed(server)
        assert await rest_status(server, pki.client("x.example", common_name="admin", ca=before)) == 200


def _resume(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None) -> tuple[bool | None, ssl.SSLSession | None]:
    """Ask for the list; return whether the TLS session was resumed, and the session."""
    with (
        socket.create_connection(("localhost", port), timeout=10) as connection,
        context.wrap_socket(connection, server_hostname="localhost", session=session) as tls,
    ):
        tls.sendall(f"GET {LIST} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        if not tls.recv(65536).startswith(b"HTTP/1.1 200"):
            raise ConnectionError("no answer")
        return tls.session_reused, tls.session


async def test_no_files_left_for_new_sockets(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the port goes on as before; renewed ones are closed at the end like any other."""
    async with running(settings_for_tests(**pki.flags())) as server:
        assert server.certificates is not None
        identity = server.certificates.identity

        def no_more(_: int) -> int:
            raise OSError(24, "Too many open files")

        with monkeypatch.context() as patch:
            patch.setattr(os, "dup", no_more)
            with pytest.raises(OSError, match="Too many"):
                await server.rest.renew(identity)
        assert await rest_status(server, pki.anonymous(), basic()) == 200
        await server.rest.renew(identity)
        assert await rest_status(server, pki.anonymous(), basic()) == 200
    with pytest.raises(ConnectionError):
        await asyncio.open_connection("127.0.0.1", server.rest_port)


# What else depends on TLS


@pytest.mark.parametrize(
    ("scheme", "origin", "status"),
    [
        ("https", "https://{host}", 404), ("https", "http://{host}", 403), ("https", "https://elsewhere.example", 403),
        ("https", "null", 403), ("https", "{host}", 403),
        # Behind a proxy that has TLS, a registry without it cannot know the scheme.
        ("http", "https://{host}", 404), ("http", "http://{host}", 404), ("http", "https://elsewhere.example", 403),
    ],
)  # fmt: skip
async def test_writes_of_pages(secure: Running, server: Running, shared: Pki, scheme: str, origin: str, status: int) -> None:
    """With TLS a page of the same name that came without TLS is foreign: whoever sits on the line can make one."""
    if scheme == "http":
        host = f"localhost:{server.rest_port}"
        async with ClientSession() as session:
            url = f"http://{host}{INSTANCE}"
            response = await session.delete(url, headers={"Origin": origin.format(host=host), "Authorization": basic()})
    else:
        host = f"localhost:{secure.rest_port}"
        async with rest(secure, shared.anonymous(), basic()) as session:
            response = await session.delete(INSTANCE, headers={"Origin": origin.format(host=host)})
    assert response.status == status


async def test_the_examples_of_the_panel(secure: Running, mutual: Running, shared: Pki) -> None:
    """Are for https, and show a certificate when the reader came with one."""

    async def page(session: ClientSession) -> str:
        response = await session.get("/registry/v1/services/", headers={"Accept": "text/html"})
        return (await response.text()).replace("&#39;", "'").replace("&#34;", '"')

    async with rest(secure, shared.anonymous(), basic()) as session:
        text = await page(session)
    assert f"curl -u admin: -X POST https://localhost:{secure.rest_port}/registry" in text
    assert 'grpcurl -H "authorization: Basic $(printf %s admin: | base64 | tr -d "\\n")"' in text
    assert f"localhost:{secure.grpc_port} luna.registry.v1.Registry/Register" in text
    assert "--cacert ca.pem" in text
    async with rest(mutual, shared.client("reader.example")) as session:
        text = await page(session)
    assert "curl --cert client.pem --key client.key -X POST" in text
    assert "grpcurl -cert client.pem -key client.key \\" in text
    async with rest(mutual, shared.client("reader.example"), basic(password=PASSWORD)) as session:
        assert "curl -u admin: --cert client.pem --key client.key -X POST" in await page(session)
    async with rest(mutual, shared.client("nobody.example")) as session:
        response = await session.get("/registry/v1/services/", headers={"Accept": "text/html"})
        assert response.status == 401
        assert "luna.css" not in await response.text()
    async with rest(mutual, shared.client("reader.example")) as session:
        response = await session.get("/registry/v1/nosuch", headers={"Accept": "text/html"})
        assert (response.status, "luna.css" in await response.text()) == (404, True)
