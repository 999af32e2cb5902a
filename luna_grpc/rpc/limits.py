"""What one gRPC client may take of the server: the options that gRPC's core knows, and what it does not know how to count."""

import asyncio
from collections import Counter, deque
from typing import Final
from urllib.parse import unquote

from luna_grpc.config import Settings
from luna_grpc.errors import ResourceExhaustedError
from luna_grpc.throttle import home

CALLS_BESIDE: Final = 100
"""How many calls HTTP/2 lets a connection have beyond its streams, so that one stream too many is refused in words and not kept
waiting by the client. They also bound the calls of which no message ever comes, which reach no handler."""
FREE_AFTER: Final = 5
"""Seconds after which another stream may have ended."""
WINDOW: Final = 0.02
"""Seconds over which calls are counted."""
PAUSE: Final = 0.001
"""Seconds in which calls of others are accepted before the next ones have their turn."""
AT_A_TURN: Final = 3
"""Calls that then have their turn: as many as can be made in about a millisecond, or the queue would form in gRPC's core."""


def options(settings: Settings, connections: int) -> list[tuple[str, int]]:
    """Return the options of a server that has at most so many connections."""
    return [
        ("grpc.max_receive_message_length", settings.max_message),
        # From the first of these on a request may be refused, from the second on it is.
        ("grpc.max_metadata_size", settings.max_header_size),
        ("grpc.absolute_max_metadata_size", settings.max_header_size),
        ("grpc.max_concurrent_streams", settings.max_streams_per_connection + CALLS_BESIDE),
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.server_handshake_timeout_ms", round(settings.header_timeout * 1000)),
        ("grpc.max_connection_idle_ms", round(settings.idle_timeout * 1000)),
    ]


def address(peer: str) -> str:
    """Return the address in what gRPC calls a peer, `ipv4:127.0.0.1:1234` or `ipv6:%5B::1%5D:1234`."""
    return unquote(peer.partition(":")[2].rpartition(":")[0]).strip("[]")


class StreamCount:
    """Counts the streams of each connection, of whatever kind, and of each address. For an address 0 means no limit."""

    def __init__(self, per_connection: int, per_address: int = 0) -> None:
        self._per_connection = per_connection
        self._per_address = per_address
        self._connections: Counter[str] = Counter()
        self._addresses: Counter[str] = Counter()

    def add(self, peer: str) -> None:
        """Count one stream more.

        Raises:
            ResourceExhaustedError: it would be one too many; it is not counted.

        """
        if self._connections[peer] >= self._per_connection:
            raise ResourceExhaustedError(
                f"{self._per_connection} streams are open on this connection already, the most that one may have "
                "(LUNA_MAX_STREAMS_PER_CONNECTION): use another connection, or one stream for many instances",
                retry_after=FREE_AFTER,
            )
        if self._per_address:
            here = home(address(peer))
            if self._addresses[here] >= self._per_address:
                raise ResourceExhaustedError(
                    f"{self._per_address} streams from {here} are open already, the most that one address may have "
                    "(LUNA_MAX_STREAMS_PER_ADDRESS): use one stream for many instances",
                    retry_after=FREE_AFTER,
                )
            self._addresses[here] += 1
        self._connections[peer] += 1

    def remove(self, peer: str) -> None:
        """Count one stream less."""
        _less(self._connections, peer)
        if self._per_address:
            _less(self._addresses, home(address(peer)))


def _less(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


class Turns:
    """Lets the calls of a connection that makes very many wait while others' are answered. `rate` is in calls a second, 0: any.

    gRPC's core hands calls over in the order in which they came, one at a time, and whoever has 2,000 under way has them all in
    that queue in front of everybody's next one. Calls above the rate are taken out of it and kept here, connection by connection;
    a few at a time have their turn, and in the pauses between the queue in the core runs empty.
    """

    def __init__(self, rate: int) -> None:
        self._most = max(1, round(rate * WINDOW)) if rate else 0
        self._came: dict[str, int] = {}  # calls of each connection in this window
        self._until = 0.0  # when the window ends, by the loop's clock
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # the connection whose turn is next comes first
        self._pump: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    def is_due(self, peer: str) -> bool:
        """Count a call, and return whether it can be answered at once; else it has to `wait`."""
        if not self._most:
            return True
        now = self._loop.time()
        if now >= self._until:
            self._until = now + WINDOW
            self._came.clear()
        came = self._came[peer] = self._came.get(peer, 0) + 1
        return came * (1 + len(self._waiting)) <= self._most and peer not in self._waiting

    async def wait(self, peer: str) -> None:
        """Return when it is the turn of this call."""
        turn = self._loop.create_future()
        self._waiting.setdefault(peer, deque()).append(turn)
        if self._pump is None or self._pump.done():
            self._pump = self._loop.create_task(self._give_turns())
        await turn

    async def _give_turns(self) -> None:
        while self._waiting:
            await asyncio.sleep(PAUSE)
            given = 0
            while self._waiting and given < AT_A_TURN:
                peer, line = next(iter(self._waiting.items()))
                del self._waiting[peer]
                turn = line.popleft()
                if line:
                    self._waiting[peer] = line
                if not turn.done():  # else the call was cancelled
                    turn.set_result(None)
                    given += 1
