"""State files for tests: opened, copied while they are in use, and on disks that are slow or that fail. Nothing here is a mock."""

import asyncio
import resource
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

from luna_grpc.access import Role, User
from luna_grpc.durable import DurableStore
from luna_grpc.memory import MemoryStore
from luna_grpc.model import Actor, Door, Info, Instance, Status
from luna_grpc.statefile import StateFile
from luna_grpc.store import Holder, Registration, Terms
from support import FakeClock

ALICE = Actor(User("alice", Role.ADMIN), Door.GRPC, "test")
TTL = 30.0
EVICT_AFTER = 100.0
LOG = "-wal"


@asynccontextmanager
async def durable(path: Path, clock: FakeClock | None = None, *, evict_after: float = EVICT_AFTER) -> AsyncIterator[DurableStore]:
    """Open a state file, and load what is in it."""
    clock = clock or FakeClock()
    store = DurableStore(clock, StateFile.open(str(path)), evict_after=evict_after, warming=True)
    try:
        await store.load(TTL)
        yield store
    finally:
        await store.close()


def copied(path: Path, name: str = "copy.db") -> Path:
    """Copy a file that is in use as a kill would leave it behind. Nothing may be written meanwhile."""
    copy = path.with_name(name)
    for suffix in ("", LOG):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    return copy


class Known(NamedTuple):
    """All that a store knows of an instance, but for its lease."""

    instance: Instance
    owner: str
    last_heartbeat: int


def known(store: MemoryStore) -> dict[str, list[Known]]:
    """Return all that a store knows: by service, the instances in their order."""
    return {
        service.name: [Known(each.instance, each.owner, each.last_heartbeat) for each in service.registrations]
        for service in store.services()
    }


def but_for_heartbeats(knowledge: dict[str, list[Known]]) -> dict[str, list[Known]]:
    """Leave out when the last heartbeats came: they are not written."""
    return {name: [each._replace(last_heartbeat=0) for each in instances] for name, instances in knowledge.items()}


async def restored(path: Path, clock: FakeClock | None = None) -> dict[str, list[Known]]:
    """Return what a registry knows that is killed now and started again."""
    async with durable(copied(path), clock) as store:
        return known(store)


def terms(clock: FakeClock, holder: Holder | None = None) -> Terms:
    """Return what a heartbeat grants now."""
    return Terms(clock.now() + TTL, clock.wall_ms(), holder)


async def register(
    store: MemoryStore,
    clock: FakeClock,
    instance_id: str = "a:h:1",
    *,
    reported: Status = Status.OK,
    owner: str = "",
    replace: bool = False,
    **said: Any,
) -> Registration:
    """Register an instance."""
    info = Info.of(instance_id, **said)
    return await store.register(info, reported, owner=owner, replace=replace, terms=terms(clock), actor=ALICE)


async def change(
    store: MemoryStore,
    clock: FakeClock,
    instance_id: str = "a:h:1",
    *,
    generation: int = 0,
    reported: Status | None = None,
    **said: Any,
) -> Registration:
    """Change an instance; `said` is what is known of it from now on, if anything is given."""
    info = Info.of(instance_id, **said) if said else None
    return await store.change(instance_id, generation=generation, info=info, reported=reported, terms=terms(clock), actor=ALICE)


async def deregister(store: MemoryStore, instance_id: str = "a:h:1", generation: int = 0) -> None:
    """Remove an instance."""
    await store.deregister(instance_id, generation=generation, actor=ALICE)


@asynccontextmanager
async def slow_disk(file: StateFile) -> AsyncIterator[None]:
    """Let a transaction of the real file take as long as the context is open; what comes meanwhile waits for it."""
    begun, gate = Event(), Event()

    def wait() -> None:
        begun.set()
        assert gate.wait(60)

    file._connection.create_function("wait_for_the_disk", 0, wait)
    done = file.write(("SELECT wait_for_the_disk()", ()))
    await asyncio.to_thread(begun.wait)
    try:
        yield
    finally:
        gate.set()
        await done


async def settle() -> None:
    """Let everything run that waits for nothing but its turn in the loop."""
    for _ in range(20):
        await asyncio.sleep(0)


@contextmanager
def missing(path: Path) -> Iterator[None]:
    """Move a file away."""
    away = path.rename(f"{path}.away")
    try:
        yield
    finally:
        away.rename(path)


@contextmanager
def other(path: Path) -> Iterator[None]:
    """Put another file in the place of one."""
    with missing(path):
        path.touch()
        yield
        path.unlink()


@contextmanager
def no_room(_: Path) -> Iterator[None]:
    """Let no file of this process grow, or be written to beyond its first byte."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
