"""Who may do what: one table for every route and every rpc, and the three names that a writer's prefix has to match."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, Final, NamedTuple

import grpc
import pytest
from aiohttp import ClientSession
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from luna_grpc import users
from luna_grpc.access import MAY, Action, Role, User
from luna_grpc.errors import NotFoundError, PermissionDeniedError
from luna_grpc.model import ITSELF, Info, Status, StatusReason
from luna_grpc.registry import Beat
from luna_grpc.serve import Running, running
from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import Stub, basic, channel, instance_json, session, settings_for_tests

OURS, THEIRS = "orders", "billing"
"""Two services; the user `ci` may change those whose names begin with the first."""
PASSWORD = "secret"
OWNER = "someone"
"""The owner of all that is stored."""


class Caller(NamedTuple):
    """Who asks, and about which service."""

    header: str | None
    service: str


CALLERS: Final = {
    "nobody": Caller(None, OURS),
    "wrong password": Caller(basic("wanda", "wrong"), OURS),
    "reader": Caller(basic("rita", PASSWORD), OURS),
    "prefix, own service": Caller(basic("ci", PASSWORD), OURS),
    "prefix, another service": Caller(basic("ci", PASSWORD), THEIRS),
    "writer": Caller(basic("wanda", PASSWORD), OURS),
    "admin": Caller(basic("root", PASSWORD), OURS),
}
# How each of them is answered, in that order. A route or an rpc that has no row here fails the tests below.
UNKNOWN, DENIED, OK = "UNAUTHENTICATED", "PERMISSION_DENIED", "OK"
READING: Final = (401, 401, 200, 200, 200, 200, 200)
TABLE: Final[dict[str, tuple[int, ...] | tuple[str, ...]]] = {
    "POST /registry/v1/instances/{instanceId}": (401, 401, 403, 201, 403, 201, 201),
    "PUT /registry/v1/instances/{instanceId}": (401, 401, 403, 200, 403, 200, 200),
    "DELETE /registry/v1/instances/{instanceId}": (401, 401, 403, 200, 403, 200, 200),
    "GET /registry/v1/instances/{instanceId}": READING,
    "POST /registry/v1/instances/{instanceId}/drain": (401, 401, 403, 403, 403, 403, 200),
    "DELETE /registry/v1/instances/{instanceId}/drain": (401, 401, 403, 403, 403, 403, 200),
    "POST /registry/v1/panel/instances/{instanceId}/drain": (401, 401, 403, 403, 403, 403, 303),
    "POST /registry/v1/panel/instances/{instanceId}/undrain": (401, 401, 403, 403, 403, 403, 303),
    "POST /registry/v1/panel/instances/{instanceId}/deregister": (401, 401, 403, 303, 403, 303, 303),
    "GET /registry/v1/journal": READING,
    "GET /registry/v1/services": READING,
    "GET /registry/v1/services/": READING,
    "GET /registry/v1/services/json": READING,
    "GET /registry/v1/services/{name}": READING,
    "GET /registry/v1/static/{file}": READING,
    "GET /registry/v1/changes": READING,
    "GET /registry/v1/openapi.json": READING,
    "GET /registry/v1/docs": READING,
    "GET /metrics": READING,
    "GET /": (302,) * 7,
    "GET /livez": (200,) * 7,
    "GET /readyz": (200,) * 7,
    "* /{path}": (404,) * 7,
    "luna.registry.v1.Registry/Register": (UNKNOWN, UNKNOWN, DENIED, OK, DENIED, OK, OK),
    "luna.registry.v1.Registry/Heartbeat": (UNKNOWN, UNKNOWN, DENIED, OK, DENIED, OK, OK),
    "luna.registry.v1.Registry/Deregister": (UNKNOWN, UNKNOWN, DENIED, OK, DENIED, OK, OK),
    "luna.registry.v1.Registry/DrainInstance": (UNKNOWN, UNKNOWN, DENIED, DENIED, DENIED, DENIED, OK),
    "luna.registry.v1.Registry/UndrainInstance": (UNKNOWN, UNKNOWN, DENIED, DENIED, DENIED, DENIED, OK),
    "luna.registry.v1.Registry/StreamHeartbeats": (UNKNOWN, UNKNOWN, DENIED, OK, "OK, but for the instance", OK, OK),
    "luna.registry.v1.Registry/GetInstance": (UNKNOWN, UNKNOWN, OK, OK, OK, OK, OK),
    "luna.registry.v1.Registry/ListServices": (UNKNOWN, UNKNOWN, OK, OK, OK, OK, OK),
    "luna.registry.v1.Registry/WatchServices": (UNKNOWN, UNKNOWN, OK, OK, OK, OK, OK),
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": (UNKNOWN, UNKNOWN, OK, OK, OK, OK, OK),
    "grpc.health.v1.Health/Check": (OK,) * 7,
    "grpc.health.v1.Health/Watch": (OK,) * 7,
}
# Below the prefix nobody learns what there is not.
NOWHERE: Final[dict[str, tuple[int, ...] | tuple[str, ...]]] = {
    "GET /registry/nowhere": (401, 401, 404, 404, 404, 404, 404),
    "GET /metrics/nowhere": (401, 401, 404, 404, 404, 404, 404),
    "PATCH /registry/v1/instances/{instanceId}": (401, 401, 405, 405, 405, 405, 405),
    "no.such.Service/Method": (UNKNOWN, UNKNOWN, *["UNIMPLEMENTED"] * 5),
}


@pytest.fixture(scope="module", params=["in memory", "in a state file"])
async def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """Run a server with a user of each kind."""
    folder = tmp_path_factory.mktemp("access")
    file, state_file = str(folder / "users.toml"), str(folder / "state.db") if request.param == "in a state file" else ""
    users.add(file, "rita", role=Role.READER, prefixes=(), password=PASSWORD)
    users.add(file, "ci", role=Role.WRITER, prefixes=[OURS], password=PASSWORD)
    users.add(file, "wanda", role=Role.WRITER, prefixes=(), password=PASSWORD)
    users.add(file, "root", role=Role.ADMIN, prefixes=(), password=PASSWORD)
    async with running(settings_for_tests(users_file=file, state_file=state_file, max_failed_logins=0)) as server:
        yield server


async def stored(server: Running, instance_id: str, name: str = "", *, lease: bool = True) -> None:
    """Let an instance be there, under a name, with a live lease or without one."""
    await gone(server, instance_id)
    info = Info.of(instance_id, name=name, version="1")
    registration = await server.registry.register(info, Status.OK, owner=OWNER, actor=ITSELF)
    if not lease:
        await server.registry.store.end([registration], StatusReason.LEASE_EXPIRED, now=0, actor=ITSELF)


async def gone(server: Running, instance_id: str) -> None:
    """Let an instance not be there."""
    with suppress(NotFoundError):
        await server.registry.deregister(instance_id, actor=ITSELF)


# The table


def test_every_route_and_every_rpc_has_a_row(server: Running) -> None:
    """And no row is of something that there is not. HEAD goes with GET."""
    routes = {
        f"{route.method.replace('HEAD', 'GET')} {route.resource.canonical}"
        for route in server.rest.app.router.routes()
        if route.resource is not None
    }
    rpcs = {f"{service}/{rpc}" for service, handlers in server.grpc.handlers.items() for rpc in handlers}
    assert set(TABLE) == routes | rpcs


@pytest.mark.parametrize("what", [*TABLE, *NOWHERE])
async def test_each_caller_is_answered_as_the_table_says(server: Running, what: str) -> None:
    """Word for word."""
    outcomes: dict[str, int | str] = {}
    for caller in CALLERS:
        header, service = CALLERS[caller]
        for instance_id in (f"{OURS}:h:1", f"{THEIRS}:h:1"):
            await stored(server, instance_id)
        if what == "POST /registry/v1/instances/{instanceId}" or what.endswith("/Register"):
            await gone(server, f"{service}:h:1")
        ask = by_rest if " " in what else by_grpc
        outcomes[caller] = await ask(server, what, header, service)
    assert outcomes == dict(zip(CALLERS, (TABLE | NOWHERE)[what], strict=True))


async def by_rest(server: Running, route: str, header: str | None, service: str) -> int:
    """Return the status of an answer; of HEAD as well, which has to be that of GET."""
    method, _, path = route.partition(" ")
    values = {"{instanceId}": f"{service}:h:1", "{name}": service, "{file}": "luna.css", "{path}": "nowhere"}
    for name, value in values.items():
        path = path.replace(name, value)
    form = {"back": "/registry/v1/services/"} if "/panel/" in path else None
    body = instance_json(f"{service}:h:1") if method in {"POST", "PUT"} and not form else None
    headers = {} if header is None else {"Authorization": header}
    async with ClientSession(f"http://127.0.0.1:{server.rest_port}", headers=headers) as client:
        methods = {"GET": ["GET", "HEAD"], "*": ["GET", "PUT", "PATCH"]}.get(method, [method])
        statuses = set()  # taken without reading on: one answer never ends
        for each in methods:
            async with client.request(
                each, path, json=body, data=form, allow_redirects=False
            ) as response:  # one of them never ends
                statuses.add(response.status)
    [status] = statuses
    return status


def requests_about(instance_id: str) -> dict[str, Any]:
    """Return what to send to each rpc; to others an empty message."""
    return {
        "Register": pb.RegisterRequest(instance=pb.Instance(instance_id=instance_id)),
        "Heartbeat": pb.HeartbeatRequest(instance_id=instance_id, status=pb.STATUS_DOWN),
        "Deregister": pb.DeregisterRequest(instance_id=instance_id),
        "DrainInstance": pb.DrainInstanceRequest(instance_id=instance_id),
        "UndrainInstance": pb.UndrainInstanceRequest(instance_id=instance_id),
        "StreamHeartbeats": pb.StreamHeartbeatsRequest(instance_ids=[instance_id]),
        "GetInstance": pb.GetInstanceRequest(instance_id=instance_id),
        "ServerReflectionInfo": reflection_pb2.ServerReflectionRequest(list_services=""),
        "Check": health_pb2.HealthCheckRequest(),
    }


async def by_grpc(server: Running, rpc: str, header: str | None, service: str) -> str:
    """Return how a call ends, or that there was an answer to it."""
    service_name, _, name = rpc.partition("/")
    request = requests_about(f"{service}:h:1").get(name, pb.ListServicesRequest()).SerializeToString()
    handler: Any = server.grpc.handlers.get(service_name, {}).get(name)
    return await asyncio.to_thread(
        called, server.grpc_port, rpc, request, header, streams=bool(handler and handler.request_streaming)
    )


def called(port: int, rpc: str, request: bytes, header: str | None, *, streams: bool) -> str:
    """Call an rpc by the synchronous client: the asyncio one fails by itself when a stream ends while it is sending."""
    metadata: Any = () if header is None else (("authorization", header),)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as connection:
        open_call: Any = connection.stream_stream(f"/{rpc}") if streams else connection.unary_stream(f"/{rpc}")
        call = open_call(iter([request]) if streams else request, metadata=metadata, timeout=20)
        try:
            answer = next(call)
        except grpc.RpcError:
            return str(call.code().name)
        call.cancel()
    if rpc.endswith("StreamHeartbeats"):
        failures = pb.StreamHeartbeatsResponse.FromString(answer).failures
        return "OK, but for the instance" if [failure.code for failure in failures] == [7] else OK
    return OK


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("action", Action)
def test_a_role_may_do_what_the_next_higher_one_may(role: Role, action: Action) -> None:
    """The refusal says which roles it takes."""
    higher = list(Role)[list(Role).index(role) :]
    if action in MAY[role]:
        User("x", role).check(action)
        assert all(action in MAY[each] for each in higher)
    else:
        with pytest.raises(PermissionDeniedError, match=rf"'x' has the role {role.value}; this takes the role .*admin"):
            User("x", role).check(action)


# The three names


class Names(NamedTuple):
    """What a change is about: what the id begins with, the new name, and the stored one; None: not said, or nothing stored."""

    of_id: str
    new: str | None
    stored: str | None

    @property
    def right(self) -> bool:
        """Whether all of them are services of the user."""
        return all(name is None or name.startswith(OURS) for name in self)

    @property
    def may_renew(self) -> bool:
        """Whether the instance is one of the user's, whatever name it is to have."""
        return self._replace(new=None).right


def all_names(*, new: bool, stored: bool) -> Iterator[Names]:
    """Yield each combination of services of the user and others."""
    for of_id in (OURS, "orders-eu", THEIRS):
        for new_name in (OURS, THEIRS) if new else (None,):
            for stored_name in (OURS, THEIRS) if stored else (None,):
                yield Names(of_id, new_name, stored_name)


async def outcome(call: Awaitable[Any]) -> str:
    """Return how a call ends."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        assert error.code() is not grpc.StatusCode.PERMISSION_DENIED or "whose names begin with orders" in str(error.details())
        return error.code().name
    return OK


async def rest_outcome(client: ClientSession, method: str, names: Names) -> str:
    """Ask the REST door; return the code of its refusal."""
    instance_id = f"{names.of_id}:h:1"
    body = None if names.new is None else instance_json(instance_id, name=names.new)
    async with client.request(method, f"/registry/v1/instances/{instance_id}", json=body) as response:
        return OK if response.ok else str((await response.json())["code"])


async def stream_outcome(stub: Stub, heartbeat: pb.HeartbeatRequest) -> str:
    """Send a heartbeat by a stream; a failure concerns the instance, and the stream goes on."""
    stream = stub.StreamHeartbeats()
    await stream.write(pb.StreamHeartbeatsRequest(heartbeats=[heartbeat]))
    await stream.done_writing()
    codes = [failure.code async for answer in stream for failure in answer.failures]
    assert await stream.code() is grpc.StatusCode.OK
    return {0: OK, 7: DENIED}[codes[0] if codes else 0]


def heartbeat(names: Names) -> pb.HeartbeatRequest:
    """Return a heartbeat: bare, or with a name."""
    instance = None if names.new is None else pb.Instance(name=names.new)
    return pb.HeartbeatRequest(instance_id=f"{names.of_id}:h:1", instance=instance)


Change = Callable[[ClientSession, Stub, Names], Awaitable[str]]
CHANGES: Final[dict[str, tuple[Change, list[Names], bool]]] = {
    # What is done, with which names, and whether a stored instance has a live lease.
    "register": (
        lambda _, stub, names: outcome(stub.Register(registration(names))),
        list(all_names(new=True, stored=False)),
        True,
    ),
    "replace": (
        lambda _, stub, names: outcome(stub.Register(registration(names, replace=True))),
        list(all_names(new=True, stored=True)),
        True,
    ),
    "register as the same owner": (
        lambda _, stub, names: outcome(stub.Register(registration(names, owner=OWNER))),
        list(all_names(new=True, stored=True)),
        True,
    ),
    "register as the same owner over an ended lease": (
        lambda _, stub, names: outcome(stub.Register(registration(names, owner=OWNER))),
        list(all_names(new=True, stored=True)),
        False,
    ),
    "register over an ended lease": (
        lambda _, stub, names: outcome(stub.Register(registration(names))),
        list(all_names(new=True, stored=True)),
        False,
    ),
    "POST": (lambda rest, _, names: rest_outcome(rest, "POST", names), list(all_names(new=True, stored=False)), True),
    "POST over an ended lease": (
        lambda rest, _, names: rest_outcome(rest, "POST", names),
        list(all_names(new=True, stored=True)),
        False,
    ),
    "bare heartbeat": (
        lambda _, stub, names: outcome(stub.Heartbeat(heartbeat(names))),
        list(all_names(new=False, stored=True)),
        True,
    ),
    "heartbeat with a name": (
        lambda _, stub, names: outcome(stub.Heartbeat(heartbeat(names))),
        list(all_names(new=True, stored=True)),
        True,
    ),
    "bare PUT": (lambda rest, _, names: rest_outcome(rest, "PUT", names), list(all_names(new=False, stored=True)), True),
    "PUT with a name": (lambda rest, _, names: rest_outcome(rest, "PUT", names), list(all_names(new=True, stored=True)), True),
    "bare stream heartbeat": (
        lambda _, stub, names: stream_outcome(stub, heartbeat(names)),
        list(all_names(new=False, stored=True)),
        True,
    ),
    "stream heartbeat that brings back": (
        lambda _, stub, names: stream_outcome(stub, heartbeat(names)),
        list(all_names(new=False, stored=True)),
        False,
    ),
    "stream heartbeat with a name": (
        lambda _, stub, names: stream_outcome(stub, heartbeat(names)),
        list(all_names(new=True, stored=True)),
        True,
    ),
    "deregister": (
        lambda _, stub, names: outcome(stub.Deregister(pb.DeregisterRequest(instance_id=f"{names.of_id}:h:1"))),
        list(all_names(new=False, stored=True)),
        True,
    ),
    "DELETE": (lambda rest, _, names: rest_outcome(rest, "DELETE", names), list(all_names(new=False, stored=True)), True),
}


def registration(names: Names, *, replace: bool = False, owner: str = "") -> pb.RegisterRequest:
    """Return a request to register."""
    instance = pb.Instance(instance_id=f"{names.of_id}:h:1", name=names.new or "")
    return pb.RegisterRequest(instance=instance, replace=replace, owner=owner)


@pytest.fixture
async def limited(server: Running) -> AsyncIterator[tuple[ClientSession, Stub]]:
    """Return clients of both doors for the user with a prefix."""
    header = CALLERS["prefix, own service"].header
    async with (
        session(f"http://127.0.0.1:{server.rest_port}", header) as client,
        channel(f"127.0.0.1:{server.grpc_port}", header) as connection,
    ):
        yield client, registry_pb2_grpc.RegistryStub(connection)


@pytest.mark.parametrize("what", CHANGES)
async def test_the_prefix_has_to_match_the_id_the_new_name_and_the_stored_name(
    server: Running, limited: tuple[ClientSession, Stub], what: str
) -> None:
    """One of them that is of another service is enough for a refusal, and then nothing has changed."""
    change, cases, lease = CHANGES[what]
    assert {names.right for names in cases} == {True, False}
    for names in cases:
        instance_id = f"{names.of_id}:h:1"
        await gone(server, instance_id)
        if names.stored is not None:
            await stored(server, instance_id, names.stored, lease=lease)
        held = server.registry.store.get(instance_id)
        was = None
        if held is not None:
            held.last_heartbeat = 5
            was = (held.instance, held.live)
        assert await change(*limited, names) == (OK if names.right else DENIED), names
        if names.right:
            continue
        assert server.registry.store.get(instance_id) is held, names
        if held is not None:
            # To renew what is one's own, and bring it back, is allowed; only the new name is not.
            assert names.may_renew or ((held.instance, held.live), held.last_heartbeat) == (was, 5), names
            assert held.instance.info.name == names.stored


async def test_a_refused_heartbeat_does_not_renew(server: Running, limited: tuple[ClientSession, Stub]) -> None:
    """Neither by call nor by stream nor letter by letter as the last one, when the instance is of another service."""
    rest, stub = limited
    names = Names(OURS, None, THEIRS)
    body = instance_json(f"{OURS}:h:1", name=THEIRS)
    await stored(server, f"{OURS}:h:1", THEIRS)
    admin = CALLERS["admin"].header
    async with session(f"http://127.0.0.1:{server.rest_port}", admin) as client:
        for _ in range(2):  # the second one is answered from what is remembered of the first
            assert (await client.put(f"/registry/v1/instances/{OURS}:h:1", json=body)).status == 200
    registration = server.registry.get(f"{OURS}:h:1")
    registration.last_heartbeat = 5
    assert await outcome(stub.Heartbeat(heartbeat(names))) == DENIED
    assert await stream_outcome(stub, heartbeat(names)) == DENIED
    assert await rest_outcome(rest, "PUT", names) == DENIED
    assert await rest_outcome(rest, "PUT", Names(OURS, THEIRS, THEIRS)) == DENIED
    assert registration.last_heartbeat == 5


async def test_a_stream_fails_for_one_instance_only(server: Running, limited: tuple[ClientSession, Stub]) -> None:
    """The others in its messages are renewed, also when a name changes while it is open."""
    await stored(server, f"{OURS}:h:1")
    await stored(server, f"{THEIRS}:h:1")
    ours = server.registry.get(f"{OURS}:h:1")
    stream = limited[1].StreamHeartbeats()

    async def failing(sequence: int) -> dict[str, int]:
        await stream.write(pb.StreamHeartbeatsRequest(instance_ids=[f"{THEIRS}:h:1", f"{OURS}:h:1"], sequence=sequence))
        failures: dict[str, int] = {}
        answer = pb.StreamHeartbeatsResponse()
        while answer.sequence != sequence:
            read = await stream.read()
            assert isinstance(read, pb.StreamHeartbeatsResponse)
            answer = read
            failures |= {failure.instance_id: failure.code for failure in answer.failures}
        return failures

    ours.last_heartbeat = 5
    assert await failing(1) == {f"{THEIRS}:h:1": 7}
    assert ours.last_heartbeat > 5
    await server.registry.heartbeat(Beat(f"{OURS}:h:1", info=Info.of(f"{OURS}:h:1", name=THEIRS)), actor=ITSELF)
    assert await failing(2) == {f"{THEIRS}:h:1": 7, f"{OURS}:h:1": 7}
    await server.registry.heartbeat(Beat(f"{OURS}:h:1", info=Info.of(f"{OURS}:h:1")), actor=ITSELF)
    assert await failing(3) == {f"{THEIRS}:h:1": 7}
    stream.cancel()
