"""The peers that are measured beside Luna, where they are installed."""

import asyncio
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bench import load, servers


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
            "curl", "-sf", f"http://127.0.0.1:{port}/v3/lease/grant", "-d", '{"TTL": 3600}', stdout=subprocess.PIPE
        )
        output, _ = await process.communicate()
        if process.returncode == 0:
            return int(json.loads(output)["ID"])
        await asyncio.sleep(0.1)
    raise load.LoadError("etcd does not answer")


async def etcd_keepalives(server: Etcd, *, calls: int, messages: int) -> float:
    """Renew the lease over streams; return the messages a second."""
    # LeaseKeepAliveRequest{int64 ID = 1}, as etcd's rpc.proto has it.
    number, message = server.lease, b"\x08"
    while number > 0x7F:
        message += bytes([number & 0x7F | 0x80])
        number >>= 7
    message += bytes([number])
    rate = await load.call(server.port, "/etcdserverpb.Lease/LeaseKeepAlive", [message] * messages, calls=calls, credentials=False)
    return messages * rate
