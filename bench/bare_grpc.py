"""A server on grpc.aio that does nothing but check the credentials, parse and answer: what Luna's gRPC door is measured against.

StreamHeartbeats answers each message, as etcd's keepalive does; with `read-only` only the last one. With `remember` it also keeps
when it heard last of each id, in a dict: what any registry does.
"""

import asyncio
import sys
import time
from typing import Any

import grpc
import uvloop

from luna_grpc.v1 import registry_pb2 as pb

CREDENTIALS = ("authorization", "Basic YWRtaW46")
REMEMBER, ANSWER_EACH = "remember" in sys.argv, "read-only" not in sys.argv
HEARD: dict[str, float] = {}
LEASE = pb.Lease(epoch="0123456789abcdef")
LEASE.ttl.FromSeconds(30)
LEASE.heartbeat_interval.FromSeconds(10)


async def _check(context: Any) -> None:
    if CREDENTIALS not in context.invocation_metadata():
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "")


async def heartbeat(request: pb.HeartbeatRequest, context: Any) -> pb.HeartbeatResponse:
    """Answer a heartbeat."""
    await _check(context)
    assert request.instance_id
    if REMEMBER:
        HEARD[request.instance_id] = time.monotonic()
    return pb.HeartbeatResponse(lease=LEASE)


async def register(request: pb.RegisterRequest, context: Any) -> pb.RegisterResponse:
    """Answer a registration with what it holds."""
    await _check(context)
    return pb.RegisterResponse(instance=request.instance, lease=LEASE)


async def stream(_: object, context: Any) -> None:
    """Answer each message."""
    await _check(context)
    while (message := await context.read()) is not grpc.aio.EOF:
        now = time.monotonic()
        for instance_id in message.instance_ids:
            assert instance_id
            if REMEMBER:
                HEARD[instance_id] = now
        if ANSWER_EACH:
            await context.write(pb.StreamHeartbeatsResponse(sequence=message.sequence, lease=LEASE))
    if not ANSWER_EACH:
        await context.write(pb.StreamHeartbeatsResponse(lease=LEASE))


async def main() -> None:
    """Serve for ever, after one line on stdout."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.http2.bdp_probe", 0)])
    handlers: dict[str, Any] = {
        "Heartbeat": grpc.unary_unary_rpc_method_handler(
            heartbeat, pb.HeartbeatRequest.FromString, pb.HeartbeatResponse.SerializeToString
        ),
        "Register": grpc.unary_unary_rpc_method_handler(
            register, pb.RegisterRequest.FromString, pb.RegisterResponse.SerializeToString
        ),
        "StreamHeartbeats": grpc.stream_stream_rpc_method_handler(
            stream, pb.StreamHeartbeatsRequest.FromString, pb.StreamHeartbeatsResponse.SerializeToString
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("luna.registry.v1.Registry", handlers),))
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    await server.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
