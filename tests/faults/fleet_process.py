"""Many stream clients in a process of its own, which ends with its input.

Each line of the input is a moment, in monotonic seconds; the answer, a line of JSON, says how the clients have been since then.

Usage: fleet_process.py ADDRESS CONNECTIONS STREAMS. Each connection has so many streams, of one instance each.
"""

import asyncio
import json
import sys
from collections import Counter
from contextlib import AsyncExitStack
from typing import Final

import fleet

from luna_grpc.v1 import registry_pb2_grpc
from support import channel

RECONNECT: Final = (("grpc.initial_reconnect_backoff_ms", 500), ("grpc.max_reconnect_backoff_ms", 1000))
"""The clients wait for a random time themselves; their connections need not wait much longer on top."""


async def main(address: str, connections: int, streams: int) -> None:
    """Run the clients."""
    clients: list[fleet.StreamClient] = []
    async with AsyncExitStack() as stack:
        for number in range(connections):
            stub = registry_pb2_grpc.RegistryStub(await stack.enter_async_context(channel(address, options=RECONNECT)))
            ids = [f"fleet-{number}:localhost:{port + 1}" for port in range(streams)]
            clients += [fleet.StreamClient(fleet.shared_connection(stub), [instance_id]) for instance_id in ids]
        await stack.enter_async_context(fleet.running(clients))
        while line := await asyncio.to_thread(sys.stdin.readline):
            sys.stdout.write(json.dumps(_seen(clients, float(line))) + "\n")
            sys.stdout.flush()


def _seen(clients: list[fleet.StreamClient], since: float) -> dict[str, object]:
    return {
        "alive": sum(client.alive_at > since for client in clients),
        "registered": sum(client.registered for client in clients),
        "troubles": sum((client.troubles for client in clients), Counter()),
    }


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
