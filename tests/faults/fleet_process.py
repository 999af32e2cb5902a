"""Many stream clients in a process of its own: it says on each line of its input how they are, and ends with it.

Usage: fleet_process.py ADDRESS CONNECTIONS STREAMS. Each connection has so many streams of one instance.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack

import fleet
from luna_grpc.v1 import registry_pb2_grpc
from support import channel

# The clients wait for a random time themselves; their connections need not wait much longer on top.
RECONNECT = (("grpc.initial_reconnect_backoff_ms", 500), ("grpc.max_reconnect_backoff_ms", 1000))


async def main(address: str, connections: int, streams: int) -> None:
    """Run the clients."""
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        clients: list[fleet.StreamClient] = []
        for number in range(connections):
            stub = registry_pb2_grpc.RegistryStub(await stack.enter_async_context(channel(address, options=RECONNECT)))
            ids = [f"fleet-{number}:localhost:{port + 1}" for port in range(streams)]
            clients += [fleet.StreamClient(fleet.shared_connection(stub), [instance_id]) for instance_id in ids]
        await stack.enter_async_context(fleet.running(clients))
        while line := await asyncio.to_thread(sys.stdin.readline):
            since = float(line)
            print(json.dumps(_seen(clients, since, time.monotonic() - began)), flush=True)


def _seen(clients: list[fleet.StreamClient], since: float, age: float) -> dict[str, object]:
    troubles: Counter[str] = Counter()
    for client in clients:
        troubles += client.troubles
    return {
        "alive": sum(client.alive_at > since for client in clients),
        "first": min(client.alive_at for client in clients),
        "last": max(client.alive_at for client in clients),
        "registered": sum(client.registered for client in clients),
        "troubles": troubles,
        "busy": round(time.process_time() / age, 2),
    }


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
