"""Reflection streams are streams like others: they are counted, they end with the server, and with their user."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from luna_grpc import users
from luna_grpc.access import Role
from luna_grpc.serve import Running, running
from support import basic, channel, settings_for_tests

LIST = reflection_pb2.ServerReflectionRequest(list_services="")


@asynccontextmanager
async def reflecting(server: Running, header: str | None = None) -> AsyncIterator[Any]:
    """Connect to a server."""
    async with channel(f"127.0.0.1:{server.grpc_port}", header) as connection:
        yield reflection_pb2_grpc.ServerReflectionStub(connection)


async def opened(stub: Any) -> Any:
    """Open a stream, and have a question answered."""
    stream = stub.ServerReflectionInfo()
    await stream.write(LIST)
    answer = await stream.read()
    assert "luna.registry.v1.Registry" in [service.name for service in answer.list_services_response.service]
    return stream


async def test_they_are_counted() -> None:
    """One too many for a connection is refused, and one that ends makes room."""
    async with running(settings_for_tests(max_streams_per_connection=2)) as server, reflecting(server) as stub:
        first = await opened(stub)
        await opened(stub)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await opened(stub)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await first.done_writing()
        assert await first.read() is grpc.aio.EOF
        await opened(stub)


async def test_they_end_with_the_server() -> None:
    """Well, and not only when the time for that is over, which would cut them off."""
    async with AsyncExitStack() as client:
        async with running(settings_for_tests(shutdown_grace=3.0)) as server:
            stub = await client.enter_async_context(reflecting(server))
            streams = [await opened(stub) for _ in range(50)]
        assert [await stream.code() for stream in streams] == [grpc.StatusCode.OK] * 50


async def test_they_end_with_their_user(tmp_path: Path) -> None:
    """When the users change, whoever is not there any more is told so."""
    file = str(tmp_path / "users.toml")
    users.add(file, "alice", role=Role.READER, prefixes=(), password="secret")
    async with (
        running(settings_for_tests(users_file=file)) as server,
        reflecting(server, basic("alice", "secret")) as stub,
        asyncio.timeout(20),
    ):
        stream = await opened(stub)
        server.authenticator.replace({})
        assert await stream.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "users of the registry have changed" in await stream.details()
