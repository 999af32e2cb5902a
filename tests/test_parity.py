"""Both doors are doors of one house: the same requests lead to the same state and to errors of the same kind."""

import copy
from dataclasses import dataclass, field
from typing import Any

import grpc
from aiohttp import ClientSession
from hypothesis import given, settings
from hypothesis import strategies as st

from luna_grpc.serve import Running, running
from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import channel, field_violation, session, settings_for_tests

Said = dict[str, Any]


@dataclass
class Request:
    """Something that either door can be asked for."""

    kind: str
    instance_id: str
    said: Said = field(default_factory=dict)


def requests() -> st.SearchStrategy[list[Request]]:
    """Make sequences with good and bad values, and ids that meet again."""
    ids = st.sampled_from(["a:h:1", "a:h:2", "b:[::1]:80", "my-svc:10.0.0.1:65535", "a:h:0", "a", "a:b c:1", "json:h:1"])
    said = st.fixed_dictionaries(
        {
            "name": st.sampled_from(["a", "other", "Bücher", "json", "..", "x" * 128, "x" * 129, "a\nb", " a"]),
            "description": st.sampled_from(["", "text", "two\nlines", "x" * 1024, "x" * 1025]),
            "version": st.sampled_from(["1", "1.02.3-rc1", "x" * 64, "x" * 65, "\t"]),
            "url": st.sampled_from(
                ["http://h:1", "https://h/x?y#z", "javascript:alert(1)", "h:1", "http://h:99999", "http://[::1]:5/"]
            ),
            "status": st.sampled_from(["OK", "DOWN"]),
            "weight": st.sampled_from([None, 0, 1, 2**32 - 1]),
            "metadata": st.sampled_from([{}, {"zone": "eu"}, {"": "x"}, {"k": "x" * 1025}]),
        }
    )
    # Mostly good values, or hardly any sequence would get anywhere.
    good = said.map(lambda all_: all_ | {"name": "a", "description": "d", "version": "1", "url": "http://h:1", "metadata": {}})
    request = st.one_of(
        st.builds(Request, st.sampled_from(["register", "update"]), ids, st.one_of(good, good, said)),
        st.builds(Request, st.sampled_from(["renew", "deregister", "get"]), ids),
    )
    return st.lists(request, max_size=12)


async def by_rest(client: ClientSession, request: Request) -> str:
    """Send a request to the REST door; return the kind of its error, or nothing."""
    path = f"/registry/v1/instances/{request.instance_id}"
    said = copy.copy(request.said)
    weight = said.pop("weight", None)
    body = {"instanceId": request.instance_id, **said, "balancerOptions": {} if weight is None else {"weight": weight}}
    response = await {
        "register": lambda: client.post(path, json=body),
        "update": lambda: client.put(path, json=body),
        "renew": lambda: client.put(path),
        "deregister": lambda: client.delete(path),
        "get": lambda: client.get(path),
    }[request.kind]()
    if response.ok:
        return ""
    error = await response.json()
    return ":".join((error["code"], error.get("field", "").replace("instanceId", "instance_id")))


async def by_grpc(stub: Any, request: Request) -> str:
    """Send a request to the gRPC door; return the kind of its error, or nothing."""
    said = copy.copy(request.said)
    weight = said.pop("weight", None)
    if said:
        said["status"] = pb.Status.Value(f"STATUS_{said['status']}")
    instance = pb.Instance(instance_id=request.instance_id, balancer_options=pb.BalancerOptions(weight=weight), **said)
    heartbeat = pb.HeartbeatRequest(instance_id=request.instance_id)
    if request.kind == "update":
        heartbeat.instance.CopyFrom(instance)
    try:
        await {
            "register": lambda: stub.Register(pb.RegisterRequest(instance=instance)),
            "update": lambda: stub.Heartbeat(heartbeat),
            "renew": lambda: stub.Heartbeat(heartbeat),
            "deregister": lambda: stub.Deregister(pb.DeregisterRequest(instance_id=request.instance_id)),
            "get": lambda: stub.GetInstance(pb.GetInstanceRequest(instance_id=request.instance_id)),
        }[request.kind]()
    except grpc.aio.AioRpcError as error:
        named = field_violation(error) if error.code() is grpc.StatusCode.INVALID_ARGUMENT else ""
        return f"{error.code().name}:{named.removeprefix('instance.')}"
    return ""


def state(server: Running) -> list[Any]:
    """Return what a registry holds, but for what differs between any two."""
    return [
        (service.name, service.up, [(member.instance.info, member.instance.reported) for member in service.registrations])
        for service in server.registry.services()
    ]


@settings(max_examples=100, deadline=None)
@given(sequence=requests())
async def test_the_same_requests_through_either_door(sequence: list[Request]) -> None:
    """Equal answers, equal kinds of error, equal state."""
    async with (
        running(settings_for_tests()) as one,
        running(settings_for_tests()) as other,
        session(f"http://127.0.0.1:{one.rest_port}") as client,
        channel(f"127.0.0.1:{other.grpc_port}") as open_channel,
    ):
        stub = registry_pb2_grpc.RegistryStub(open_channel)
        for request in sequence:
            assert await by_rest(client, request) == await by_grpc(stub, request), request
            assert state(one) == state(other), request
