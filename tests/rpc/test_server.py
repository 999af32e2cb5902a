"""The gRPC server itself: its options, and health."""

import asyncio
from importlib.util import find_spec
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from luna_grpc.rpc import server as rpc_server
from luna_grpc.serve import Running

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def test_every_option_exists() -> None:
    """GRPC ignores the ones that it does not know, without a word."""
    spec = find_spec("grpc._cython.cygrpc")
    assert spec is not None
    assert spec.origin is not None
    core = Path(spec.origin).read_bytes()
    for name, _ in [*rpc_server.OPTIONS, *rpc_server._age(1.0)]:
        assert name.encode() in core, name


async def test_health(server: Running) -> None:
    """Check and Watch, for the server, the service, and one that is unknown; no credentials."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", "luna.registry.v1.Registry"):
            assert (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="nosuch"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        known = aiter(stub.Watch(health_pb2.HealthCheckRequest()))
        unknown = aiter(stub.Watch(health_pb2.HealthCheckRequest(service="nosuch")))
        assert ((await anext(known)).status, (await anext(unknown)).status) == (SERVING, UNKNOWN)
        server.grpc.not_serving()
        assert (await anext(known)).status == NOT_SERVING
        server.grpc.serving()
        assert (await anext(known)).status == SERVING
        watch = asyncio.ensure_future(anext(unknown))
        await asyncio.sleep(0)
        assert not watch.done()
        watch.cancel()
