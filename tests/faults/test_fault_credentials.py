"""Only health answers strangers."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import Luna, basic, channel, luna

PASSWORD = "geheim: ü"
SERVICE = "/luna.registry.v1.Registry/"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
WRONG: dict[str, str | None] = {
    "none": None,
    "empty": "",
    "wrong password": basic(password="wrong"),
    "empty password": basic(),
    "wrong user": basic("root", PASSWORD),
    "password with a tail": basic(password=PASSWORD + "x"),
    "another scheme": basic(password=PASSWORD).replace("Basic", "Bearer"),
    "no base64": "Basic !!!",
    "no colon": "Basic YWRtaW4=",
}
# Every method of the registry, reflection, and one that does not exist, which strangers need not know either.
METHODS = [
    *(SERVICE + method.name for method in pb.DESCRIPTOR.services_by_name["Registry"].methods),
    REFLECTION,
    SERVICE + "NoSuchMethod",
    "/no.such.Service/Method",
    "/grpc.health.v1.Healthy/Check",
]


@pytest.fixture(scope="module")
async def guarded() -> AsyncIterator[Luna]:
    """Run a server with a password."""
    async with luna("--max-failed-logins", "0", env={"LUNA_AUTH_PASSWORD": PASSWORD}) as server:
        yield server


def _codes_of_each_kind(address: str, method: str, header: str | None) -> list[grpc.StatusCode]:
    """Call a method as each of the four kinds of rpc, with an empty message, and return the codes.

    By the synchronous client: the asyncio one reports INTERNAL of its own when a stream ends while it is sending.
    """
    metadata: Any = () if header is None else (("authorization", header),)
    empty: Any = b""  # the stubs know only the channels of generated code
    with grpc.insecure_channel(address) as connection:
        calls: list[Any] = [
            connection.unary_unary(method).future(empty, metadata=metadata, timeout=10),
            connection.unary_stream(method)(empty, metadata=metadata, timeout=10),
            connection.stream_unary(method).future(iter([empty]), metadata=metadata, timeout=10),
            connection.stream_stream(method)(iter([empty]), metadata=metadata, timeout=10),
        ]
        return [call.code() for call in calls]


@pytest.mark.parametrize("kind", WRONG)
async def test_strangers_are_refused(guarded: Luna, kind: str) -> None:
    """Without the right credentials every rpc of all four kinds, reflection included, is UNAUTHENTICATED."""
    for method in METHODS:
        codes = await asyncio.to_thread(_codes_of_each_kind, guarded.grpc, method, WRONG[kind])
        assert (method, codes) == (method, [grpc.StatusCode.UNAUTHENTICATED] * 4)


async def test_a_refusal_does_not_wait_for_a_message(guarded: Luna) -> None:
    """A stranger's stream is refused before a message is sent, and nothing tells which part was wrong."""
    async with grpc.aio.insecure_channel(guarded.grpc) as connection:
        details = set()
        for header in WRONG.values():
            metadata = [] if header is None else [("authorization", header)]
            call = registry_pb2_grpc.RegistryStub(connection).StreamHeartbeats(metadata=metadata)
            assert await asyncio.wait_for(call.code(), 5) is grpc.StatusCode.UNAUTHENTICATED
            if header is not None:
                details.add(await call.details())
        assert details == {"the user name or the password is wrong"}


async def test_health_answers_strangers(guarded: Luna) -> None:
    """Health needs no credentials and minds no wrong ones: Check and Watch, overall and by service."""
    async with grpc.aio.insecure_channel(guarded.grpc) as connection:
        stub = health_pb2_grpc.HealthStub(connection)
        for service in ("", "luna.registry.v1.Registry"):
            for metadata in ([], [("authorization", "Basic !!!")]):
                request = health_pb2.HealthCheckRequest(service=service)
                assert (await stub.Check(request, metadata=metadata)).status == health_pb2.HealthCheckResponse.SERVING
                call = stub.Watch(request, metadata=metadata)
                assert (await call.read()).status == health_pb2.HealthCheckResponse.SERVING
                call.cancel()


async def test_friends_are_answered(guarded: Luna) -> None:
    """With credentials reflection lists the registry and gives its descriptor, and every kind of rpc works."""
    async with channel(guarded.grpc, basic(password=PASSWORD)) as connection:
        stub = reflection_pb2_grpc.ServerReflectionStub(connection)
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="luna.registry.v1.Registry"),
        ]
        listed, described = [answer async for answer in stub.ServerReflectionInfo(iter(requests))]
        names = {service.name for service in listed.list_services_response.service}
        assert {"luna.registry.v1.Registry", "grpc.health.v1.Health"} <= names
        assert described.file_descriptor_response.file_descriptor_proto
        registry = registry_pb2_grpc.RegistryStub(connection)
        await registry.ListServices(pb.ListServicesRequest())
        watch = registry.WatchServices(pb.WatchServicesRequest())
        message = await watch.read()
        assert isinstance(message, pb.WatchServicesResponse)
        assert message.reset
        watch.cancel()
        stream = registry.StreamHeartbeats()
        await stream.write(pb.StreamHeartbeatsRequest(sequence=7))
        answer = await stream.read()
        assert isinstance(answer, pb.StreamHeartbeatsResponse)
        assert answer.sequence == 7
        stream.cancel()
