"""Many clients in a process of its own, which ends with its input.

Each line of the input is a moment, in monotonic seconds; the answer, a line of JSON, says how the clients have been since then.

Usage: fleet_process.py PLAN, which is a `fleets.Plan` as JSON.
"""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack

import fleet
from aiohttp import ClientSession, TCPConnector
from fleets import Plan

from luna_grpc.v1 import registry_pb2_grpc
from support import basic, channel


async def main(plan: Plan) -> None:
    """Run the clients."""
    async with AsyncExitStack() as stack:
        clients = [*await _over_grpc(plan, stack), *await _over_rest(plan, stack)]
        await stack.enter_async_context(fleet.running(clients))
        while line := await asyncio.to_thread(sys.stdin.readline):
            sys.stdout.write(json.dumps(_seen(clients, float(line))) + "\n")
            sys.stdout.flush()


async def _over_grpc(plan: Plan, stack: AsyncExitStack) -> list[fleet.Client]:
    clients: list[fleet.Client] = []
    for streams in plan.streamed():
        if plan.anew:
            connect = fleet.own_connection(plan.grpc)
        else:
            connection = await stack.enter_async_context(channel(plan.grpc, options=fleet.CONNECTING))
            connect = fleet.shared_connection(registry_pb2_grpc.RegistryStub(connection))
        clients += [fleet.StreamClient(connect, ids, on_disconnect=plan.on_disconnect) for ids in streams]
    return clients


async def _over_rest(plan: Plan, stack: AsyncExitStack) -> list[fleet.Client]:
    if not plan.put():
        return []
    connector = TCPConnector(limit=0)  # they are clients of their own, and wait for no other
    session = ClientSession(plan.rest, headers={"Authorization": basic()}, connector=connector)
    await stack.enter_async_context(session)
    return [fleet.RestClient(session, instance_id, every=plan.every) for instance_id in plan.put()]


def _seen(clients: Sequence[fleet.Client], since: float) -> dict[str, object]:
    return {
        "alive": sum(client.alive_at > since for client in clients),
        "registered": sum(client.registered for client in clients),
        "troubles": sum((client.troubles for client in clients), Counter()),
    }


if __name__ == "__main__":
    asyncio.run(main(Plan(**json.loads(sys.argv[1]))))
