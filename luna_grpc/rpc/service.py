"""The rpcs of `luna.registry.v1.Registry`."""

from typing import Any, Final

import grpc

from luna_grpc.config import Settings
from luna_grpc.errors import InvalidArgumentError
from luna_grpc.model import Status
from luna_grpc.registry import Registry
from luna_grpc.rpc import convert
from luna_grpc.rpc.auth import actor
from luna_grpc.rpc.drain import Streams
from luna_grpc.rpc.errors import Context, Handler, answers_errors
from luna_grpc.rpc.heartbeats import HeartbeatCall
from luna_grpc.rpc.listing import list_services
from luna_grpc.rpc.watches import WatchCall
from luna_grpc.streams import HeartbeatStream
from luna_grpc.v1 import registry_pb2 as pb

NAME: Final = pb.DESCRIPTOR.services_by_name["Registry"].full_name


class RegistryService:
    """Converts in, calls the use case, converts out."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._lease = convert.lease(registry.policy, registry.store.epoch)
        self.heartbeat_streams = Streams("heartbeat streams", settings.max_heartbeat_streams, settings.max_connection_age)
        self.watches = Streams("watches", settings.max_watchers, settings.max_connection_age)

    @answers_errors
    async def register(self, request: pb.RegisterRequest, context: Context) -> pb.RegisterResponse:
        """Serve Register."""
        if not request.HasField("instance"):
            raise InvalidArgumentError("instance is required", field="instance")
        registration = await self._registry.register(
            convert.info(request.instance),
            convert.status(request.instance.status, "instance.status") or Status.OK,
            replace=request.replace,
            owner=request.owner,
            actor=actor(context),
        )
        response = pb.RegisterResponse(lease=self._lease)
        convert.fill(response.instance, registration.instance, registration.last_heartbeat)
        return response

    @answers_errors
    async def heartbeat(self, request: pb.HeartbeatRequest, context: Context) -> pb.HeartbeatResponse:
        """Serve Heartbeat."""
        await self._registry.heartbeat(convert.beat(request), actor=actor(context))
        return pb.HeartbeatResponse(lease=self._lease)

    @answers_errors
    async def deregister(self, request: pb.DeregisterRequest, context: Context) -> pb.DeregisterResponse:
        """Serve Deregister."""
        await self._registry.deregister(request.instance_id, generation=request.generation, actor=actor(context))
        return pb.DeregisterResponse()

    @answers_errors
    async def get_instance(self, request: pb.GetInstanceRequest, _: Context) -> pb.GetInstanceResponse:
        """Serve GetInstance."""
        registration = self._registry.get(request.instance_id)
        response = pb.GetInstanceResponse()
        convert.fill(response.instance, registration.instance, registration.last_heartbeat)
        return response

    @answers_errors
    async def list_services(self, request: pb.ListServicesRequest, _: Context) -> pb.ListServicesResponse:
        """Serve ListServices."""
        return list_services(self._registry, request)

    @answers_errors
    async def stream_heartbeats(self, _: object, context: Context) -> None:
        """Serve StreamHeartbeats."""
        call = HeartbeatCall(HeartbeatStream(self._registry, actor(context)), self._lease, context)
        with self.heartbeat_streams.opened(call.end):
            await call.run()

    @answers_errors
    async def watch_services(self, request: pb.WatchServicesRequest, context: Context) -> None:
        """Serve WatchServices."""
        call = WatchCall(self._registry, request.names, request.resume_token, context)
        with self.watches.opened(call.end):
            await call.run()

    def handlers(self) -> dict[str, Handler]:
        """Return the handler of each rpc by its name in the proto.

        Registered by hand and not by the generated helper, because watch answers are encoded already: without a serializer bytes
        go out as they are.
        """
        return {
            "Register": _unary(self.register, pb.RegisterRequest),
            "Heartbeat": _unary(self.heartbeat, pb.HeartbeatRequest),
            "Deregister": _unary(self.deregister, pb.DeregisterRequest),
            "GetInstance": _unary(self.get_instance, pb.GetInstanceRequest),
            "ListServices": _unary(self.list_services, pb.ListServicesRequest),
            "StreamHeartbeats": grpc.stream_stream_rpc_method_handler(
                self.stream_heartbeats,
                request_deserializer=pb.StreamHeartbeatsRequest.FromString,
                response_serializer=pb.StreamHeartbeatsResponse.SerializeToString,
            ),
            "WatchServices": grpc.unary_stream_rpc_method_handler(
                self.watch_services, request_deserializer=pb.WatchServicesRequest.FromString
            ),
        }


def _unary(handler: Any, request: Any) -> Handler:  # noqa: ANN401 - the stubs know no aio handlers
    return grpc.unary_unary_rpc_method_handler(
        handler, request_deserializer=request.FromString, response_serializer=lambda message: message.SerializeToString()
    )
