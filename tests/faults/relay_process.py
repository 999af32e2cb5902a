"""Carries connections to sockets of this machine on to a server in the network namespace that this process runs in.

Usage: relay_process.py HOST FOLDER PORT … For each port there is a socket in the folder, of the same name.
"""

import asyncio
import sys
from contextlib import suppress
from functools import partial


async def main(host: str, folder: str, ports: list[str]) -> None:
    """Carry until killed."""
    servers = [await asyncio.start_unix_server(partial(_carry, host, port), f"{folder}/{port}") for port in ports]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.gather(*(server.serve_forever() for server in servers))


async def _carry(host: str, port: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    there, back = await asyncio.open_connection(host, int(port))
    await asyncio.gather(_copy(reader, back), _copy(there, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
