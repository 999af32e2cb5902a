"""What stands between a client and a server, and does to their connections what networks do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Proxy:
    """Passes everything on, until told otherwise."""

    def __init__(self, server: str) -> None:
        self.address = ""
        self.delay = 0.0
        """Seconds for which whatever is sent stays on its way, each piece after the other."""
        self._host, _, self._port = server.rpartition(":")
        self._sinks: set[asyncio.StreamWriter] = set()
        self._silent: set[asyncio.StreamWriter] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    def silence(self) -> None:
        """Let nothing more through the connections of the moment, and keep them open."""
        self._silent.update(self._sinks)

    def cut(self) -> None:
        """Close the connections of the moment."""
        for sink in self._sinks:
            sink.close()
        self._sinks.clear()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect a client with the server."""
        server_reader, server_writer = await asyncio.open_connection(self._host, int(self._port))
        self._sinks.update((writer, server_writer))
        self.tasks.update(asyncio.create_task(self._pump(*ends)) for ends in ((reader, server_writer), (server_reader, writer)))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if sink not in self._silent:
                    sink.write(data)
        sink.close()


@asynccontextmanager
async def standing_before(server: str) -> AsyncIterator[Proxy]:
    """Stand before a server until the end of the context."""
    proxy = Proxy(server)
    listener = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.address = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        listener.close()
        proxy.cut()
        await asyncio.gather(*proxy.tasks)
