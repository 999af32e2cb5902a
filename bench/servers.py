"""The servers that are measured, each in a process of its own on core 0."""

import asyncio
import json
import os
import re
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from aiohttp import ClientSession

from bench.load import AUTHORIZATION, METADATA, LoadError
from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc

SERVER_CORE: Final = ["taskset", "-c", "0"]
READY: Final = re.compile(r"luna: ready rest=http://\S+:(\d+) grpc=\S+:(\d+)\n")
AT_ONCE: Final = 200
"""Requests in the pipeline."""


@dataclass
class Server:
    """A server that answers."""

    pid: int
    rest: int
    """Port."""
    grpc: int
    """Port."""
    started_in: float
    """Seconds from the start of its process."""

    def rss(self) -> int:
        """Return the bytes of memory that it takes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    def cpu(self) -> float:
        """Return the seconds of processor time that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def generation(self) -> int:
        """Register an instance and return its generation: one more than that of the registration before it."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.grpc}") as channel:
            stub = registry_pb2_grpc.RegistryStub(channel)
            request = pb.RegisterRequest(instance=pb.Instance(instance_id="bench:localhost:1"), replace=True)
            return int((await stub.Register(request, metadata=METADATA)).instance.generation)

    async def heartbeats(self) -> int:
        """Return how many heartbeats it has accepted, by its own count."""
        return await self._says("heartbeats")

    async def instances(self) -> int:
        """Return how many instances are registered, by its own count."""
        return await self._says("instances")

    async def _says(self, what: str) -> int:
        async with ClientSession(f"http://127.0.0.1:{self.rest}") as session, session.get("/readyz?verbose") as answer:
            match = re.search(rf"{what}: (\d+)", await answer.text())
            assert match is not None
            return int(match[1])


@asynccontextmanager
async def luna(*flags: str, ttl: float = 3600) -> AsyncIterator[Server]:
    """Run Luna, with further flags; by default with leases that last longer than the run."""
    ports = ["--port", "0", "--grpc-port", "0", "--log-level", "warning"]
    began = time.perf_counter()
    process = await _start(sys.executable, "-m", "luna_grpc", "serve", *ports, "--lease-ttl", str(ttl), *flags)
    try:
        assert process.stdout is not None
        match = READY.fullmatch((await process.stdout.readline()).decode())
        assert match is not None
        yield Server(process.pid, int(match[1]), int(match[2]), time.perf_counter() - began)
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def bare(name: str, *flags: str) -> AsyncIterator[int]:
    """Run `bench/bare_NAME.py`, and return its port."""
    port = free_port()
    process = await _start(sys.executable, str(Path(__file__).with_name(f"bare_{name}.py")), str(port), *flags)
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        yield port
    finally:
        process.kill()
        await process.wait()


async def _start(*command: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(*SERVER_CORE, *command, stdout=asyncio.subprocess.PIPE)


def free_port() -> int:
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def instance_ids(count: int) -> list[str]:
    """Return ids as they are in the field: 20 instances a service."""
    return [f"service-{n // 20}:10.{n // 60_000}.{n // 250 % 240}.{n % 250}:8080" for n in range(count)]


def instance(instance_id: str) -> pb.Instance:
    """Return an instance with typical fields."""
    address = instance_id.partition(":")[2]
    return pb.Instance(
        instance_id=instance_id,
        description="Does what a service does",
        version="1.4.2",
        status=pb.STATUS_OK,
        url=f"http://{address}/",
        balancer_options=pb.BalancerOptions(weight=10),
        metadata={"zone": f"eu-{len(instance_id) % 3}"},
    )


def as_json(instance_id: str) -> bytes:
    """Return the same for the REST door."""
    said = instance(instance_id)
    fields = {
        "instanceId": instance_id,
        "name": instance_id.partition(":")[0],
        "description": said.description,
        "version": said.version,
        "url": said.url,
        "status": "OK",
        "balancerOptions": {"weight": 10},
        "metadata": dict(said.metadata),
    }
    return json.dumps(fields).encode()


async def fill(port: int, ids: Sequence[str], *, method: str = "POST") -> None:
    """Register instances through the REST door, or send a heartbeat for each: requests in a pipeline, as fast as it can.

    Raises:
        LoadError: one was refused.

    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for start in range(0, len(ids), AT_ONCE):
        part = ids[start : start + AT_ONCE]
        writer.write(b"".join(_request(method, instance_id) for instance_id in part))
        for _ in part:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            if not head.startswith((b"HTTP/1.1 201", b"HTTP/1.1 200")) or length is None:
                raise LoadError(head.decode())
            await reader.readexactly(int(length[1]))
    writer.close()


def _request(method: str, instance_id: str) -> bytes:
    body = as_json(instance_id)
    head = f"{method} /registry/v1/instances/{instance_id} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {AUTHORIZATION}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
