"""What one gRPC client may take of the server: the options that gRPC's core knows, and what it does not know how to count."""

import asyncio
from collections import Counter, deque
from typing import Final
from urllib.parse import unquote

from luna_grpc.config import Settings
from luna_grpc.errors import ResourceExhaustedError
from luna_grpc.throttle import home

CALLS_BESIDE: Final = 2_500
"""How many calls HTTP/2 lets a connection have beyond its streams, so that one stream too many is refused in words and not kept
waiting by the client. They also bound the calls of which no message ever comes, which reach no handler: 8 KB each. Not fewer, for
at this limit client and server do not always agree how many calls are over, and then some are refused that could have waited."""
FREE_AFTER: Final = 5
"""Seconds after which another stream may have ended."""
WINDOW: Final = 64
"""Over how many calls it is counted who makes them."""
MOST_OF_THEM: Final = 32
ALONE_AFTER: Final = 1.0
"""Seconds without a call from anyone else after which nobody need wait for them."""
PAUSE: Final = 0.001
"""Seconds between two turns, and"""
ROUNDS: Final = 8
"""rounds of the event loop: gRPC hands over one call in some four of them, so more come in than have their turn."""
AT_A_TURN: Final = 2


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
    """Lets the calls of a connection that makes most of all calls wait while others' are answered.

    gRPC's core hands calls over in the order in which they came, one at a time, and whoever has 2,000 under way has them in that
    queue in front of everybody's next one. So the calls of such a connection are taken out of the queue and kept here; a few at a
    time have their turn, and in between the queue in the core runs empty. Who is alone never waits.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._came: dict[str, int] = {}  # calls of each connection, of the last few of all
        self._left = WINDOW
        self._shared_until = 0.0  # until when it matters to someone else what a connection makes
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # the connection whose turn is next comes first
        self._giving: asyncio.Task[None] | None = None

    def is_due(self, peer: str) -> bool:
        """Count a call, and return whether it can be answered at once; else it has to `wait`."""
        if not self._left:
            self._count_anew()
        self._left -= 1
        came = self._came[peer] = self._came.get(peer, 0) + 1
        return peer not in self._waiting and (came <= MOST_OF_THEM or self._loop.time() > self._shared_until)

    def _count_anew(self) -> None:
        if len(self._came) > 1:
            self._shared_until = self._loop.time() + ALONE_AFTER
        self._came.clear()
        self._left = WINDOW

    async def wait(self, peer: str) -> None:
        """Return when it is the turn of this call."""
        turn = self._loop.create_future()
        self._waiting.setdefault(peer, deque()).append(turn)
        if self._giving is None or self._giving.done():
            self._giving = self._loop.create_task(self._give_turns())
        await turn

    async def _give_turns(self) -> None:
        while self._waiting:
            await asyncio.sleep(PAUSE)
            for _ in range(ROUNDS):
                await asyncio.sleep(0)
            alone = self._loop.time() > self._shared_until
            given = 0
            while self._waiting and (alone or given < AT_A_TURN):
                given += self._give_turn()

    def _give_turn(self) -> bool:
        """Let the next one be answered; return whether there was one, and the call was not cancelled."""
        peer, line = next(iter(self._waiting.items()))
        del self._waiting[peer]
        turn = line.popleft()
        if line:
            self._waiting[peer] = line
        if turn.done():
            return False
        turn.set_result(None)
        return True
