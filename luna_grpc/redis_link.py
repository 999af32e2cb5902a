"""The connection to Redis: scripts, the stream of changes, and how an instance is written there."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, TypeAlias

import orjson
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from luna_grpc import redis_scripts
from luna_grpc.access import Role, User
from luna_grpc.errors import UnavailableError
from luna_grpc.model import Actor, Door, Info, Instance, Status, StatusReason
from luna_grpc.store import Registration

CONNECTIONS: Final = 32
"""Of one replica; who finds none free waits."""
PATIENCE: Final = 5.0
"""Seconds to wait for one."""
READ: Final = 1000
"""Entries of the stream, or instances, read at a time."""
_SCRIPTS: Final = ("change", "remove", "end", "latest", "drain", "undrain", "renew", "hold", "sweep", "begin")
Said: TypeAlias = str | bytes | float
Entry: TypeAlias = tuple[int, Mapping[bytes, bytes]]
"""A change: its revision, and its fields."""


class Value(NamedTuple):
    """What Redis keeps of an instance."""

    revision: int
    instance: Instance
    owner: str


def body(info: Info, reported: Status, owner: str, registered_at: int) -> bytes:
    """Write what does not change with a lease."""
    return orjson.dumps([
        info.instance_id, info.name, info.description, info.version, info.url, info.weight, dict(info.metadata), reported.value,
        owner, registered_at,
    ])  # fmt: skip


def read(value: bytes) -> Value:
    """Read a value."""
    revision, generation, ended, _, drained, said = value.split(b" ", 5)
    instance_id, name, description, version, url, weight, metadata, reported, owner, registered_at = orjson.loads(said)
    info = Info.of(instance_id, name=name, description=description, version=version, url=url, weight=weight, metadata=metadata)
    instance = Instance(
        info, Status(reported), None if ended == b"-" else StatusReason(ended.decode()), int(generation), registered_at,
        None if drained == b"-" else int(drained),
    )  # fmt: skip
    return Value(int(revision), instance, owner)


def member(registration: Registration) -> str:
    """Return what stands for a generation in the sorted sets."""
    return f"{registration.instance.info.instance_id}#{registration.instance.generation}"


def who(actor: Actor) -> bytes:
    """Write who causes a change."""
    return orjson.dumps([actor.user.name, actor.user.role.value, actor.door.value, actor.peer])


def actor(written: bytes) -> Actor:
    """Read who caused a change."""
    name, role, door, peer = orjson.loads(written)
    return Actor(User(name, Role(role)), Door(door), peer)


class Link:
    """What one replica asks of Redis. Every method raises UnavailableError when there is no answer.

    `now` is asked for the time in milliseconds since the epoch by tests only, else Redis' clock counts.
    """

    def __init__(self, url: str, namespace: str, now: Callable[[], int] | None = None) -> None:
        # Nothing is ever sent twice: what was changed must not be changed again.
        pool = BlockingConnectionPool.from_url(
            url, max_connections=CONNECTIONS, timeout=PATIENCE, retry=Retry(NoBackoff(), 0), protocol=3, legacy_responses=False
        )
        self._client = Redis.from_pool(pool)
        self._now = now
        self.keys = [f"{{{namespace}}}:{key}" for key in redis_scripts.KEYS]  # the braces keep them on one node
        self._meta, self._instances, *_, self._drains, self._changes = self.keys
        self._scripts = {name: self._client.register_script(getattr(redis_scripts, name.upper())) for name in _SCRIPTS}

    async def ask(self, script: str, *arguments: Said) -> Any:  # noqa: ANN401 - each script has its own answer
        """Let Redis run a script."""
        now = "" if self._now is None else self._now()
        with _in_words():
            return await self._scripts[script](keys=self.keys, args=[now, *arguments])

    async def changes(self, after: int, *, block: int | None = None) -> list[Entry]:
        """Return the next changes after a revision; wait for the first for so many milliseconds."""
        with _in_words():
            answer: Any = await self._client.xread({self._changes: f"{after}-0"}, count=READ, block=block)
        [found] = answer.values() if answer else ([],)
        return [(int(number.partition(b"-")[0]), fields) for number, fields in found]

    async def instances(self) -> AsyncIterator[Value]:
        """Yield all instances; some of them as they become meanwhile."""
        with _in_words():
            async for _, value in self._client.hscan_iter(self._instances, count=READ):
                yield read(value)

    async def drains(self) -> tuple[int, dict[str, int]]:
        """Return the ids that are drained, each with the end of that, and the revision of that list."""
        with _in_words():
            revision = int(await self._client.hget(self._meta, "drains") or 0)
            ends: Any = await self._client.zrange(self._drains, 0, -1, withscores=True)
        return revision, {instance_id.decode(): int(until) for instance_id, until in ends}

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()


@contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise UnavailableError(
            f"Redis does not answer ({error or type(error).__name__}); until it does nothing can be changed", retry_after=1
        ) from error
