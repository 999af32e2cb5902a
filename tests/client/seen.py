"""What other people see of an instance, at a real server with short leases."""

from contextlib import AbstractAsyncContextManager
from typing import Any

from support import Luna, luna, session, until

ID = "orders:localhost:8080"
TTL = 1.5
PATIENCE = 20.0
"""Seconds until a wait has failed: far more than anything should take, for machines that are busy."""


async def instance(server: Luna, instance_id: str = ID) -> dict[str, Any]:
    """Return an instance as REST shows it; nothing when it is not registered."""
    async with session(server.rest) as rest, rest.get(f"/registry/v1/instances/{instance_id}") as answer:
        assert answer.status in (200, 404)
        found: dict[str, Any] = await answer.json()
        return found if answer.status == 200 else {}


async def shows(server: Luna, status: str) -> None:
    """Wait until the instance has a status."""

    async def so() -> bool:
        return (await instance(server)).get("status") == status

    await until(so)


def restarted(server: Luna) -> AbstractAsyncContextManager[Luna]:
    """Run another server at the same ports, with an empty memory."""
    ports = ("--port", server.rest.rpartition(":")[2], "--grpc-port", server.grpc.rpartition(":")[2])
    return luna("--lease-ttl", str(TTL), *ports)
