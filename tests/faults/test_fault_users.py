"""Users change while a registry runs, and SIGHUP tells it so: who is not the same any more is out, and nobody else notices."""

import asyncio
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

import grpc
import pytest
from harness import Watch, complaints, eventually, look_up, measured, register, watching

from luna_grpc import users
from luna_grpc.access import Role
from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import Luna, Stub, basic, channel, instance_json, luna, session

PASSWORD = "secret"
BEAT = 0.05
"""Seconds between heartbeats."""


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Return a users file: four writers and a reader, all with one password."""
    path = str(tmp_path / "users.toml")
    for name in ("stays", "goes", "demoted", "renewed"):
        users.add(path, name, role=Role.WRITER, prefixes=(), password=PASSWORD)
    users.add(path, "reader", role=Role.READER, prefixes=(), password=PASSWORD)
    return path


@asynccontextmanager
async def served(file: str) -> AsyncIterator[tuple[Luna, IO[bytes]]]:
    """Run a server with these users; return it with its log."""
    with tempfile.TemporaryFile() as log:
        async with luna("--users-file", file, stderr=log.fileno()) as server:
            yield server, log


class Heart:
    """A heartbeat stream that takes its instance along when it breaks, and beats until it is ended."""

    def __init__(self, stub: Stub, instance_id: str) -> None:
        self.instance_id = instance_id
        self.slowest = 0.0
        """Seconds that the slowest answer took."""
        self.code: grpc.StatusCode | None = None
        self.words = ""
        self._call: Any = stub.StreamHeartbeats()
        self._stopped = False

    async def beat(self) -> None:
        """Beat until the stream ends."""
        options = pb.StreamOptions(on_disconnect=pb.ON_DISCONNECT_DEREGISTER)
        try:
            while True:
                began = time.monotonic()
                await self._call.write(pb.StreamHeartbeatsRequest(instance_ids=[self.instance_id], options=options))
                if await self._call.read() is grpc.aio.EOF:
                    break
                self.slowest = max(self.slowest, time.monotonic() - began)
                await asyncio.sleep(BEAT)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass
        except asyncio.CancelledError:  # so a read may see that its own side has broken the stream
            if not self._stopped:
                raise
        self.code, self.words = await self._call.code(), await self._call.details()

    def stop(self) -> None:
        """Break the stream."""
        self._stopped = True
        self._call.cancel()


@asynccontextmanager
async def busy(server: Luna, name: str) -> AsyncIterator[tuple[Heart, Watch]]:
    """Be a user with an instance, a heartbeat stream and a watch."""
    async with channel(server.grpc, basic(name, PASSWORD)) as connection:
        stub = registry_pb2_grpc.RegistryStub(connection)
        instance_id = f"{name}:h:1"
        await register(stub, instance_id)
        heart = Heart(stub, instance_id)
        beating = asyncio.create_task(heart.beat())
        async with watching(stub) as watch:
            await eventually(lambda: heart.slowest, 10, "the first answer")
            yield heart, watch
        heart.stop()
        await beating


def logged(log: IO[bytes], event: str) -> Callable[[], bool]:
    """Return a look at the log for an event."""

    def look() -> bool:
        log.seek(0)
        return f'"event": "{event}"'.encode() in log.read()

    return look


async def status(server: Luna, name: str, password: str, method: str = "GET") -> int:
    """Return how the REST door answers a user."""
    body = instance_json("new:h:1") if method == "PUT" else None
    async with session(server.rest, basic(name, password)) as client:
        return (await client.request(method, "/registry/v1/instances/new:h:1", json=body)).status


async def test_who_was_removed_or_changed_is_out_at_once(file: str, record_property: Callable[[str, object], None]) -> None:
    """Their streams and watches end, their instances stay as they are; whoever is the same goes on, as fast as before."""
    async with (
        served(file) as (server, log),
        busy(server, "stays") as (heart, watch),
        busy(server, "goes") as gone,
        busy(server, "demoted") as demoted,
        busy(server, "renewed") as renewed,
    ):
        users.remove(file, "goes")
        users.add(file, "demoted", role=Role.READER, prefixes=(), password=PASSWORD, replace=True)
        users.add(file, "renewed", role=Role.WRITER, prefixes=(), password="new", replace=True)
        began = time.monotonic()
        heart.slowest = 0.0
        server.process.send_signal(signal.SIGHUP)
        for other, its_watch in (gone, demoted, renewed):
            await eventually(lambda: other.code, 10, f"the end of the stream of {other.instance_id}")  # noqa: B023 - called at once
            await eventually(lambda: its_watch.code, 10, f"the end of the watch of {other.instance_id}")  # noqa: B023 - same
            assert (other.code, its_watch.code) == (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAUTHENTICATED)
            assert "the users of the registry have changed" in other.words
        measured(record_property, "seconds from SIGHUP to the end of the last stream", time.monotonic() - began)
        assert logged(log, "users file reloaded")()
        async with channel(server.grpc, basic("stays", PASSWORD)) as connection:
            stub = registry_pb2_grpc.RegistryStub(connection)
            for other, _ in (gone, demoted, renewed):
                assert (await look_up(stub, other.instance_id)).status == pb.STATUS_OK
            await register(stub, "later:h:1")
            await watch.sees("later:h:1", lambda told: told.ok, 10)
        await asyncio.sleep(10 * BEAT)
        assert (heart.code, watch.code) == (None, None)
        measured(record_property, "slowest answer to a heartbeat meanwhile, in seconds", heart.slowest)
        assert 0 < heart.slowest < 1
        assert complaints(log) == []


async def test_what_was_remembered_counts_no_more(file: str) -> None:
    """Through either door: an old password, a role of before, a user that there is not any more."""
    async with served(file) as (server, log):
        for name in ("stays", "goes", "demoted", "renewed"):
            assert await status(server, name, PASSWORD, "PUT") == 404
        users.remove(file, "goes")
        users.add(file, "demoted", role=Role.READER, prefixes=(), password=PASSWORD, replace=True)
        users.add(file, "renewed", role=Role.WRITER, prefixes=(), password="new", replace=True)
        users.add(file, "comes", role=Role.WRITER, prefixes=(), password=PASSWORD)
        server.process.send_signal(signal.SIGHUP)
        await eventually(logged(log, "users file reloaded"), 10, "the reload")
        expected = {
            ("stays", PASSWORD): 404, ("goes", PASSWORD): 401, ("demoted", PASSWORD): 403, ("renewed", PASSWORD): 401,
            ("renewed", "new"): 404, ("comes", PASSWORD): 404,
        }  # fmt: skip
        assert {who: await status(server, *who, "PUT") for who in expected} == expected
        assert await status(server, "demoted", PASSWORD) == 404  # reading it may
        for (name, password), answer in expected.items():
            async with channel(server.grpc, basic(name, password)) as connection:
                call = registry_pb2_grpc.RegistryStub(connection).StreamHeartbeats()
                await call.done_writing()
                codes = {404: grpc.StatusCode.OK, 401: grpc.StatusCode.UNAUTHENTICATED, 403: grpc.StatusCode.PERMISSION_DENIED}
                while answer == 404 and await call.read() is not grpc.aio.EOF:
                    pass
                assert (name, await call.code()) == (name, codes[answer])


@pytest.mark.parametrize("damage", ["cut", "no TOML", "an unknown role", "removed"])
async def test_a_damaged_file_changes_nothing(file: str, damage: str) -> None:
    """The users stay as they were, logins included, and the log says why; once it is mended, it counts."""
    good = Path(file).read_text()
    async with served(file) as (server, log), busy(server, "stays") as (heart, watch):
        bad = {"cut": good[:-40], "no TOML": good + "[", "an unknown role": good.replace("reader", "boss"), "removed": ""}[damage]
        Path(file).write_text(bad)
        if damage == "removed":
            Path(file).unlink()
        server.process.send_signal(signal.SIGHUP)
        await eventually(logged(log, "users file not reloaded"), 10, "the refusal")
        assert await status(server, "reader", PASSWORD) == 404  # who had not been here before
        await asyncio.sleep(4 * BEAT)
        assert (heart.code, watch.code) == (None, None)
        [complaint] = complaints(log)
        assert (complaint["level"], complaint["effect"]) == ("error", "the users stay as they were")
        assert file in complaint["reason"]
        Path(file).write_text(good.replace("[reader]", "[viewer]"))
        server.process.send_signal(signal.SIGHUP)
        await eventually(logged(log, "users file reloaded"), 10, "the reload")
        assert (await status(server, "viewer", PASSWORD), await status(server, "reader", PASSWORD)) == (404, 401)


async def test_a_signal_without_a_users_file() -> None:
    """It means nothing, and ends nothing."""
    with tempfile.TemporaryFile() as log:
        async with luna(stderr=log.fileno()) as server:
            server.process.send_signal(signal.SIGHUP)
            await eventually(logged(log, "reload"), 10, "a word")
            assert await status(server, "admin", "") == 404


async def test_a_file_that_others_can_read(file: str) -> None:
    """The server starts, and says how to mend it."""
    Path(file).chmod(0o644)
    async with served(file) as (_, log):
        [complaint] = complaints(log)
        assert (complaint["event"], complaint["step"]) == ("users file can be read by others", f"chmod 600 {file}")
