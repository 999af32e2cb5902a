"""The rpcs of `luna.registry.v1.Registry`."""

from collections import Counter
from typing import Final

from luna_grpc import drains
from luna_grpc.access import Action
from luna_grpc.config import Settings, variable
from luna_grpc.errors import InvalidArgumentError
from luna_grpc.model import Actor, Status
from luna_grpc.pacing import OneAtATime
from luna_grpc.registry import Registry
from luna_grpc.rpc import convert
from luna_grpc.rpc.drain import Streams
from luna_grpc.rpc.errors import Context, Handler
from luna_grpc.rpc.guard import Guard
from luna_grpc.rpc.heartbeats import HeartbeatCall, Terms
from luna_grpc.rpc.limits import StreamCount
from luna_grpc.rpc.listing import list_services
from luna_grpc.rpc.watches import WatchCall
from luna_grpc.streams import HeartbeatStream
from luna_grpc.v1 import registry_pb2 as pb

NAME: Final = pb.DESCRIPTOR.services_by_name["Registry"].full_name


class RegistryService:
    """Converts in, calls the use case, converts out."""

    def __init__(self, registry: Registry, settings: Settings, count: StreamCount, refusals: Counter[str]) -> None:
        """`refusals` counts the heartbeats of streams that were refused, by the code of the answer."""
        self._refusals = refusals
        self._registry = registry
        self._settings = settings
        self._listing = OneAtATime()
        self._catching_up = OneAtATime()
        self._terms = Terms()
        registry.store.feed.observe_restarts(self._say_terms)
        self._say_terms()
        age = settings.max_connection_age
        self.heartbeat_streams = Streams(
            "heartbeat streams", settings.max_heartbeat_streams, count, age, setting=variable("max_heartbeat_streams")
        )
        self.watches = Streams("watches", settings.max_watchers, count, age, setting=variable("max_watchers"))

    def _say_terms(self) -> None:
        """Write the terms of every lease, which name the epoch."""
        lease = convert.lease(self._registry.policy, self._registry.store.epoch)
        self._terms.lease = lease
        self._terms.heard = pb.HeartbeatResponse(lease=lease)
        self._terms.answered = pb.StreamHeartbeatsResponse(lease=lease).SerializeToString()

    async def register(self, request: pb.RegisterRequest, actor: Actor) -> pb.RegisterResponse:
        """Serve Register."""
        if not request.HasField("instance"):
            raise InvalidArgumentError("instance is required", field="instance")
        registration = await self._registry.register(
            convert.info(request.instance),
            convert.status(request.instance.status, "instance.status") or Status.OK,
            replace=request.replace,
            owner=request.owner,
            actor=actor,
        )
        response = pb.RegisterResponse(lease=self._terms.lease)
        convert.fill(response.instance, registration.instance, registration.last_heartbeat)
        return response

    async def heartbeat(self, request: pb.HeartbeatRequest, actor: Actor) -> pb.HeartbeatResponse:
        """Serve Heartbeat."""
        await self._registry.heartbeat(convert.beat(request), actor=actor)
        return self._terms.heard

    async def deregister(self, request: pb.DeregisterRequest, actor: Actor) -> pb.DeregisterResponse:
        """Serve Deregister."""
        await self._registry.deregister(request.instance_id, generation=request.generation, actor=actor)
        return pb.DeregisterResponse()

    async def drain_instance(self, request: pb.DrainInstanceRequest, actor: Actor) -> pb.DrainInstanceResponse:
        """Serve DrainInstance."""
        seconds = convert.seconds(request.duration) if request.HasField("duration") else drains.DEFAULT
        registration = await self._registry.drain(request.instance_id, seconds, actor=actor)
        response = pb.DrainInstanceResponse()
        convert.fill(response.instance, registration.instance, registration.last_heartbeat)
        return response

    async def undrain_instance(self, request: pb.UndrainInstanceRequest, actor: Actor) -> pb.UndrainInstanceResponse:
        """Serve UndrainInstance."""
        registration = await self._registry.undrain(request.instance_id, actor=actor)
        response = pb.UndrainInstanceResponse()
        if registration is not None:
            convert.fill(response.instance, registration.instance, registration.last_heartbeat)
        return response

    async def get_instance(self, request: pb.GetInstanceRequest, _: Actor) -> pb.GetInstanceResponse:
        """Serve GetInstance."""
        registration = self._registry.get(request.instance_id)
        response = pb.GetInstanceResponse()
        convert.fill(response.instance, registration.instance, registration.last_heartbeat)
        return response

    async def list_services(self, request: pb.ListServicesRequest, _: Actor) -> pb.ListServicesResponse:
        """Serve ListServices: one list at a time, so that whoever asks for less waits for one only."""
        async with self._listing:
            return list_services(self._registry, request, self._settings.max_page_size)

    async def stream_heartbeats(self, actor: Actor, context: Context) -> None:
        """Serve StreamHeartbeats."""
        stream = HeartbeatStream(self._registry, actor, self._settings.max_instances_per_stream)
        call = HeartbeatCall(stream, self._terms, context, self._refusals)
        with self.heartbeat_streams.opened(call, actor):
            await call.run()

    async def watch_services(self, request: pb.WatchServicesRequest, actor: Actor, context: Context) -> None:
        """Serve WatchServices."""
        call = WatchCall(self._registry, request.names, request.resume_token, context, self._catching_up)
        with self.watches.opened(call, actor):
            await call.run()

    def handlers(self, guard: Guard) -> dict[str, Handler]:
        """Return the handler of each rpc by its name in the proto."""
        return {
            "Register": guard.unary(Action.CHANGE, pb.RegisterRequest, self.register),
            "Heartbeat": guard.unary(Action.CHANGE, pb.HeartbeatRequest, self.heartbeat),
            "Deregister": guard.unary(Action.CHANGE, pb.DeregisterRequest, self.deregister),
            "DrainInstance": guard.unary(Action.OPERATE, pb.DrainInstanceRequest, self.drain_instance),
            "UndrainInstance": guard.unary(Action.OPERATE, pb.UndrainInstanceRequest, self.undrain_instance),
            "GetInstance": guard.unary(Action.READ, pb.GetInstanceRequest, self.get_instance),
            "ListServices": guard.unary(Action.READ, pb.ListServicesRequest, self.list_services),
            "StreamHeartbeats": guard.streaming(Action.CHANGE, self.stream_heartbeats),
            "WatchServices": guard.answering(Action.READ, pb.WatchServicesRequest, self.watch_services),
        }
