"""A registry with a state file that is killed in the middle of its work loses nothing that it has acknowledged."""

import asyncio
import random
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

from harness import eventually, measured, soak, watching
from state_load import Book, Client, Seen, out_of_order, said_in_json, seen_in

from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import Luna, Stub, channel, luna, session

KILLS = soak(3, 50)
CLIENTS = 12


class Shown(NamedTuple):
    """All that a registry shows through both doors, heartbeats included."""

    instances: dict[str, Seen]
    services: list[dict[str, Any]]
    """As JSON: in the order of names, the instances in the order in which they joined."""
    raw: list[bytes]
    """As gRPC tells it, byte by byte."""
    epoch: str


async def shown(server: Luna) -> Shown:
    """Ask both doors for everything."""
    async with channel(server.grpc) as connection, session(server.rest) as rest:
        stub: Stub = registry_pb2_grpc.RegistryStub(connection)
        answer = await stub.ListServices(pb.ListServicesRequest(page_size=1000))
        assert not answer.next_page_token
        async with rest.get("/registry/v1/services/json") as listed:
            services = await listed.json()
        epoch = (await stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id="probe:h:1")))).lease.epoch
        await stub.Deregister(pb.DeregisterRequest(instance_id="probe:h:1"))
    instances = {each.instance_id: seen_in(each) for service in answer.services for each in service.instances}
    of_rest = {each["instanceId"]: said_in_json(each) for service in services for each in service["instances"]}
    assert of_rest == {instance_id: seen.said for instance_id, seen in instances.items()}
    for service in services:
        assert service["status"] == ("UP" if any(each["status"] == "OK" for each in service["instances"]) else "DOWN")
        assert service["description"] == service["instances"][0]["description"]
    return Shown(instances, services, [each.SerializeToString(deterministic=True) for each in answer.services], epoch)


async def killed_at_work(server: Luna, clients: list[Client], dice: random.Random) -> dict[str, Seen | None]:
    """Let clients work, kill the registry at a moment of no one's choice; return what a watcher heard last of each instance."""
    async with AsyncExitStack() as stack:
        for client in clients:
            connection = await stack.enter_async_context(channel(server.grpc))
            client.connect(registry_pb2_grpc.RegistryStub(connection), await stack.enter_async_context(session(server.rest)))
        connection = await stack.enter_async_context(channel(server.grpc))
        watch = await stack.enter_async_context(watching(registry_pb2_grpc.RegistryStub(connection)))
        work = [asyncio.create_task(client.work()) for client in clients]
        done, _ = await asyncio.wait(work, timeout=dice.uniform(0.05, 1.5), return_when=asyncio.FIRST_COMPLETED)
        server.process.kill()
        await asyncio.gather(*work)
        assert not done, "a client stopped before the registry did"
        await asyncio.wait_for(server.process.wait(), 10)
        await eventually(lambda: watch.code, 10, "the end of the watch")
    return {told.id: None if told.removed else seen_in(told.instance) for told in watch.told}


def check(after: Shown, books: dict[str, Book], told: dict[str, Seen | None]) -> None:
    """Compare what a restarted registry shows with what it had acknowledged, and told a watcher."""
    assert set(after.instances) <= set(books)
    for instance_id, book in books.items():
        seen = after.instances.get(instance_id)
        found = f"{instance_id}: {seen}, which is neither {book.acknowledged} nor {book.in_flight}"
        assert book.is_acknowledged(seen) or book.is_in_flight(seen), found
        heard = told.get(instance_id)
        if heard is not None and book.is_in_flight(heard) and is_news(heard, book):
            assert seen == heard, f"{instance_id}: a watcher was told {heard}, and that is lost"
    for service in after.services:
        assert out_of_order([each["instanceId"] for each in service["instances"]], books) == []


def is_news(heard: Seen, book: Book) -> bool:
    """Whether a watcher cannot have heard this of an earlier state: each description is given only once."""
    return book.acknowledged is None or heard.said.description != book.acknowledged.said.description


async def test_kills_under_load(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """What was acknowledged is there, what was not is there whole or not at all, and every start shows the same."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - to do it again
    dice = random.Random(seed)
    flags = ("--state-file", str(tmp_path / "state.db"), "--log-level", "warning", "--lease-ttl", "3600")
    clients = [Client(number, dice) for number in range(CLIENTS)]
    books = {book.instance_id: book for client in clients for book in client.books}
    in_flight, outcomes, epochs = [], [0, 0], set()
    for _ in range(KILLS):
        async with luna(*flags) as server:
            told = await killed_at_work(server, clients, dice)
        async with luna(*flags) as server:
            after = await shown(server)
            await server.stop(signal.SIGKILL)
        check(after, books, told)
        in_flight.append(sum(bool(book.in_flight) for book in books.values()))
        for book in books.values():
            if book.in_flight:
                outcomes[book.is_in_flight(after.instances.get(book.instance_id))] += 1
            book.settle(after.instances.get(book.instance_id))
        async with luna(*flags) as server:
            assert await shown(server) == after
            assert await server.stop() == 0
        epochs.add(after.epoch)
    assert len(epochs) == 1
    acknowledged = sum(client.acknowledged for client in clients)
    measured(record_property, "changes in flight at each kill", *in_flight)
    measured(record_property, "of all those, made all the same", outcomes[True])
    measured(record_property, "changes acknowledged in all", acknowledged)
    assert acknowledged > 20 * KILLS
