"""A load of changes through both doors, and the knowledge of what was acknowledged: what a killed registry has to remember."""

import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import aiohttp
import grpc
from harness import INSTANCES

from luna_grpc.v1 import registry_pb2 as pb
from support import Stub

SERVICES = ("alpha", "beta", "gamma")
IDS_EACH = 6
"""Instances of each client."""


class Said(NamedTuple):
    """What an instance is known to be: all that a client can set."""

    name: str
    description: str
    version: str
    url: str
    weight: int
    metadata: tuple[tuple[str, str], ...]
    ok: bool


class Seen(NamedTuple):
    """What a registry shows of an instance, but for its last heartbeat."""

    said: Said
    generation: int
    registered_at: int


class Wanted(NamedTuple):
    """What an instance is to be."""

    said: Said
    generation: int | None
    """None: a new one."""
    owner: str = ""
    """Who registers with it gets it back; no door shows it."""


State: TypeAlias = Wanted | None
"""None: it is not registered."""


@dataclass
class Book:
    """What is known of one instance by the one client that changes it."""

    instance_id: str
    acknowledged: State = None
    in_flight: list[State] = field(default_factory=list)
    """What may have become of it since, if a change was not answered."""
    highest: int = 0
    """The highest generation that it ever had."""
    joined: tuple[float, float] | None = None
    """When it asked to be in its service, and when that was acknowledged; None when it is not known."""

    def is_acknowledged(self, seen: Seen | None) -> bool:
        """Whether it is as it was acknowledged last."""
        return self._is(self.acknowledged, seen)

    def is_in_flight(self, seen: Seen | None) -> bool:
        """Whether it is as the change that was not answered would have it."""
        return any(self._is(state, seen) for state in self.in_flight)

    def _is(self, state: State, seen: Seen | None) -> bool:
        if state is None or seen is None:
            return state is None and seen is None
        fits = seen.generation > self.highest if state.generation is None else seen.generation == state.generation
        return seen.said == state.said and fits

    def settle(self, seen: Seen | None) -> None:
        """Take what a restarted registry shows for what it is."""
        if self.in_flight:
            self.joined = None
        if not self.is_acknowledged(seen):
            [self.acknowledged] = self.in_flight
        self.in_flight = []
        if self.acknowledged is not None and seen is not None:
            self.acknowledged = self.acknowledged._replace(generation=seen.generation)
            self.highest = max(self.highest, seen.generation)


def said_by(instance: pb.Instance) -> Said:
    """Read an instance of the gRPC door."""
    return Said(
        instance.name, instance.description, instance.version, instance.url, instance.balancer_options.weight,
        tuple(sorted(instance.metadata.items())), instance.status == pb.STATUS_OK,
    )  # fmt: skip


def seen_in(instance: pb.Instance) -> Seen:
    """Read an instance of the gRPC door."""
    return Seen(said_by(instance), instance.generation, instance.registered_at.ToMilliseconds())


def said_in_json(instance: dict[str, Any]) -> Said:
    """Read an instance of the REST door."""
    return Said(
        instance["name"], instance["description"], instance["version"], instance["url"],
        instance["balancerOptions"].get("weight", 0), tuple(sorted(instance.get("metadata", {}).items())),
        instance["status"] == "OK",
    )  # fmt: skip


class Client:
    """Changes its instances one after the other, and notes what was acknowledged, until the registry is gone."""

    stub: Stub
    rest: aiohttp.ClientSession

    def __init__(self, number: int, dice: random.Random) -> None:
        self.books = [Book(f"{SERVICES[n % len(SERVICES)]}:client-{number}:{n + 1}") for n in range(IDS_EACH)]
        self.acknowledged = 0
        self._dice = dice
        self._marks = 0
        self._stream: Any = None

    def connect(self, stub: Stub, rest: aiohttp.ClientSession) -> None:
        """Work with this registry from now on."""
        self.stub, self.rest, self._stream = stub, rest, None

    async def work(self) -> None:
        """Make changes until a call fails because the registry is gone."""
        try:
            while True:
                await self._change(self._dice.choice(self.books))
        except (aiohttp.ClientConnectionError, aiohttp.ServerDisconnectedError):
            return
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise

    async def _change(self, book: Book) -> None:
        was = book.acknowledged
        ways: list[Callable[[Book], Awaitable[None]]] = [self._register, self._post]
        if was is not None:
            ways = [self._replace, self._report, self._report_on_a_stream, self._inform, self._put, self._deregister, self._delete]
            ways += [self._again] if was.owner else []
        await self._dice.choice(ways)(book)
        self.acknowledged += 1

    def _something(self, book: Book) -> Said:
        """Make up what an instance says of itself."""
        self._marks += 1
        dice = self._dice
        mark = f"{book.instance_id}#{self._marks}"
        name = dice.choice(SERVICES) if dice.random() < 0.2 else book.instance_id.partition(":")[0]
        metadata = {"mark": mark, **({"zone": dice.choice("abc")} if dice.random() < 0.5 else {})}
        version, weight = dice.choice(("1.0", "2.0")), dice.choice((0, 1, 7))
        return Said(name, mark, version, f"http://{mark[:5]}/", weight, tuple(sorted(metadata.items())), dice.random() < 0.7)

    def _begin(self, book: Book, state: State) -> float:
        book.in_flight = [state]
        was = book.acknowledged
        if state is None or was is None or was.said.name != state.said.name:
            book.joined = None
        return time.monotonic()

    def _end(self, book: Book, state: State, begun: float, *, moved: bool) -> None:
        book.acknowledged = state
        book.in_flight = []
        book.highest = max(book.highest, (state and state.generation) or 0)
        if moved:
            book.joined = (begun, time.monotonic())

    # Through gRPC

    async def _register(self, book: Book, *, replace: bool = False, again: bool = False) -> None:
        said = self._something(book)
        was = book.acknowledged
        state = Wanted(said, None, self._dice.choice(("", f"owner-{self._marks}")))
        if again and was is not None:
            state = was._replace(said=said)
        begun = self._begin(book, state)
        request = pb.RegisterRequest(instance=_instance(book.instance_id, said), replace=replace, owner=state.owner)
        instance = (await self.stub.Register(request)).instance
        assert said_by(instance) == said
        assert state.generation in {None, instance.generation}
        moved = was is None or was.said.name != said.name
        self._end(book, state._replace(generation=instance.generation), begun, moved=moved)

    async def _replace(self, book: Book) -> None:
        await self._register(book, replace=True)

    async def _again(self, book: Book) -> None:
        await self._register(book, again=True)

    async def _say(self, book: Book, said: Said, call: Awaitable[Any]) -> None:
        was = book.acknowledged
        assert was is not None
        state = was._replace(said=said)
        begun = self._begin(book, state)
        await call
        self._end(book, state, begun, moved=was.said.name != said.name)

    async def _report(self, book: Book) -> None:
        said = _other_way(book)
        request = pb.HeartbeatRequest(instance_id=book.instance_id, status=_status(said))
        await self._say(book, said, self.stub.Heartbeat(request))

    async def _report_on_a_stream(self, book: Book) -> None:
        said = _other_way(book)
        assert book.acknowledged is not None
        entry = pb.HeartbeatRequest(
            instance_id=book.instance_id, status=_status(said), generation=book.acknowledged.generation or 0
        )
        await self._say(book, said, self._streamed(entry))

    async def _streamed(self, entry: pb.HeartbeatRequest) -> None:
        """Send on the client's one stream, and wait for the answer that covers it."""
        if self._stream is None:
            self._stream = self.stub.StreamHeartbeats()
        self._marks += 1
        await self._stream.write(pb.StreamHeartbeatsRequest(sequence=self._marks, heartbeats=[entry]))
        answer = await self._stream.read()
        if answer is grpc.aio.EOF:
            raise aiohttp.ServerDisconnectedError  # the registry is gone
        assert (answer.sequence, list(answer.failures)) == (self._marks, [])

    async def _inform(self, book: Book) -> None:
        said = self._something(book)
        request = pb.HeartbeatRequest(instance_id=book.instance_id, instance=_instance(book.instance_id, said))
        await self._say(book, said, self.stub.Heartbeat(request))

    async def _deregister(self, book: Book) -> None:
        begun = self._begin(book, None)
        await self.stub.Deregister(pb.DeregisterRequest(instance_id=book.instance_id))
        self._end(book, None, begun, moved=False)

    # Through REST

    async def _post(self, book: Book) -> None:
        said = self._something(book)
        begun = self._begin(book, Wanted(said, None))
        async with self.rest.post(INSTANCES + book.instance_id, json=_json(book.instance_id, said)) as answer:
            assert answer.status == 201, await answer.text()
            assert said_in_json(await answer.json()) == said
        self._end(book, Wanted(said, None), begun, moved=True)
        asked = pb.GetInstanceRequest(instance_id=book.instance_id)  # the REST door does not tell the generation
        instance = (await self.stub.GetInstance(asked)).instance
        self._end(book, Wanted(said, instance.generation), begun, moved=False)

    async def _put(self, book: Book) -> None:
        said = self._something(book)
        await self._say(book, said, self._sent(book.instance_id, said))

    async def _sent(self, instance_id: str, said: Said) -> None:
        async with self.rest.put(INSTANCES + instance_id, json=_json(instance_id, said)) as answer:
            assert answer.status == 200, await answer.text()
            assert said_in_json(await answer.json()) == said

    async def _delete(self, book: Book) -> None:
        begun = self._begin(book, None)
        async with self.rest.delete(INSTANCES + book.instance_id) as answer:
            assert answer.status == 200, await answer.text()
            await answer.read()
        self._end(book, None, begun, moved=False)


def _other_way(book: Book) -> Said:
    assert book.acknowledged is not None
    said = book.acknowledged.said
    return said._replace(ok=not said.ok)


def _status(said: Said) -> "pb.Status.ValueType":
    return pb.STATUS_OK if said.ok else pb.STATUS_DOWN


def _instance(instance_id: str, said: Said) -> pb.Instance:
    return pb.Instance(
        instance_id=instance_id, name=said.name, description=said.description, version=said.version, url=said.url,
        balancer_options=pb.BalancerOptions(weight=said.weight), metadata=dict(said.metadata), status=_status(said),
    )  # fmt: skip


def _json(instance_id: str, said: Said) -> dict[str, Any]:
    return {
        "instanceId": instance_id, "name": said.name, "description": said.description, "version": said.version, "url": said.url,
        "balancerOptions": {"weight": said.weight}, "metadata": dict(said.metadata), "status": "OK" if said.ok else "DOWN",
    }  # fmt: skip


def out_of_order(order: Iterable[str], books: dict[str, Book]) -> list[tuple[str, str]]:
    """Return the instances of one service that stand before one that was acknowledged before they asked."""
    known = [(instance_id, books[instance_id].joined) for instance_id in order]
    return [
        (earlier, later)
        for position, (earlier, first) in enumerate(known)
        for later, second in known[position + 1 :]
        if first is not None and second is not None and second[1] < first[0]
    ]
