"""What one REST client may take of the server, each limit through the real door."""

import asyncio
import gzip
import json
import socket
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
from aiohttp import ClientSession, web

from gateway import connections
from gateway.body import decoded
from gateway.lists import SLICE, Body, Lists
from luna_grpc.errors import UnavailableError
from luna_grpc.model import Info, Status
from luna_grpc.serve import Running, running
from raw_http import Answer, answers
from store_contract import ALICE
from support import basic, instance_json, session, settings_for_tests

ID = "orders:localhost:8080"
PATH = f"/registry/v1/instances/{ID}"
HEAD = f"PUT {PATH} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {basic()}\r\n".encode()
WHOLE = HEAD + b"Content-Length: 0\r\n\r\n"
PATIENCE = 20.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at connections often, so that short times are kept."""
    monkeypatch.setattr(connections, "LOOK", 0.02)


@asynccontextmanager
async def limited(**flags: object) -> AsyncIterator[Running]:
    """Run a server with limits, and an instance in it."""
    async with running(settings_for_tests(**flags)) as server:
        await server.registry.register(Info.of(ID), Status.OK, actor=ALICE)
        yield server


class Line:
    """A connection as bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.got = b""

    async def ask(self, request: bytes) -> Answer:
        """Send a request, and return its answer."""
        self.writer.write(request)
        return await self.answer()

    async def answer(self) -> Answer:
        """Return the next answer, whose length stands in its head."""
        async with asyncio.timeout(PATIENCE):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            [answer] = answers(head + await self._reader.readexactly(length))
            return answer

    async def is_closed(self) -> bool:
        """Wait for the end, without anything before it."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self._reader.read() == b""
            except ConnectionError:
                return True

    async def refused(self, status: int, code: str, words: str) -> Answer:
        """Wait for a refusal, and the end."""
        answer = await self.answer()
        body = json.loads(answer.body)
        assert (answer.status, body["code"]) == (status, code)
        assert words in body["error"]
        assert answer.headers.get("connection", "close") == "close"  # what is no request is answered by HTTP/1.0
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert await self.is_closed()
        return answer


@asynccontextmanager
async def line(server: Running) -> AsyncIterator[Line]:
    """Open a connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.rest_port)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


# Times


async def drip(connection: Line, data: bytes) -> None:
    """Send something again and again, until nobody takes it any more."""
    with suppress(ConnectionError):
        while True:
            connection.writer.write(data)
            await connection.writer.drain()
            await asyncio.sleep(0.02)


@asynccontextmanager
async def dripping(connection: Line, data: bytes) -> AsyncIterator[None]:
    """Drip for as long as the context is open."""
    task = asyncio.create_task(drip(connection, data))
    try:
        yield
    finally:
        task.cancel()


@pytest.mark.parametrize("before", [b"", WHOLE], ids=["first", "later"])
async def test_headers_that_come_slowly(before: bytes) -> None:
    """408, however busily they come, also on a connection that was good before."""
    async with limited(header_timeout=0.2) as server, line(server) as connection:
        if before:
            assert (await connection.ask(before)).status == 200
        connection.writer.write(HEAD)
        async with dripping(connection, b"X-A: b\r\n"):
            await connection.refused(408, "REQUEST_TIMEOUT", "LUNA_HEADER_TIMEOUT")
        assert server.rest.refusals["REQUEST_TIMEOUT"] == 1


async def test_a_connection_that_says_nothing() -> None:
    """It is closed after the time that there is for headers; it asked nothing, so it is told nothing."""
    async with limited(header_timeout=0.2) as server, line(server) as connection:
        assert await connection.is_closed()


async def test_a_connection_that_asks_nothing_more() -> None:
    """It is closed after the idle time and not before; line breaks are no question."""
    async with limited(header_timeout=0.1, idle_timeout=0.5) as server, line(server) as connection:
        began = asyncio.get_running_loop().time()
        assert (await connection.ask(WHOLE)).status == 200
        connection.writer.write(b"\r\n")
        assert await connection.is_closed()
        assert asyncio.get_running_loop().time() - began >= 0.5


@pytest.mark.parametrize("framing", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
async def test_a_body_that_comes_slowly(framing: bytes) -> None:
    """408, with the field; the connection is closed, for the rest may still come."""
    drop = b" " if b"Length" in framing else b"1\r\n \r\n"
    async with limited(body_timeout=0.2) as server, line(server) as connection:
        connection.writer.write(HEAD + framing + b"\r\n\r\n")
        async with dripping(connection, drop):
            answer = await connection.refused(408, "REQUEST_TIMEOUT", "LUNA_BODY_TIMEOUT")
        assert json.loads(answer.body)["field"] == "body"


async def test_a_stranger_has_no_time_for_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """401 at once; what he still sends is not waited for for long."""
    monkeypatch.setattr(connections, "LINGER", 0.1)
    async with limited(body_timeout=100) as server, line(server) as connection:
        head = HEAD.replace(basic().encode(), basic("nobody").encode())
        assert (await connection.ask(head + b"Content-Length: 1000\r\n\r\n")).status == 401
        async with dripping(connection, b" "):
            assert await connection.is_closed()


async def test_a_quick_body_has_no_time_limit() -> None:
    """Requests that follow each other on one connection are each looked at anew."""
    async with limited(body_timeout=0.3, header_timeout=0.3) as server, line(server) as connection:
        body = json.dumps(instance_json(ID)).encode()
        for _ in range(20):
            connection.writer.write(HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body[:10])
            await asyncio.sleep(0.03)
            assert (await connection.ask(body[10:])).status == 200


async def test_a_client_that_does_not_take_its_answer() -> None:
    """It is dropped when it has taken nothing for some time; what it asked for is not kept for it."""
    async with limited(write_timeout=0.3) as server:
        for number in range(1, 5001):
            await server.registry.register(Info.of(f"a:h:{number}", description="x" * 1000), Status.OK, actor=ALICE)
        deaf = socket.create_connection(("127.0.0.1", server.rest_port))
        deaf.sendall(f"GET /registry/v1/services/json HTTP/1.1\r\nHost: localhost\r\nAuthorization: {basic()}\r\n\r\n".encode())
        await _until_nobody_is_connected(server)
        deaf.close()


async def test_a_client_that_takes_nothing_is_not_kept_for_its_last_bytes() -> None:
    """Also when all requests are answered and the connection is closed but for what is on the way."""
    async with limited(write_timeout=0.3, idle_timeout=0.3) as server:
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", server.rest_port))
        deaf.settimeout(1)
        with suppress(OSError):
            for _ in range(2000):
                await asyncio.to_thread(deaf.sendall, WHOLE * 10)
        await _until_nobody_is_connected(server)
        deaf.close()


async def _until_nobody_is_connected(server: Running) -> None:
    async with asyncio.timeout(PATIENCE):
        while server.rest._runner.connections.connections:  # noqa: ASYNC110 - the server has no reason to tell
            await asyncio.sleep(0.01)


# Sizes


async def test_headers_that_are_too_large_in_parts() -> None:
    """431 as soon as they are; nobody can have a megabyte of them kept."""
    async with limited(max_header_size=2000) as server, line(server) as connection:
        connection.writer.write(HEAD)
        async with dripping(connection, b"X-A: " + b"b" * 500 + b"\r\n"):
            await connection.refused(431, "HEADERS_TOO_LARGE", "2000 bytes (LUNA_MAX_HEADER_SIZE)")


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (HEAD + b"X-A: " + b"b" * 2001 + b"\r\n\r\n", "a header has more than 2000 bytes (LUNA_MAX_HEADER_SIZE)"),
        (b"GET /" + b"b" * 2001 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", "the request line or a header"),
        (HEAD + b"".join(b"X-%d: a\r\n" % n for n in range(200)) + b"\r\n", "more than 128 headers"),
    ],
    ids=["value", "line", "number"],
)
async def test_headers_that_are_too_large_at_once(request_: bytes, words: str) -> None:
    """431, in JSON."""
    async with limited(max_header_size=2000) as server, line(server) as connection:
        connection.writer.write(request_)
        await connection.refused(431, "HEADERS_TOO_LARGE", words)
        assert server.rest.refusals["HEADERS_TOO_LARGE"] == 1


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    ],
)
async def test_what_is_no_request(rubbish: bytes) -> None:
    """400, in JSON, with the parser's words."""
    async with limited() as server, line(server) as connection:
        connection.writer.write(rubbish + b"\r\n\r\n")
        await connection.refused(400, "INVALID_ARGUMENT", "this is no HTTP request")


@pytest.mark.parametrize("size", [1024, 200_000])
async def test_the_size_of_a_body(size: int) -> None:
    """413 with the limit in its words; what is just as large is taken."""
    async with limited(max_body=size) as server, session(f"http://127.0.0.1:{server.rest_port}") as client:
        body = json.dumps(instance_json(ID)).encode()
        assert (await client.put(PATH, data=body.ljust(size))).status == 200
        await refused(client, body.ljust(size + 1), 413, "PAYLOAD_TOO_LARGE", f"larger than {size} bytes (LUNA_MAX_BODY)")


async def refused(client: ClientSession, body: bytes, status: int, code: str, words: str, encoding: str = "") -> None:
    """Send a body that is refused."""
    async with client.put(PATH, data=body, headers={"Content-Encoding": encoding} if encoding else {}) as answer:
        said = await answer.json()
        assert (answer.status, said["code"], said["field"]) == (status, code, "body")
        assert words in said["error"]


def plain_deflate(data: bytes) -> bytes:
    """Compress without the header that the standard asks for."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("X-GZip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", plain_deflate),
        ("identity", bytes),
    ],
)
async def test_a_compressed_body(encoding: str, pack: type[bytes]) -> None:
    """It counts as what it says; a small one that unpacks to a large one is too large, and is not unpacked any further."""
    async with limited() as server, session(f"http://127.0.0.1:{server.rest_port}") as client:
        body = json.dumps(instance_json(ID, description="packed")).encode()
        headers = {"Content-Encoding": encoding}
        for method in ("PUT", "PUT", "POST"):
            if method == "POST":
                await client.delete(PATH)
            async with client.request(method, PATH, data=pack(body), headers=headers) as answer:
                assert (await answer.json())["description"] == "packed"
        if encoding != "identity":
            await refused(client, pack(bytes(50_000_000)), 413, "PAYLOAD_TOO_LARGE", "larger than 102400 bytes", encoding)
            for damaged in (b"rubbish", pack(body)[:-6]):
                await refused(client, damaged, 400, "INVALID_ARGUMENT", "not in the encoding", encoding)


def test_a_bomb_is_not_unpacked() -> None:
    """No more than may be said is ever held of what it says."""
    bomb = gzip.compress(bytes(50_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(web.HTTPRequestEntityTooLarge):
            decoded(bomb, "gzip", 100_000)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "nonsense"])
async def test_an_encoding_that_is_not_known(server: Running, encoding: str) -> None:
    """400 with those that are."""
    await server.registry.register(Info.of(ID), Status.OK, actor=ALICE)
    async with session(f"http://127.0.0.1:{server.rest_port}") as client:
        await refused(client, b"{}", 400, "INVALID_ARGUMENT", "send it as gzip, deflate or plain", encoding)


async def _service(lists: Lists) -> Body:
    return await lists.service("a")


@pytest.mark.parametrize("asked", [Lists.services, _service])
async def test_many_lists_at_a_time(server: Running, asked: Callable[[Lists], Awaitable[Body]]) -> None:
    """Refused when all that are being sent would have too many instances; one alone may be as long as it is."""
    for number in range(1, 1001):
        await server.registry.register(Info.of(f"a:h:{number}"), Status.OK, actor=ALICE)
    lists = Lists(server.registry, most=900)
    for leave in (_read, _leave, _never_begin):
        parts = await asked(lists)
        for other in (Lists.services, _service):
            with pytest.raises(UnavailableError, match=r"lists of 1000 instances .*LUNA_MAX_LISTED") as caught:
                await other(lists)
            assert caught.value.retry_after
        assert not isinstance(parts, bytes)
        await leave(parts)
        del parts, caught
        await asyncio.sleep(0)
        assert lists._sending == 0


async def test_a_long_service_is_never_held_as_a_whole(server: Running) -> None:
    """It is written as it is sent, a slice of its instances at a time, and read it is the same as in the list of services."""
    for number in range(1, 1001):
        await server.registry.register(Info.of(f"a:h:{number}"), Status.OK, actor=ALICE)
    parts = await Lists(server.registry, most=1000).service("a")
    assert not isinstance(parts, bytes)
    written = [part async for part in parts]
    assert max(part.count(b"instanceId") for part in written) == SLICE
    async with session(f"http://127.0.0.1:{server.rest_port}") as client:
        async with client.get("/registry/v1/services/a", headers={"Accept": "application/json"}) as answer:
            body = await answer.read()
        async with client.get("/registry/v1/services/json") as answer:
            assert [json.loads(body)] == await answer.json()
    assert body == b"".join(written)
    assert [each["instanceId"] for each in json.loads(body)["instances"]] == [f"a:h:{number}" for number in range(1, 1001)]


async def _read(parts: AsyncIterator[bytes]) -> None:
    read = json.loads(b"".join([part async for part in parts]))
    [service] = read if isinstance(read, list) else [read]
    assert len(service["instances"]) == 1000


async def _leave(parts: AsyncIterator[bytes]) -> None:
    await anext(parts)


async def _never_begin(_: AsyncIterator[bytes]) -> None:
    pass


# Numbers


async def test_connections() -> None:
    """One too many is told so when it asks, with Retry-After; those that are there go on, and one that ends makes room."""
    async with limited(max_connections=2) as server, line(server) as first:
        async with line(server) as second:
            for each in (first, second):
                assert (await each.ask(WHOLE)).status == 200
            async with line(server) as third:
                third.writer.write(WHOLE)
                answer = await third.refused(503, "UNAVAILABLE", "2 connections are open")
                assert int(answer.headers["retry-after"]) == connections.ROOM_AFTER
            assert server.rest.refusals["UNAVAILABLE"] == 1
            assert (await first.ask(WHOLE)).status == 200
        async with asyncio.timeout(PATIENCE):
            while True:
                async with line(server) as again:
                    if (await again.ask(WHOLE)).status == 200:
                        break


async def test_connections_that_are_refused_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have a second to ask; beyond some, further ones are closed at once."""
    monkeypatch.setattr(connections, "TOLD", 0.3)
    async with limited(max_connections=8) as server, AsyncExitStack() as stack:
        for _ in range(8):
            assert (await (await stack.enter_async_context(line(server))).ask(WHOLE)).status == 200
        async with AsyncExitStack() as more:
            waiting = [await more.enter_async_context(line(server)) for _ in range(3)]
            async with line(server) as too_many:
                assert await too_many.is_closed()
            assert server.rest._runner.connections.told == 3
            for each in waiting:
                assert await each.is_closed()
        assert server.rest._runner.connections.told == 0


@pytest.mark.parametrize(
    ("limit", "status", "code"),
    [("max_connections", 503, "UNAVAILABLE"), ("max_connections_per_address", 429, "RESOURCE_EXHAUSTED")],
)
async def test_connections_in_excess_do_not_lower_the_count(limit: str, status: int, code: str) -> None:
    """However many were aborted, or refused in words: those that are open are counted, and one more is still one too many."""
    async with limited(**{limit: 2}) as server, AsyncExitStack() as stack:
        held = [await stack.enter_async_context(line(server)) for _ in range(2)]
        for each in held:
            assert (await each.ask(WHOLE)).status == 200
        counted = server.rest._runner.connections
        for _ in range(15):
            async with AsyncExitStack() as excess:
                for _ in range(10):
                    await excess.enter_async_context(line(server))
        async with asyncio.timeout(PATIENCE):
            while counted.told:  # noqa: ASYNC110 - the server has no reason to tell
                await asyncio.sleep(0.01)
        assert counted._open == 2
        assert sum(counted._addresses.values()) == (2 if limit == "max_connections_per_address" else 0)
        async with line(server) as another:
            another.writer.write(WHOLE)
            await another.refused(status, code, "2 connections")
        assert [(await each.ask(WHOLE)).status for each in held] == [200, 200]


async def test_connections_of_one_address() -> None:
    """429; another address is not concerned."""
    async with limited(max_connections_per_address=1) as server, line(server) as first:
        assert (await first.ask(WHOLE)).status == 200
        async with line(server) as second:
            second.writer.write(WHOLE)
            answer = await second.refused(429, "RESOURCE_EXHAUSTED", "1 connections from 127.0.0.1 are open")
            assert int(answer.headers["retry-after"]) == connections.ROOM_AFTER
        reader, writer = await asyncio.open_connection("127.0.0.1", server.rest_port, local_addr=("127.0.0.2", 0))
        assert (await Line(reader, writer).ask(WHOLE)).status == 200
        writer.close()
        await writer.wait_closed()
    assert server.rest._runner.connections._addresses == {}


async def test_instances() -> None:
    """429 with Retry-After."""
    async with limited(max_instances=1) as server, session(f"http://127.0.0.1:{server.rest_port}") as client:
        other = "other:localhost:1"
        async with client.post(PATH.replace(ID, other), json=instance_json(other)) as answer:
            assert (answer.status, (await answer.json())["code"]) == (429, "RESOURCE_EXHAUSTED")
            assert int(answer.headers["Retry-After"]) > 0
        assert (await client.put(PATH, json=instance_json(ID))).status == 200
