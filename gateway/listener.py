"""The port of the REST server, and how its TLS is exchanged while it is open."""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

BACKLOG: Final = 4096
"""How many connections may wait to be accepted: after a restart all clients come at once, and one that finds no room tries again
after a second only. The system may allow fewer (net.core.somaxconn)."""


class Listener:
    """Accepts connections, for each of which `protocol` makes what speaks HTTP on it.

    `handshake`: the seconds that a client has for its TLS handshake.
    """

    def __init__(self, protocol: Callable[[], asyncio.Protocol], handshake: float) -> None:
        self._protocol = protocol
        self._handshake = handshake
        self._servers: list[asyncio.Server] = []

    async def open(self, host: str, port: int, context: ssl.SSLContext | None) -> int:
        """Listen, with TLS when there is a context, and return the port; 0 picks a free one.

        Raises:
            OSError: the port cannot be had.

        """
        self._servers = [await self._serve(context, host=host, port=port)]
        return int(self._servers[0].sockets[0].getsockname()[1])

    async def renew(self, context: ssl.SSLContext) -> None:
        """Use another context for connections from now on; those that are open stay as they are, and nobody finds the port closed.

        New servers on the same sockets, rather than new certificates in the same context: that would still resume sessions of
        clients whose CA has been taken out, without looking at their certificates.

        Raises:
            OSError: there are no more files to be had; all is as before.

        """
        before, after = self._servers, list[asyncio.Server]()
        try:
            for listening in [each for server in before for each in server.sockets]:
                copy = socket.socket(fileno=os.dup(listening.fileno()))
                after.append(await self._serve(context, sock=copy))
        except BaseException:
            _close(after)
            raise
        self._servers = after
        _close(before)

    def close(self) -> None:
        """Accept no more connections."""
        _close(self._servers)

    async def _serve(self, context: ssl.SSLContext | None, **where: Any) -> asyncio.Server:  # noqa: ANN401 - a host and port, or a socket
        loop = asyncio.get_running_loop()
        timeout = None if context is None else self._handshake
        return await loop.create_server(self._protocol, ssl=context, ssl_handshake_timeout=timeout, backlog=BACKLOG, **where)


def _close(servers: list[asyncio.Server]) -> None:
    for server in servers:
        server.close()
