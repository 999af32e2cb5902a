"""Both real doors, and a reference beside them: whatever is asked for is asked of both, and every answer has to be the same."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Any, Self

import grpc
import orjson
from aiohttp import ClientSession
from reference import EVICT_AFTER, SLACK, STEP, TTL, WARMUP, Beat, Reference, Said
from said import as_json

from luna_grpc.durable import DurableStore
from luna_grpc.serve import Running, running
from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import FakeClock, Stub, channel, session, settings_for_tests

PATIENCE = 10.0
"""Seconds in which a watch has to tell what happened."""
CODES = {3: "INVALID_ARGUMENT", 5: "NOT_FOUND", 9: "FAILED_PRECONDITION"}
Key = tuple[str, str]


def message(instance_id: str, said: Said, status: str) -> pb.Instance:
    """Write an instance as gRPC clients send it."""
    return pb.Instance(
        instance_id=instance_id,
        name=said.name,
        description=said.description,
        version=said.version,
        url=said.url,
        status=pb.Status.Value(f"STATUS_{status or 'UNSPECIFIED'}"),
        balancer_options=pb.BalancerOptions(weight=said.weight),
        metadata={"zone": said.zone} if said.zone else {},
    )


def body(instance_id: str, said: Said, status: str) -> bytes:
    """Write an instance as REST clients send it."""
    return orjson.dumps(
        {
            "instanceId": instance_id,
            "name": said.name,
            "description": said.description,
            "version": said.version,
            "url": said.url,
            "status": status or "OK",
            "balancerOptions": {"weight": said.weight},
            "metadata": {"zone": said.zone} if said.zone else {},
        }
    )


def heartbeat(beat: Beat) -> pb.HeartbeatRequest:
    """Write a heartbeat."""
    return pb.HeartbeatRequest(
        instance_id=beat.instance_id,
        generation=beat.generation,
        status=pb.Status.Value(f"STATUS_{beat.status}") if beat.status else None,
        instance=message(beat.instance_id, beat.said, "") if beat.said else None,
    )


class Watching:
    """A watch as a client keeps it: what it knows, and the token to go on from."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.known: dict[Key, pb.Instance] = {}
        self.token = ""
        self.told = asyncio.Event()
        self._unseen: set[Key] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self, stub: Stub) -> None:
        """Go on from the last token."""
        self._task = asyncio.create_task(self._read(stub))

    async def stop(self) -> None:
        """Leave."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _read(self, stub: Stub) -> None:
        call = stub.WatchServices(pb.WatchServicesRequest(names=self.names, resume_token=self.token))
        try:
            async for message in call:
                self._take(message)
        finally:
            call.cancel()

    def _take(self, message: pb.WatchServicesResponse) -> None:
        if message.reset:
            self._unseen = set(self.known)
        for event in message.events:
            key = (event.instance.name, event.instance.instance_id)
            self._unseen.discard(key)
            if event.type == pb.EVENT_TYPE_UPSERTED:
                event.instance.ClearField("last_heartbeat")  # it is the one at the time of the change
                self.known[key] = event.instance
            else:
                self.known.pop(key, None)
        if message.synced:
            for key in self._unseen:
                del self.known[key]
            self._unseen = set()
        self.token = message.resume_token or self.token
        self.told.set()


class Doors:
    """A server whose time stands still until it is told otherwise, its clients, and the reference."""

    def __init__(self, state_file: str) -> None:
        self._clock = FakeClock()
        self._state_file = state_file
        self._stack = AsyncExitStack()
        self._watches = [Watching(), Watching("a"), Watching("other", "nobody")]
        self._streams: dict[int, Any] = {}
        self._checks = 0
        now, wall_ms = self._clock.now(), self._clock.wall_ms()
        self.reference = Reference(durable=bool(state_file), now=now, wall_ms=wall_ms)
        self.reference.warm_at = now + (0 if state_file else WARMUP)

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def _start(self) -> None:
        settings = settings_for_tests(
            lease_ttl=TTL, lease_slack=SLACK, evict_after=EVICT_AFTER, warmup=WARMUP, state_file=self._state_file
        )
        self._server: Running = await self._stack.enter_async_context(running(settings, self._clock))
        self._rest: ClientSession = await self._stack.enter_async_context(session(f"http://127.0.0.1:{self._server.rest_port}"))
        connection = await self._stack.enter_async_context(channel(f"127.0.0.1:{self._server.grpc_port}"))
        self._stub: Stub = registry_pb2_grpc.RegistryStub(connection)
        for watch in self._watches:
            watch.start(self._stub)

    async def _stop(self) -> None:
        for watch in self._watches:
            await watch.stop()
        await self._stack.aclose()
        self._streams.clear()

    # What is asked for

    async def register(
        self, instance_id: str, said: Said, status: str, *, owner: str = "", replace: bool = False, rest: bool = False
    ) -> None:
        """Register through one of the doors; only gRPC has owners and replacing."""
        if rest:
            outcome = await self._by_rest("POST", instance_id, body(instance_id, said, status))
        else:
            request = pb.RegisterRequest(instance=message(instance_id, said, status), owner=owner, replace=replace)
            outcome = await self._by_grpc(self._stub.Register(request))
        assert outcome == self.reference.register(instance_id, said, status, owner=owner, replace=replace, rest=rest)

    async def renew(self, instance_id: str, generation: str, status: str, said: Said | None) -> None:
        """Send a heartbeat by gRPC."""
        beat = Beat(instance_id, self._generation(instance_id, generation), status, said)
        outcome = await self._by_grpc(self._stub.Heartbeat(heartbeat(beat)))
        assert outcome == self.reference.heartbeat(beat, rest=False)

    async def put(self, instance_id: str, status: str, said: Said | None) -> None:
        """Send a heartbeat by REST: empty, or with everything."""
        outcome = await self._by_rest("PUT", instance_id, body(instance_id, said, status) if said else b"")
        assert outcome == self.reference.heartbeat(Beat(instance_id, 0, status if said else "", said), rest=True)

    async def deregister(self, instance_id: str, generation: str, *, rest: bool) -> None:
        """Deregister through one of the doors; only gRPC has generations."""
        number = 0 if rest else self._generation(instance_id, generation)
        if rest:
            outcome = await self._by_rest("DELETE", instance_id, b"")
        else:
            request = pb.DeregisterRequest(instance_id=instance_id, generation=number)
            outcome = await self._by_grpc(self._stub.Deregister(request))
        assert outcome == self.reference.deregister(instance_id, number)

    async def drain(self, instance_id: str, steps: int, *, rest: bool) -> None:
        """Take an instance out of service for some steps, through one of the doors."""
        if rest:
            outcome = await self._by_rest("POST", f"{instance_id}/drain", orjson.dumps({"duration": steps * STEP}))
        else:
            request = pb.DrainInstanceRequest(instance_id=instance_id)
            request.duration.FromMilliseconds(round(steps * STEP * 1000))
            outcome = await self._by_grpc(self._stub.DrainInstance(request))
        assert outcome == self.reference.drain(instance_id, steps)

    async def undrain(self, instance_id: str, *, rest: bool) -> None:
        """Put an instance back into service, through one of the doors."""
        if rest:
            outcome = await self._by_rest("DELETE", f"{instance_id}/drain", b"")
        else:
            outcome = await self._by_grpc(self._stub.UndrainInstance(pb.UndrainInstanceRequest(instance_id=instance_id)))
        assert outcome == self.reference.undrain(instance_id)

    async def open(self, slot: int, on_disconnect: str) -> None:
        """Open a heartbeat stream, or change what is to happen when it breaks."""
        if slot not in self._streams:
            self._streams[slot] = self._stub.StreamHeartbeats()
            self.reference.open(slot, on_disconnect)
        options = pb.StreamOptions(on_disconnect=pb.OnDisconnect.Value(f"ON_DISCONNECT_{on_disconnect}"))
        assert await self._said(slot, pb.StreamHeartbeatsRequest(options=options)) == {}
        self.reference.streams[slot].on_disconnect = on_disconnect

    async def say(self, slot: int, beats: list[tuple[str, str, str, Said | None]], bare: list[str]) -> None:
        """Send heartbeats by a stream."""
        if slot not in self._streams:
            return
        said = [Beat(each, self._generation(each, generation), status, info) for each, generation, status, info in beats]
        failures = await self._said(slot, pb.StreamHeartbeatsRequest(heartbeats=map(heartbeat, said), instance_ids=bare))
        assert failures == self.reference.say(slot, said, bare)

    async def half_close(self, slot: int) -> None:
        """End a stream well."""
        if slot not in self._streams:
            return
        call = self._streams.pop(slot)
        await call.done_writing()
        while await call.read() is not grpc.aio.EOF:
            pass
        assert await call.code() is grpc.StatusCode.OK
        self.reference.half_close(slot)

    async def break_off(self, slot: int) -> None:
        """Let a stream break."""
        if slot not in self._streams:
            return
        self._streams.pop(slot).cancel()
        await until(lambda: len(self._server.grpc.service.heartbeat_streams) == len(self._streams))
        await self._written()
        self.reference.break_off(slot)

    async def wait(self, steps: int) -> None:
        """Let time pass."""
        for _ in range(steps):
            self._clock.advance(STEP)
            while (await self._server.registry.sweep()).swept.more:
                pass
            await self._written()
            self.reference.step()

    async def resume(self, watch: int) -> None:
        """Break a watch and go on from its last token."""
        await self._watches[watch].stop()
        self._watches[watch].start(self._stub)

    async def restart(self) -> None:
        """Stop the server as it is to be stopped, and start it again."""
        await self._stop()
        self._clock.advance(STEP)
        self.reference.restart()
        await self._start()
        if self._state_file:
            await self._learn_last_heartbeats()

    # Whether it agrees

    async def agree(self) -> None:
        """Compare everything that either door shows with the reference, and what watches know with that."""
        self._checks += 1
        token, listed = await self._listed(page_size=1 + self._checks % 3)
        for instance in listed.values():
            self.reference.learn(instance.instance_id, instance.generation)
        assert [as_json(instance) for instance in listed.values()] == [
            entry.shown()
            for _, members in self.reference.services()
            for entry in sorted(members, key=lambda each: each.instance_id)
        ]
        assert await (await self._rest.get("/registry/v1/services/json")).json() == [
            {
                "name": name,
                "description": members[0].said.description,
                "status": "UP" if any(entry.shown()["status"] == "OK" for entry in members) else "DOWN",
                "instances": [entry.shown() for entry in members],
            }
            for name, members in self.reference.services()
        ]
        for instance in listed.values():
            instance.ClearField("last_heartbeat")
        if self.reference.now >= self.reference.warm_at:
            await self._watches_know(token, listed)

    async def _listed(self, page_size: int) -> tuple[str, dict[Key, pb.Instance]]:
        request = pb.ListServicesRequest(page_size=page_size)
        page = await self._stub.ListServices(request)
        token, services = page.resume_token, list(page.services)
        while page.next_page_token:
            page = await self._stub.ListServices(pb.ListServicesRequest(page_size=page_size, page_token=page.next_page_token))
            services += page.services
        assert [(service.name, service.description, service.instances_up) for service in services] == [
            (name, members[0].said.description, sum(entry.shown()["status"] == "OK" for entry in members))
            for name, members in self.reference.services()
        ]
        return token, {(service.name, each.instance_id): each for service in services for each in service.instances}

    async def _watches_know(self, token: str, listed: dict[Key, pb.Instance]) -> None:
        """Wait until the watch of everything has come as far as the list, and the others know what they are to know."""
        everything, *others = self._watches
        try:
            async with asyncio.timeout(PATIENCE):
                while everything.token != token:
                    await self._next_word(everything)
                for watch in others:
                    while watch.known != {key: listed[key] for key in listed if key[0] in watch.names}:
                        await self._next_word(watch)
        except TimeoutError:
            raise AssertionError(f"a watch knows {[watch.known for watch in self._watches]} instead of {listed}") from None
        assert everything.known == listed

    @staticmethod
    async def _next_word(watch: Watching) -> None:
        watch.told.clear()
        await watch.told.wait()

    async def _learn_last_heartbeats(self) -> None:
        """Heartbeats are not written, so after a restart an older one may be shown."""
        for entry in self.reference.entries.values():
            shown = await (await self._rest.get(f"/registry/v1/instances/{entry.instance_id}")).json()
            assert entry.registered_at <= shown["last_heartbeat"] <= entry.last_heartbeat
            entry.last_heartbeat = shown["last_heartbeat"]

    # How it is asked

    def _generation(self, instance_id: str, which: str) -> int:
        entry = self.reference.entries.get(instance_id)
        current = entry.generation if entry else 7
        return {"none": 0, "current": current, "older": current - 1, "newer": current + 1}[which]

    async def _by_rest(self, method: str, instance_id: str, data: bytes) -> str:
        async with self._rest.request(method, f"/registry/v1/instances/{instance_id}", data=data) as response:
            return "OK" if response.ok else str((await response.json())["code"])

    @staticmethod
    async def _by_grpc(call: Any) -> str:
        try:
            await call
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    async def _said(self, slot: int, request: pb.StreamHeartbeatsRequest) -> dict[str, str]:
        """Send a message and wait until it has been handled; return the failures."""
        self._checks += 1
        request.sequence = self._checks
        await self._streams[slot].write(request)
        failures: dict[str, str] = {}
        answer = pb.StreamHeartbeatsResponse()
        while answer.sequence != request.sequence:
            answer = await self._streams[slot].read()
            failures |= {failure.instance_id: CODES[failure.code] for failure in answer.failures}
        return failures

    async def _written(self) -> None:
        """Wait until the state file knows what nobody waits for; else the end of a lease is dated by when that was."""
        store = self._server.registry.store
        if isinstance(store, DurableStore):
            await until(lambda: not store._owing and (store._flusher is None or store._flusher.done()))


async def until(done: Callable[[], bool]) -> None:
    """Wait for something that nothing tells of."""
    async with asyncio.timeout(PATIENCE):
        while not done():  # noqa: ASYNC110 - same
            await asyncio.sleep(0.001)
