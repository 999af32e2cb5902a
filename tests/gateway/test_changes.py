"""Those who follow changes: told which revision it is, seldom, and never waited for."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import ClientResponse, ClientSession, TCPConnector

from gateway import changes
from luna_grpc import users
from luna_grpc.access import Role
from luna_grpc.model import ITSELF, Info, Status
from luna_grpc.serve import Running, running
from pki import Pki
from support import basic, session, settings_for_tests, status_of

PATH = "/registry/v1/changes"
PATIENCE = 60
"""Seconds for what is sure to come, on however busy a machine."""
ASKED = f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {basic()}\r\n\r\n".encode()


async def register(server: Running, instance_id: str, status: Status = Status.OK) -> None:
    """Change something."""
    await server.registry.register(Info.of(instance_id), status, actor=ITSELF)


async def part(response: ClientResponse) -> bytes:
    """Return the next event or comment, as it is on the wire; nothing when the stream has ended."""
    async with asyncio.timeout(PATIENCE):
        lines = b""
        while not lines.endswith(b"\n\n"):
            line = await response.content.readline()
            if not line:
                return lines
            lines += line
    return lines


async def event(response: ClientResponse) -> dict[str, Any]:
    """Return what the next event says."""
    said = await part(response)
    fields = dict(line.split(": ", 1) for line in said.decode().strip().split("\n"))
    data: dict[str, Any] = orjson.loads(fields["data"])
    assert fields["id"] == f"{data['feed']}-{data['revision']}"
    return data


async def until_open(server: Running, count: int) -> None:
    """Return when so many streams are open."""
    async with asyncio.timeout(PATIENCE):
        while len(server.rest.changes) != count:  # noqa: ASYNC110 - that it changes is what is to be seen
            await asyncio.sleep(0.005)


@asynccontextmanager
async def silent_reader(server: Running) -> AsyncIterator[None]:
    """Follow changes, and read nothing of it."""
    with socket.socket() as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        own.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(own, ("127.0.0.1", server.rest_port))
        await loop.sock_sendall(own, ASKED)
        yield


async def test_the_present_comes_at_once_and_then_each_change(server: Running, rest: ClientSession) -> None:
    """Named by the feed and the revision, with the number of those that are down and not drained."""
    for number in range(3):
        await register(server, f"down:h:{number + 1}", Status.DOWN)
    await server.registry.drain("down:h:3", 60, actor=ITSELF)
    async with rest.get(PATH) as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-store"
        feed = server.registry.store.feed
        assert await event(response) == {"feed": feed.log_id, "revision": 4, "down": 2}
        await register(server, "up:h:1")
        assert await event(response) == {"feed": feed.log_id, "revision": 5, "down": 2}


async def test_however_much_changes_it_is_told_seldom(
    server: Running, rest: ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first change at once; of all that follow only the latest, when the time has come."""
    monkeypatch.setattr(changes, "PERIOD", 3600.0)
    async with rest.get(PATH) as response:
        await event(response)
        await register(server, "first:h:1")
        assert (await event(response))["revision"] == 1
        for number in range(100):
            await register(server, f"s{number}:h:1")
        timer = server.rest.changes._timer
        assert timer is not None
        assert timer.when() - asyncio.get_running_loop().time() > 3000
        timer.cancel()
        server.rest.changes._tell()
        assert (await event(response))["revision"] == 101


async def test_a_change_costs_nothing_while_nobody_listens(server: Running, rest: ClientSession) -> None:
    """Nothing is even noted."""
    await register(server, "a:h:1")
    assert server.rest.changes._timer is None
    async with rest.get(PATH) as response:
        await event(response)
        await register(server, "b:h:1")
        assert server.rest.changes._timer is not None
        await event(response)
    await until_open(server, 0)
    await register(server, "c:h:1")
    assert server.rest.changes._timer is None


async def test_a_quiet_stream_shows_that_it_is_alive(rest: ClientSession, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """By comments; a change is told all the same."""
    monkeypatch.setattr(changes, "QUIET", 0.01)
    async with rest.get(PATH) as response:
        await event(response)
        assert [await part(response) for _ in range(3)] == [b":\n\n"] * 3
        await register(server, "a:h:1")
        while (said := await part(response)) == b":\n\n":
            pass
        assert b'"revision":1,' in said


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_one_event_is_to_be_had_without_a_stream(server: Running, rest: ClientSession, method: str) -> None:
    """With `once`; HEAD never streams."""
    async with rest.request(method, PATH + ("?once" if method == "GET" else "")) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert (await response.read()).endswith(b'"revision":0,"down":0}\n\n' if method == "GET" else b"")
    assert len(server.rest.changes) == 0


async def test_who_does_not_read_costs_little_and_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more than one event waits for a reader; after the write timeout the connection is closed."""
    monkeypatch.setattr(changes, "PERIOD", 0.0)
    async with running(settings_for_tests(write_timeout=0.5)) as server, silent_reader(server):
        await until_open(server, 1)
        [stream] = server.rest.changes._open
        transport: Any = stream._transport
        unsent, number = [0], 0
        async with asyncio.timeout(PATIENCE):
            while len(server.rest.changes):
                number += 1
                await register(server, f"s{number % 100}:h:{number}")
                await asyncio.sleep(0.001)
                unsent.append(transport.get_write_buffer_size())
        assert 0 < max(unsent) < 1000


async def test_a_server_that_stops_says_so_and_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for those who read nor for those who do not, however long requests may take to finish."""
    monkeypatch.setattr(changes, "PERIOD", 0.0)
    async with (
        running(settings_for_tests(shutdown_grace=3600, write_timeout=3600)) as server,
        silent_reader(server),
        session(f"http://127.0.0.1:{server.rest_port}") as rest,
    ):
        await until_open(server, 1)
        [stuck] = server.rest.changes._open
        transport: Any = stuck._transport
        number = 0
        while not transport.get_write_buffer_size():
            number += 1
            await register(server, f"s{number % 100}:h:{number}")
            await asyncio.sleep(0.001)
        response = await rest.get(PATH)
        await event(response)
        assert len(server.rest.in_flight) == 0
        async with asyncio.timeout(PATIENCE):
            await server.rest.stop()
        assert await part(response) == b"event: bye\ndata: {}\n\n"
        assert await part(response) == b""
        assert len(server.rest.changes) == 0


async def test_a_server_that_stops_takes_no_more_readers(server: Running, rest: ClientSession) -> None:
    """Whoever has a connection already is sent away."""
    server.rest.changes.close()
    async with rest.get(PATH) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "1")


async def test_who_is_removed_is_out(tmp_path: Path) -> None:
    """At once, without another word; the others stay."""
    file = str(tmp_path / "users.toml")
    for name in ("rita", "ruth"):
        users.add(file, name, role=Role.READER, prefixes=(), password="x")
    async with running(settings_for_tests(users_file=file)) as server:
        url, rows = f"http://127.0.0.1:{server.rest_port}", users.read(file)
        async with (
            session(url, basic("rita", "x")) as rita,
            session(url, basic("ruth", "x")) as ruth,
            rita.get(PATH) as removed,
            ruth.get(PATH) as kept,
        ):
            assert [(await event(each))["revision"] for each in (removed, kept)] == [0, 0]
            server.authenticator.replace({"ruth": rows["ruth"]})
            assert await part(removed) == b""
            await register(server, "a:h:1")
            assert (await event(kept))["revision"] == 1
            assert await status_of(rita, PATH) == 401


async def test_there_may_be_so_many() -> None:
    """One more is refused with the name of the setting; when one leaves there is room again. The metrics show both numbers."""
    async with (
        running(settings_for_tests(max_change_streams=1)) as server,
        session(f"http://127.0.0.1:{server.rest_port}") as rest,
    ):
        async with rest.get(PATH) as response:
            await event(response)
            async with rest.get(PATH) as refused:
                assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
                assert "LUNA_MAX_CHANGE_STREAMS" in (await refused.json())["error"]
            metrics = (await (await rest.get("/metrics")).text()).splitlines()
            assert {"luna_change_streams 1.0", "luna_change_streams_limit 1.0"} <= set(metrics)
        await until_open(server, 0)
        async with rest.get(PATH) as response:
            await event(response)


async def test_over_tls(tmp_path: Path) -> None:
    """The same; what is unread is known there as well."""
    pki = Pki(tmp_path)
    async with (
        running(settings_for_tests(**pki.flags(clients=False))) as server,
        ClientSession(headers={"Authorization": basic()}, connector=TCPConnector(ssl=pki.anonymous().context)) as client,
        client.get(f"https://localhost:{server.rest_port}{PATH}") as response,
    ):
        await event(response)
        await register(server, "a:h:1")
        assert (await event(response))["revision"] == 1


async def test_pages_of_other_sites_that_are_named_may_follow() -> None:
    """Like everything else that can be read."""
    async with (
        running(settings_for_tests(cors_origins="https://ops.example")) as server,
        session(f"http://127.0.0.1:{server.rest_port}") as rest,
        rest.get(PATH, headers={"Origin": "https://ops.example"}) as response,
    ):
        assert response.headers["Access-Control-Allow-Origin"] == "https://ops.example"
        await event(response)
