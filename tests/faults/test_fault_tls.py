"""TLS in real processes: strangers at the doors, and certificates that are renewed while clients come and go."""

import asyncio
import json
import os
import signal
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import grpc
import pytest
import trustme
from aiohttp import ClientError, ClientSession, TCPConnector
from harness import eventually, measured

from luna_grpc import users
from luna_grpc.access import Role
from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from pki import Client, Pki
from support import Luna, basic, channel, instance_json, luna, refused

LIST = "/registry/v1/services/json"
INSTANCES = "/registry/v1/instances/"
NOTICED = 15.0
"""Seconds within which a changed file has come into use: 10 are promised, the rest is for a busy machine."""
SOON = 5.0
"""Seconds; half of the grace period."""
BOTH = {"rest", "grpc"}


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    """Return CAs and files of a test's own."""
    return Pki(tmp_path)


class Log:
    """What a server has written so far."""

    def __init__(self, file: IO[bytes]) -> None:
        self.fileno = file.fileno()

    def events(self) -> list[dict[str, Any]]:
        """Return the lines; each is JSON."""
        return [json.loads(line) for line in os.pread(self.fileno, 10_000_000, 0).splitlines(keepends=True) if line.endswith(b"\n")]

    def named(self, name: str) -> list[dict[str, Any]]:
        """Return the lines of one event."""
        return [event for event in self.events() if event["event"] == name]

    def loud(self) -> list[dict[str, Any]]:
        """Return warnings and worse, but for those of a busy machine."""
        return [event for event in self.events() if event["level"] not in {"debug", "info"} and event["event"] != "stalled"]


@contextmanager
def written() -> Iterator[Log]:
    """Return a log to be filled."""
    with tempfile.TemporaryFile() as file:
        yield Log(file)


@asynccontextmanager
async def rest(server: Luna, client: Client) -> AsyncIterator[ClientSession]:
    """Return an HTTP client whose every request comes over a new connection."""
    connector = TCPConnector(ssl=client.context, force_close=True)
    async with ClientSession(server.rest, headers={"Authorization": basic()}, connector=connector) as session:
        yield session


async def answering(server: Luna, client: Client) -> set[str]:
    """Return the doors that take a new connection of a client."""
    doors = {"rest", "grpc"}
    async with rest(server, client) as session, channel(server.grpc, tls=client.credentials) as connection:
        try:
            async with session.get(LIST) as response:
                assert response.status == 200
        except ClientError:
            doors.remove("rest")
        try:
            await registry_pb2_grpc.RegistryStub(connection).ListServices(pb.ListServicesRequest(), timeout=10)
        except grpc.aio.AioRpcError:
            doors.remove("grpc")
    return doors


async def rubbish(address: str, data: bytes) -> bytes:
    """Send bytes, and return what comes back until the server ends the connection."""
    reader, writer = await asyncio.open_connection(*address.removeprefix("https://").rsplit(":", 1))
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(65536), 10)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def hello(context: ssl.SSLContext) -> bytes:
    """Return the first bytes of a client."""
    sent = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent).do_handshake()
    return sent.read()


async def test_strangers_leave_no_trace(pki: Pki) -> None:
    """Plaintext, rubbish, no certificate, a foreign one: refused at once at both doors, and no trouble of the server's."""
    known = pki.client("x.example", common_name="admin")
    strangers = [pki.anonymous(), pki.client(ca=trustme.CA()), Client((trustme.CA(),), known.pair)]
    with written() as log:
        async with luna(*pki.arguments(clients=True), stderr=log.fileno) as server:
            context = known.context
            context.check_hostname = False
            for address in (server.rest, server.grpc):
                for data in (
                    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
                    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                    b"\x16\x03\x01\xff\xff" * 99,
                ):
                    answer = await rubbish(address, data)
                    assert b"HTTP" not in answer
                    assert len(answer) < 100, answer
                # Gone in the middle of a handshake.
                _, writer = await asyncio.open_connection(*address.removeprefix("https://").rsplit(":", 1))
                writer.write(hello(context)[:100])
                writer.close()
            for stranger in strangers:
                assert await answering(server, stranger) == set()
            async with channel(server.grpc) as plain:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await registry_pb2_grpc.RegistryStub(plain).ListServices(pb.ListServicesRequest(), timeout=10)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            async with rest(server, known) as session:
                del session.headers["Authorization"]
                async with session.get(LIST) as response:
                    assert response.status == 200
            assert await server.stop() == 0
        assert log.loud() == []
        assert not [event for event in log.events() if "exception" in event]


class Visitors:
    """Clients that come anew all the time, at both doors, and one of each kind that stays."""

    def __init__(self, server: Luna, client: Client) -> None:
        self._server = server
        self.client = client
        """Who comes next."""
        self.came = 0
        self.failures: list[str] = []

    async def come_and_go(self) -> None:
        """Connect and ask, again and again."""
        while True:
            for visit in (self._by_rest, self._by_grpc):
                try:
                    await visit(self.client)
                except (ClientError, grpc.aio.AioRpcError, AssertionError) as error:
                    self.failures.append(repr(error))
                self.came += 1

    async def stay(self, beats: list[int]) -> None:
        """Send heartbeats over one stream and one kept connection, and note each answer."""
        client = self.client
        connector = TCPConnector(ssl=client.context)
        headers = {"Authorization": basic()}
        async with (
            ClientSession(self._server.rest, headers=headers, connector=connector) as session,
            channel(self._server.grpc, tls=client.credentials) as connection,
        ):
            path = INSTANCES + "kept:localhost:1"
            async with session.post(path, json=instance_json("kept:localhost:1")) as response:
                assert response.status == 201
            stream = registry_pb2_grpc.RegistryStub(connection).StreamHeartbeats()
            while True:
                await stream.write(pb.StreamHeartbeatsRequest(instance_ids=["kept:localhost:1"], sequence=len(beats)))
                answer = await stream.read()
                assert isinstance(answer, pb.StreamHeartbeatsResponse)
                assert not answer.failures
                async with session.put(path) as response:
                    assert response.status == 200
                beats.append(answer.sequence)
                await asyncio.sleep(0.01)

    async def _by_rest(self, client: Client) -> None:
        async with rest(self._server, client) as session, session.get(LIST) as response:
            assert response.status == 200

    async def _by_grpc(self, client: Client) -> None:
        async with channel(self._server.grpc, tls=client.credentials) as connection:
            await registry_pb2_grpc.RegistryStub(connection).ListServices(pb.ListServicesRequest(), timeout=10)


@asynccontextmanager
async def visited(server: Luna, client: Client) -> AsyncIterator[Visitors]:
    """Let visitors come for as long as the context is open; none of them may fail."""
    visitors, beats = Visitors(server, client), list[int]()
    tasks = [asyncio.create_task(work) for work in (visitors.come_and_go(), visitors.come_and_go(), visitors.stay(beats))]
    try:
        await eventually(lambda: visitors.came > 10 and len(beats) > 10, 20, "visitors")
        yield visitors
        came, beaten = visitors.came, len(beats)
        await eventually(lambda: visitors.came > came + 10 and len(beats) > beaten + 10, 20, "visitors who still come")
        assert [task for task in tasks if task.done()] == []
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert visitors.failures == []


async def in_use(server: Luna, client: Client, within: float) -> float:
    """Wait until both doors show a certificate that a client trusts; return the seconds that took."""
    began = time.monotonic()
    while await answering(server, client) != BOTH:
        assert time.monotonic() - began < within
        await asyncio.sleep(0.05)
    return time.monotonic() - began


@pytest.mark.parametrize(("how", "rounds"), [("signal", 5), ("change", 2)])
async def test_renewal_while_clients_come_and_go(
    pki: Pki, how: str, rounds: int, record_property: Callable[[str, object], None]
) -> None:
    """New certificates, on SIGHUP or because the files changed: no visitor is refused, and those who stay notice nothing."""
    with written() as log:
        async with luna(*pki.arguments(), stderr=log.fileno) as server, visited(server, pki.anonymous()) as visitors:
            took = []
            for _ in range(rounds):
                old, new = pki.ca, trustme.CA()
                visitors.client = pki.anonymous(old, new)  # in the moment of change either can be shown
                assert await answering(server, pki.anonymous(new)) == set()
                pki.install(pki.server(ca=new))
                if how == "signal":
                    server.process.send_signal(signal.SIGHUP)
                took.append(await in_use(server, pki.anonymous(new), NOTICED))
                assert await answering(server, pki.anonymous(old)) == set()
                pki.ca = new
        measured(record_property, f"seconds until a new certificate is in use, on {how}", *took)
        assert len(log.named("certificate renewed")) == rounds
        assert log.loud() == []


@pytest.mark.parametrize("how", ["signal", "change"])
async def test_a_wrong_new_certificate(pki: Pki, how: str) -> None:
    """Is an error in the log; the old one stays in use, and a right one is taken after it."""
    with written() as log:
        async with luna(*pki.arguments(), stderr=log.fileno) as server, visited(server, pki.anonymous()):
            new = pki.server()
            pki.write(pki.key, new.key)
            if how == "signal":
                server.process.send_signal(signal.SIGHUP)
            [error] = await eventually(log.loud, NOTICED, "an error in the log")
            assert (error["level"], error["event"]) == ("error", "certificate not renewed")
            assert error["reason"].startswith(f"the key in {pki.key} is not that of the first certificate in {pki.cert}: ")
            assert await answering(server, pki.anonymous()) == BOTH
            pki.write(pki.cert, new.cert)
            await eventually(lambda: log.named("certificate renewed"), NOTICED, "the renewal")
            assert await answering(server, pki.anonymous()) == BOTH
        assert len(log.loud()) == 1


async def test_one_signal_renews_users_and_certificates(pki: Pki, tmp_path: Path) -> None:
    """And when it finds nothing new, it says so."""
    users_file = str(tmp_path / "users.toml")
    users.add(users_file, "reader", role=Role.READER, prefixes=(), password="x")
    flags = [*pki.arguments(clients=True), "--users-file", users_file]
    with written() as log:
        async with luna(*flags, stderr=log.fileno) as server:
            reader = pki.client("x.example", common_name="reader")
            async with channel(server.grpc, "", reader.credentials) as connection:
                watch = aiter(registry_pb2_grpc.RegistryStub(connection).WatchServices(pb.WatchServicesRequest()))
                await anext(watch)
                users.remove(users_file, "reader")
                server.process.send_signal(signal.SIGHUP)
                with pytest.raises(grpc.aio.AioRpcError, match="the users of the registry have changed"):
                    [_ async for _ in watch]
            await eventually(lambda: log.named("certificate not renewed"), 10, "what came of the signal")
        [said] = log.named("certificate not renewed")
        assert (said["level"], said["reason"]) == ("info", "the files are still the same")
        assert len(log.named("users file reloaded")) == 1
        assert log.loud() == []


@pytest.mark.parametrize(("days", "event"), [(-1, "certificate has expired"), (13, "certificate expires soon")])
async def test_an_old_certificate(pki: Pki, days: int, event: str) -> None:
    """The server starts with it, and warns; an expired one is the client's to refuse."""
    pki.install(pki.server(days=days))
    with written() as log:
        async with luna(*pki.arguments(), stderr=log.fileno) as server:
            assert await answering(server, pki.anonymous()) == (BOTH if days > 0 else set())
            lenient = pki.anonymous()
            lenient.context.check_hostname = False
            lenient.context.verify_mode = ssl.CERT_NONE
            async with rest(server, lenient) as session, session.get(LIST) as response:
                assert response.status == 200
        [warning] = log.loud()
        assert (warning["level"], warning["event"], warning["path"]) == ("warning", event, str(pki.cert))
        assert datetime.fromisoformat(warning["expires"]) == pytest.approx(
            datetime.now(UTC) + timedelta(days=days), abs=timedelta(minutes=5)
        )


async def test_files_that_do_not_fit(pki: Pki) -> None:
    """A server that cannot have TLS as told does not start: one line, exit code 2 for a setting and 1 for a file."""
    cert, key = str(pki.cert), str(pki.key)
    cases = [
        (("--tls-cert", cert), 2, "--tls-key / LUNA_TLS_KEY is missing"),
        (("--tls-client-ca", cert), 2, "--tls-cert / LUNA_TLS_CERT is missing"),
        (("--host", "0.0.0.0", "--tls-cert", cert, "--tls-key", key), 2, "the password is empty"),
        (("--tls-cert", cert, "--tls-key", key + "x"), 1, f"the TLS file {key}x does not exist"),
        (("--tls-cert", key, "--tls-key", key), 1, "are no certificate and its key"),
        (("--tls-cert", cert, "--tls-key", key, "--tls-client-ca", key), 1, "holds no certificates"),
    ]
    for flags, code, words in cases:
        seen, lines = await refused("--port", "0", "--grpc-port", "0", *flags)
        assert (seen, len(lines)) == (code, 1), (flags, lines)
        assert lines[0].startswith("luna: ")
        assert words in lines[0]


async def test_a_client_ca_instead_of_a_password(pki: Pki) -> None:
    """With one the server listens where others can reach it, though no password is set; and it says https."""
    async with luna("--host", "0.0.0.0", *pki.arguments(clients=True)) as server:
        assert server.rest.startswith("https://0.0.0.0:")


async def test_stopping_with_open_connections(pki: Pki) -> None:
    """Idle connections, and one whose client never reads, keep nobody waiting."""
    async with luna(*pki.arguments()) as server:
        client = pki.anonymous()
        host, port = server.rest.removeprefix("https://").rsplit(":", 1)
        _, idle = await asyncio.open_connection(host, port, ssl=client.context)
        _, silent = await asyncio.open_connection(host, port)
        async with channel(server.grpc, tls=client.credentials) as connection:
            await registry_pb2_grpc.RegistryStub(connection).ListServices(pb.ListServicesRequest())
            began = time.monotonic()
            assert await server.stop() == 0
            assert time.monotonic() - began < SOON
        for writer in (idle, silent):
            writer.close()
