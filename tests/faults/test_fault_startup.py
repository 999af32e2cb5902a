"""What a person sees when the server cannot start as told, and what a running one writes where."""

import asyncio
import json
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest
from harness import register, worker

from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import channel, instance_json, luna, refused, session


@contextmanager
def _taken() -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield str(listener.getsockname()[1])


@pytest.mark.parametrize(("flag", "other"), [("--port", "--grpc-port"), ("--grpc-port", "--port")])
async def test_a_taken_port(flag: str, other: str) -> None:
    """A port that is taken: exit code 1 and one line that names the port and the flag."""
    with _taken() as port:
        code, lines = await refused(flag, port, other, "0")
    assert code == 1
    assert len(lines) == 1, lines
    assert port in lines[0]
    assert f"{flag} " in lines[0]


async def test_a_port_taken_by_another_luna() -> None:
    """A second server on the ports of the first one does not share them silently."""
    async with luna() as first:
        rest_port, grpc_port = (address.rpartition(":")[2] for address in (first.rest, first.grpc))
        code, lines = await refused("--port", rest_port, "--grpc-port", "0")
        assert (code, len(lines)) == (1, 1), lines
        code, lines = await refused("--port", "0", "--grpc-port", grpc_port)
        assert (code, len(lines)) == (1, 1), lines


async def test_a_bad_setting() -> None:
    """A wrong value: exit code 2 and one line that names the flag, the variable and the value."""

    async def check(flag: str, variable: str, value: str, *, by_flag: bool) -> None:
        code, lines = await (refused(flag, value) if by_flag else refused(env={variable: value}))
        assert (code, len(lines)) == (2, 1), lines
        assert flag in lines[0]
        assert variable in lines[0]
        assert value in lines[0]

    await asyncio.gather(
        check("--lease-ttl", "LUNA_LEASE_TTL", "soon", by_flag=True),
        check("--lease-ttl", "LUNA_LEASE_TTL", "-1", by_flag=False),
        check("--port", "LUNA_PORT", "65536", by_flag=True),
        check("--grpc-port", "LUNA_GRPC_PORT", "http", by_flag=False),
        check("--log-level", "LUNA_LOG_LEVEL", "loud", by_flag=False),
    )


async def test_an_open_door() -> None:
    """An empty password on an address that others can reach: exit code 2 and one line that says why, and what to do."""

    async def check(*flags: str, env: dict[str, str] | None = None) -> None:
        code, lines = await refused("--port", "0", "--grpc-port", "0", *flags, env=env)
        assert (code, len(lines)) == (2, 1), lines
        for part in ("password is empty", "LUNA_AUTH_PASSWORD", "127.0.0.1", "LUNA_INSECURE=1"):
            assert part in lines[0]

    await asyncio.gather(check("--host", "0.0.0.0"), check(env={"LUNA_HOST": "0.0.0.0"}), check("--host", "::"))


async def test_an_open_door_on_request() -> None:
    """With a password, or with LUNA_INSECURE=1, it listens everywhere."""
    for env in ({"LUNA_AUTH_PASSWORD": "secret"}, {"LUNA_INSECURE": "1"}):
        async with luna("--host", "0.0.0.0", env=env) as server:
            assert server.rest.startswith("http://0.0.0.0:")


async def _events(*flags: str, env: dict[str, str]) -> tuple[str, list[dict[str, str]]]:
    """Start and stop a server; return its REST address and what it logged."""
    with tempfile.TemporaryFile() as log:
        async with luna(*flags, env=env, stderr=log.fileno()) as server:
            assert await server.stop() == 0
        log.seek(0)
        return server.rest, [json.loads(line) for line in log]


async def test_the_port_that_kubernetes_sets() -> None:
    """LUNA_PORT=tcp://… is ignored with a warning: the server starts on port 4000."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 4000))
        except OSError:
            pytest.skip("port 4000 is taken")
    address, events = await _events(env={"LUNA_PORT": "tcp://10.0.0.1:4000"})
    assert address == "http://127.0.0.1:4000"
    [warning] = [event for event in events if event["level"] == "warning"]
    assert "LUNA_PORT=tcp://10.0.0.1:4000 is ignored" in warning["event"]


async def test_a_misspelt_variable() -> None:
    """An unknown LUNA_… variable is a warning that names the nearest one; what Kubernetes sets is none."""
    _, events = await _events(env={"LUNA_PROT": "4001", "LUNA_SERVICE_HOST": "10.0.0.1", "LUNA_PORT_4000_TCP_PORT": "4000"})
    [warning] = [event for event in events if event["level"] == "warning"]
    assert "LUNA_PROT " in warning["event"]
    assert "LUNA_PORT" in warning["event"]


async def _send(address: str, data: bytes) -> bytes:
    """Send bytes and return what comes back, if anything, before the connection ends or a moment has passed."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(65536), 0.3)
    except (TimeoutError, ConnectionResetError):
        return b""
    finally:
        writer.close()


async def test_one_line_on_stdout_and_json_on_stderr() -> None:
    """Through changes, mistakes, rubbish on both ports, killed clients and a stall: one line on stdout, JSON lines on stderr."""
    with tempfile.TemporaryFile() as log:
        async with luna("--lease-ttl", "1", stderr=log.fileno()) as server:
            rest_address = server.rest.removeprefix("http://")
            async with channel(server.grpc) as connection, session(server.rest) as rest, worker(server.grpc) as client:
                stub = registry_pb2_grpc.RegistryStub(connection)
                await register(stub, "logged:localhost:1")
                client.send(instance_ids=["logged:localhost:1"], options=pb.StreamOptions(on_disconnect=pb.ON_DISCONNECT_MARK_DOWN))
                await client.answer()
                client.kill()
                async with rest.put(
                    "/registry/v1/instances/logged:localhost:1", json=instance_json("logged:localhost:1")
                ) as answer:
                    assert answer.status == 200
                async with rest.put("/registry/v1/instances/logged:localhost:1", data=b"{") as answer:
                    assert answer.status == 400
                with pytest.raises(grpc.aio.AioRpcError):
                    await register(stub, "rubbish")
                for cut_off in (
                    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                    b"GET / HTTP/9.9\r\n\r\n",
                    b"PUT /x HTTP/1.1\r\nHo",
                ):
                    await _send(rest_address, cut_off)
                    await _send(server.grpc, cut_off)
                await _send(
                    rest_address, b"PUT /registry/v1/instances/a:b:1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\nhalf"
                )
                cancelled = stub.StreamHeartbeats()
                await cancelled.write(pb.StreamHeartbeatsRequest(instance_ids=["logged:localhost:1"]))
                await cancelled.read()
                cancelled.cancel()
                # Frozen for long enough to be noticed.
                server.process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(0.6)
                server.process.send_signal(signal.SIGCONT)
                await asyncio.sleep(0.2)
            assert await server.stop() == 0
            assert server.process.stdout is not None
            assert await server.process.stdout.read() == b""
        log.seek(0)
        lines = log.read().decode().splitlines()
    events = [json.loads(line) for line in lines]
    assert [line for line, event in zip(lines, events, strict=True) if not {"event", "level", "timestamp"} <= event.keys()] == []
    assert {"registered", "stalled", "stopping"} <= {event["event"] for event in events}
    # None of that is an error of the server's, so nothing may look like one (aiohttp says of rubbish itself what it thinks).
    errors = [event for event in events if event["level"] in ("error", "critical") and event["logger"] != "aiohttp.server"]
    assert errors == []
