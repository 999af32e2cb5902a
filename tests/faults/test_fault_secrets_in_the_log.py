"""Whatever goes right or wrong, the log tells nobody's credentials."""

import asyncio
import base64
import json
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import grpc
import pytest
from aiohttp import ClientError, ClientSession

from luna_grpc import users
from luna_grpc.access import Role
from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import Luna, basic, instance_json, luna

PASSWORD: Final = "Tr0ub4dor-and-3"
OTHER: Final = "correct-horse-battery"
"""The password of a user of the users file."""
MISTYPED: Final = "Wr0ng-but-close"
"""A password that is nobody's, or not yet."""
REGISTER: Final = "/luna.registry.v1.Registry/"
SABOTAGED: Final = """
from luna_grpc import cli, registry

def broken(self, instance_id):
    raise ZeroDivisionError(instance_id)

registry.Registry.get = registry.Registry.time_left = broken
cli.app()
"""
"""Luna with a fault in it: looking at an instance fails in a way that nobody has foreseen."""
RIGHT: Final[dict[str, str]] = {
    "right": basic(password=PASSWORD),
    "right, of the file": basic("alice", OTHER),
    "right, in other letters": basic(password=PASSWORD).replace("Basic", "bAsIc"),
}
WRONG: Final[dict[str, str]] = {
    "wrong password": basic(password=MISTYPED),
    "wrong password, of the file": basic("alice", MISTYPED),
    "a password as the user name": basic(PASSWORD, ""),
    "another's": basic("alice", PASSWORD),
    "nobody": basic("mallory", MISTYPED),
    "another scheme": f"Bearer {PASSWORD}",
    "in clear": f"Basic admin:{PASSWORD}",
    "without a colon": "Basic " + base64.b64encode(PASSWORD.encode()).decode(),
    "without a scheme": PASSWORD,
    "too long": basic("admin", PASSWORD * 300),
    "broken": basic(password=PASSWORD)[:-3] + "!",
}
HEADERS: Final = RIGHT | WRONG


def secrets() -> set[str]:
    """Return what must not be told, in all the forms in which it is sent, and what it looks like in base64 at any offset."""
    found = {PASSWORD, OTHER, MISTYPED}
    for secret in tuple(found):
        for offset in range(3):
            encoded = base64.b64encode(b"x" * offset + secret.encode()).decode()
            found.add(encoded[4:-4])  # without the letters that depend on what stands around it
    return found | set(HEADERS.values()) | {header.partition(" ")[2] for header in HEADERS.values()} - {""}


@asynccontextmanager
async def sabotaged(tmp_path: Path) -> AsyncIterator[tuple[Luna, Path]]:
    """Run a server that logs everything; also return its log."""
    file, log = tmp_path / "users.toml", tmp_path / "log"
    users.add(str(file), "alice", role=Role.WRITER, prefixes=["a"], password=OTHER)
    flags = ("--log-level", "debug", "--users-file", str(file), "--max-failed-logins", "20", "--lease-ttl", "0.5")
    with log.open("wb") as stderr:
        environment = {"LUNA_AUTH_PASSWORD": PASSWORD}
        async with luna(*flags, env=environment, stderr=stderr.fileno(), program=("-c", SABOTAGED)) as server:
            yield server, log


async def by_rest(url: str, header: str) -> list[int]:
    """Ask for everything that works and everything that does not."""
    path = url + "/registry/v1/instances/"
    wrong: dict[str, Any] = instance_json("a:h:1", status=7, description=header)
    statuses = []
    async with ClientSession(headers={"Authorization": header}) as client:
        for method, target, body in [
            ("GET", url + "/metrics", None),
            ("GET", url + "/registry/v1/services/?password=" + quote(header), None),
            ("POST", path + "a:h:1", instance_json("a:h:1")),
            ("POST", path + "a:h:1", instance_json("a:h:1")),
            ("PUT", path + "a:h:1", instance_json("a:h:1", status="DOWN")),
            ("POST", path + "b:h:1", instance_json("b:h:1")),
            ("POST", path + "a:h:2", wrong),
            ("GET", path + "a:h:1", None),  # the sabotaged one
            ("PATCH", path + "a:h:1", None),
            ("DELETE", path + "a:h:1", None),
        ][: None if header in RIGHT.values() else 2]:  # to check a wrong password takes long, and nothing comes after it
            with suppress(ClientError):
                async with client.request(method, target, json=body, headers={"Accept": "text/html"}) as answer:
                    statuses.append(answer.status)
    return statuses


async def by_bytes(url: str, header: str) -> None:
    """Send what is no HTTP, or no HTTP that is answered, with credentials in it."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    for request in (
        f"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization {header}\r\n\r\n",
        f"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: {header}\0\r\n\r\n",
        f"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: {header}\r\nContent-Length: {header}\r\n\r\n",
        f"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: {header * 900}\r\n\r\n",
        f"GET http://admin:{quote(header)}@x/metrics HTTP/1.1\r\nHost: x\r\nAuthorization: {header}\r\n\r\n",
        f"GET {header} HTTP/1.1\r\nHost: x\r\n\r\n",
        f"{header} / HTTP/1.1\r\n\r\n",
        f"POST /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: {header}\r\nTransfer-Encoding: chunked\r\n\r\n{header}\r\n",
    ):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request.encode())
        writer.write_eof()
        with suppress(ConnectionError, TimeoutError):
            await asyncio.wait_for(reader.read(), 5)
        writer.close()


async def by_grpc(address: str, header: str) -> list[grpc.StatusCode]:
    """Call everything that works and everything that does not."""
    metadata: Any = (("authorization", header), ("x-authorization", header))
    codes = []
    async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as connection:
        stub: Any = registry_pb2_grpc.RegistryStub(connection)
        instance = pb.Instance(instance_id="a:h:7")
        raw: Any = connection.unary_unary
        calls: list[Callable[[], Any]] = [
            lambda: stub.Register(pb.RegisterRequest(instance=instance, replace=True), metadata=metadata),
            lambda: stub.Register(pb.RegisterRequest(instance=instance), metadata=metadata),
            lambda: stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id="b:h:7")), metadata=metadata),
            lambda: stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id=header)), metadata=metadata),
            lambda: stub.GetInstance(pb.GetInstanceRequest(instance_id="a:h:7"), metadata=metadata),  # the sabotaged one
            lambda: raw(REGISTER + "Register")(header.encode(), metadata=metadata),
            lambda: raw("/no.such.Service/Method")(b"", metadata=metadata),
        ]
        for make in calls[: None if header in RIGHT.values() else 1]:
            call = make()
            with suppress(grpc.aio.AioRpcError):
                await call
            codes.append(await call.code())
        stream = stub.StreamHeartbeats(metadata=metadata)
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await stream.write(
                pb.StreamHeartbeatsRequest(
                    instance_ids=["a:h:7", header], options=pb.StreamOptions(on_disconnect=pb.ON_DISCONNECT_MARK_DOWN)
                )
            )
            await stream.read()
        stream.cancel()
        watch = stub.WatchServices(pb.WatchServicesRequest(resume_token=header), metadata=metadata)
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await watch.read()
        watch.cancel()
    return codes


async def lines_of(server: Luna, log: Path) -> list[Any]:
    """Reload the users, stop the server, and return its log."""
    server.process.send_signal(signal.SIGHUP)
    await asyncio.sleep(0.2)
    assert await server.stop() == 0
    return [json.loads(line) for line in (await asyncio.to_thread(log.read_text)).splitlines()]


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_the_forms_are_told_apart(header: str) -> None:
    """What is searched for below would be found."""
    assert any(secret in json.dumps({"header": header}) for secret in secrets())


async def test_no_credentials_are_logged(tmp_path: Path) -> None:
    """At the level of debugging, through both doors, whether they are right, wrong, or in the wrong place."""
    async with sabotaged(tmp_path) as (server, log):
        statuses, codes = set(), set()
        for header in HEADERS.values():
            statuses.update(await by_rest(server.rest, header))
            codes.update(await by_grpc(server.grpc, header))
            await by_bytes(server.rest, header)
        lines = await lines_of(server, log)
    assert {200, 201, 400, 401, 403, 405, 429, 500} <= statuses
    assert {"OK", "INVALID_ARGUMENT", "ALREADY_EXISTS", "PERMISSION_DENIED", "UNAUTHENTICATED", "INTERNAL"} <= {
        code.name for code in codes
    }
    assert {"registered", "status changed", "deregistered", "login failed", "failed", "users file reloaded"} <= {
        line["event"] for line in lines
    }
    text = json.dumps(lines) + "".join(str(line) for line in lines)
    assert sorted(secret for secret in secrets() if secret in text) == []
    assert {line["user"] for line in lines if line["event"] == "login failed"} == {"admin", "alice", None}
