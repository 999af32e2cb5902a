"""The peers that are measured beside Luna, where they are installed."""

import asyncio
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import nan
from typing import Any, Final

import grpc

from bench import load, servers

KEEPALIVE: Final = "/etcdserverpb.Lease/LeaseKeepAlive"
TTL: Final = 3600


@dataclass
class Etcd:
    """An etcd with one lease."""

    port: int
    lease: int


@asynccontextmanager
async def etcd() -> AsyncIterator[Etcd | None]:
    """Run etcd on core 0; None when it is not installed (Debian: etcd-server)."""
    if shutil.which("etcd") is None:
        yield None
        return
    port, peer = servers.free_port(), servers.free_port()
    with tempfile.TemporaryDirectory() as folder:
        urls = ["--listen-client-urls", f"http://127.0.0.1:{port}", "--advertise-client-urls", f"http://127.0.0.1:{port}"]
        urls += ["--listen-peer-urls", f"http://127.0.0.1:{peer}", "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"]
        command = [
            *servers.SERVER_CORE,
            "etcd",
            "--data-dir",
            folder,
            *urls,
            "--initial-cluster",
            f"default=http://127.0.0.1:{peer}",
        ]
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield Etcd(port, await _granted(port))
        finally:
            process.terminate()
            await process.wait()


async def _granted(port: int) -> int:
    """Return the id of a new lease, from etcd's JSON gateway, once that answers."""
    for _ in range(100):
        process = await asyncio.create_subprocess_exec(
            "curl", "-sf", f"http://127.0.0.1:{port}/v3/lease/grant", "-d", json.dumps({"TTL": TTL}), stdout=subprocess.PIPE
        )
        output, _ = await process.communicate()
        if process.returncode == 0:
            return int(json.loads(output)["ID"])
        await asyncio.sleep(0.1)
    raise load.LoadError("etcd does not answer")


async def etcd_keepalives(*, calls: int, messages: int) -> float:
    """Start an etcd, renew its lease over streams and return the messages a second; nan when it is not installed.

    Each time another process: the same command gives 25,000 a second with one process and 55,000 with the next, for as long as that
    runs. Its garbage collector makes the difference: with GOGC=400 it is 41,000 and 86,000.

    Raises:
        LoadError: not every message was answered with a renewed lease.

    """
    async with etcd() as server:
        if server is None:
            return nan
        message = b"\x08" + _varint(server.lease)  # LeaseKeepAliveRequest{int64 ID = 1}, as etcd's rpc.proto has it
        answer = await _answer(server, message)
        if not answer.endswith(b"\x18" + _varint(TTL)):  # LeaseKeepAliveResponse{int64 TTL = 3}
            raise load.LoadError(f"etcd answers {answer!r}")
        return messages * await load.call(
            server.port,
            KEEPALIVE,
            [message] * messages,
            calls=calls,
            credentials=False,
            answered=calls * messages * (len(answer) + 5),
        )


async def _answer(server: Etcd, message: bytes) -> bytes:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call: Any = channel.stream_stream(KEEPALIVE)()
        await call.write(message)
        answer: bytes = await call.read()
        return answer


def _varint(number: int) -> bytes:
    encoded = b""
    while number > 0x7F:
        encoded += bytes([number & 0x7F | 0x80])
        number >>= 7
    return encoded + bytes([number])
