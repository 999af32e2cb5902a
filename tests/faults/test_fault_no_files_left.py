"""More connections than the process may have files: it survives, says so once, and serves everyone when they are gone."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import IO, Any

from aiohttp import ClientSession
from harness import INSTANCES, eventually, look_up

from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import Luna, channel, instance_json, luna, session

ID = "a:h:1"
FEW_FILES = ("bash", "-c", 'ulimit -Sn 40; ulimit -Hn 64; exec "$@"', "bash")
"""The hard limit is what counts: the process raises the other one."""


def lines(log: IO[bytes]) -> list[dict[str, Any]]:
    """Return what the server has logged so far."""
    log.seek(0)
    return [json.loads(line) for line in log]


@asynccontextmanager
async def crowd(address: str, number: int, at_once: int = 100) -> AsyncIterator[None]:
    """Keep connections open that say nothing, as many as can be had."""

    async def connect() -> asyncio.StreamWriter | None:
        with suppress(OSError, TimeoutError):
            return (await asyncio.wait_for(asyncio.open_connection(host, int(port)), 3))[1]
        return None

    host, _, port = address.removeprefix("http://").rpartition(":")
    writers: list[asyncio.StreamWriter | None] = []
    for _ in range(0, number, at_once):
        writers += await asyncio.gather(*(connect() for _ in range(at_once)))
    try:
        yield
    finally:
        for writer in filter(None, writers):
            writer.transport.abort()
        await asyncio.sleep(0)


async def test_files_run_out() -> None:
    """At both doors at once: who is connected is served on, the log has one line, and afterwards everyone is served again."""
    with tempfile.TemporaryFile() as log:
        async with (
            luna("--max-connections", "500", stderr=log.fileno(), within=FEW_FILES) as server,
            channel(server.grpc) as connection,
            session(server.rest) as rest,
        ):
            stub = registry_pb2_grpc.RegistryStub(connection)
            await stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id=ID)))
            await _is_served(rest)
            async with crowd(server.rest, 100), crowd(server.grpc, 100):
                await eventually(lambda: [each for each in lines(log) if each["event"] == "no files left"], 20, "the alarm")
                for _ in range(20):
                    await _is_served(rest)
                    await look_up(stub, ID)
                    await asyncio.sleep(0.1)
            await _serves_everyone(server)
            assert await server.stop() == 0
        said = lines(log)
        [few] = [each["event"] for each in said if "too few for LUNA_MAX_CONNECTIONS=500" in each["event"]]
        assert "allows 64 open files" in few
        [alarm] = [each for each in said if each["event"] == "no files left"]
        assert alarm["allowed"] == 64
        assert "ulimit -n" in alarm["step"]
        assert [
            each
            for each in said
            if each["level"] in {"warning", "error"} and each["event"] not in {few, "no files left", "stalled"}
        ] == []
        assert len(said) < 20


async def test_limits_that_follow_from_the_files_keep_some() -> None:
    """Without a setting each door takes no more connections than there are files for, and nobody runs out of them."""
    with tempfile.TemporaryFile() as log:
        async with luna(stderr=log.fileno(), within=FEW_FILES) as server:
            async with crowd(server.rest, 100, at_once=2), crowd(server.grpc, 100, at_once=2):
                await asyncio.sleep(3)
            await _serves_everyone(server)
            assert await server.stop() == 0
        said = [each["event"] for each in lines(log) if each["event"] != "stalled"]
        assert "allows 64 open files, so each door takes 8 connections" in said[0]
        assert "no files left" not in said


async def _is_served(rest: ClientSession) -> None:
    async with rest.put(INSTANCES + ID, json=instance_json(ID)) as answer:
        assert answer.status == 200


async def _serves_everyone(server: Luna) -> None:
    """New connections at both doors, until there is room again."""

    async def by_rest() -> bool:
        with suppress(OSError):
            async with session(server.rest) as client, client.get("/livez") as answer:
                return answer.status == 200
        return False

    async with asyncio.timeout(30):
        while not await by_rest():  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(0.1)
        async with channel(server.grpc) as connection:
            stub = registry_pb2_grpc.RegistryStub(connection)
            await stub.ListServices(pb.ListServicesRequest(), wait_for_ready=True)
