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
"""Over how many calls it is found out how thick they come."""
THICK: Final = 2_000
"""Calls a second from which on they are taken up together."""
QUIET: Final = 32
"""Rounds of the event loop without a call after which gRPC's core has none left to hand over: it hands over one in some four."""
LONGEST: Final = 0.005
"""Seconds after which there are turns in any case."""
AT_A_TURN: Final = 12
"""How many calls have their turn before the core is asked again; more when more connections wait, so that each has one."""
ALONE_AFTER: Final = 1.0
"""Seconds without a call from anyone else after which all that wait have their turn: there is nobody to be fair to."""
PAUSE: Final = 0.001
"""Seconds that the core's threads have to themselves after a turn, when more calls wait than for two others."""


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


def spelled(peer: str) -> str:
    """Return what gRPC calls a peer as both doors log it: `127.0.0.1:1234` or `[::1]:1234`."""
    return unquote(peer.partition(":")[2])


def address(peer: str) -> str:
    """Return the address in that."""
    return peer.rpartition(":")[0].strip("[]")


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
    """Takes calls up together when they come thick, and those of each connection in turn.

    gRPC's core hands calls over in the order in which they came, one at a time, and whoever has 2,000 under way has them in that
    queue in front of everybody's next one. So calls are taken out of it and kept here until it is empty; then a few have their
    turn, of all connections alike. It is also faster by a quarter: this thread and the core's take each other's place less often.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thick = False
        self._left = WINDOW
        self._began = self._loop.time()
        self._came = 0
        self._last = ""  # the connection of the last call that had to wait
        self._shared_until = 0.0
        self._count = 0  # how many wait
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # the connection whose turn is next comes first
        self._giving: asyncio.Task[None] | None = None

    def is_due(self) -> bool:
        """Count a call, and return whether it can be answered at once; else it has to `wait`."""
        self._left -= 1
        if not self._left:
            self._left = WINDOW
            now = self._loop.time()
            self._thick = (now - self._began) * THICK < WINDOW
            self._began = now
        return not self._thick

    async def wait(self, peer: str) -> None:
        """Return when it is the turn of this call."""
        turn = self._loop.create_future()
        self._came += 1
        self._count += 1
        if peer != self._last:
            self._last = peer
            self._shared_until = self._loop.time() + ALONE_AFTER
        self._waiting.setdefault(peer, deque()).append(turn)
        if self._giving is None or self._giving.done():
            self._giving = self._loop.create_task(self._give_turns())
        await turn

    async def _give_turns(self) -> None:
        while self._waiting:
            await self._handed_over()
            shared = self._loop.time() < self._shared_until
            turns = max(AT_A_TURN, len(self._waiting)) if shared else self._count
            given = 0
            while self._waiting and given < turns:
                given += self._give_turn()
            if self._count > 2 * AT_A_TURN:
                await asyncio.sleep(PAUSE)

    async def _handed_over(self) -> None:
        """Return when the core has no more calls to hand over, or has been doing it for long."""
        quiet, end = 0, self._loop.time() + LONGEST
        while quiet < QUIET and self._loop.time() < end:
            came = self._came
            await asyncio.sleep(0)
            quiet = quiet + 1 if came == self._came else 0

    def _give_turn(self) -> bool:
        """Let the next one be answered; return whether there was one, and the call was not cancelled."""
        peer, line = next(iter(self._waiting.items()))
        del self._waiting[peer]
        turn = line.popleft()
        self._count -= 1
        if line:
            self._waiting[peer] = line
        if turn.done():
            return False
        turn.set_result(None)
        return True
