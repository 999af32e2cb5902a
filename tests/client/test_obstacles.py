"""What no waiting mends is told at once, with the next step; what may pass is waited for. All of it with real connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
import trustme
from seen import PATIENCE

from luna_grpc.client import NotALunaError, Registration, ServiceResolver, Tls, UnavailableError
from luna_grpc.client.calls import Calls
from luna_grpc.client.endpoint import Endpoint
from luna_grpc.serve import Running, running
from pki import Pair, Pki
from support import settings_for_tests

Client: TypeAlias = Registration | ServiceResolver
FOR_EVER = 600.0


def clients(address: str, tls: Tls | None, wait: float) -> tuple[Client, ...]:
    """Return one of each kind."""
    return (
        Registration("orders:localhost:8080", address=address, tls=tls, wait=wait),
        ServiceResolver(address=address, tls=tls, wait=wait),
    )


async def is_told_at_once(address: str, tls: Tls | None, step: str) -> None:
    """Fail unless programs and commands are told what to do, however long they would wait."""
    async with asyncio.timeout(PATIENCE):
        for client in clients(address, tls, FOR_EVER):
            with pytest.raises(NotALunaError, match=f"no registry answers at {address}.*: .*{step}"):
                await client.start_async()
    with Calls(Endpoint.of(address, None, None, tls)) as calls, pytest.raises(UnavailableError, match=step):
        await asyncio.to_thread(calls.instance, "orders:localhost:8080")


async def test_the_port_of_the_other_door(server: Running) -> None:
    """It speaks HTTP/1."""
    await is_told_at_once(f"127.0.0.1:{server.rest_port}", None, "perhaps its REST door; take the address behind grpc=")


async def test_tls_where_there_is_none(server: Running) -> None:
    """Whoever has set it has to take it away."""
    await is_told_at_once(f"127.0.0.1:{server.grpc_port}", Tls(), "no TLS; take LUNA_TLS and")


@asynccontextmanager
async def secured(pki: Pki) -> AsyncIterator[Running]:
    """Run a server with TLS."""
    async with running(settings_for_tests(**pki.flags())) as server:
        yield server


def file_of(ca: trustme.CA, folder: Path) -> str:
    """Return the file of a CA."""
    ca.cert_pem.write_to_path(folder / "ca.pem")
    return str(folder / "ca.pem")


async def test_tls_that_is_missing(tmp_path: Path) -> None:
    """The server closes the connection without a word, so it is asked."""
    async with secured(Pki(tmp_path)) as server:
        await is_told_at_once(f"127.0.0.1:{server.grpc_port}", None, "has TLS; name the file of its CA: LUNA_TLS_CA")


async def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    """Nor one for another name."""
    pki = Pki(tmp_path)
    async with secured(pki) as server:
        untrusted = Tls(file_of(pki.client_ca, tmp_path))
        await is_told_at_once(f"localhost:{server.grpc_port}", untrusted, "not trusted; name the file of its CA: LUNA_TLS_CA")
    pki.install(Pair.of(pki.ca.issue_cert("other.example")))
    async with secured(pki) as server:
        await is_told_at_once(f"localhost:{server.grpc_port}", Tls(file_of(pki.ca, tmp_path)), "for another name")


async def test_the_port_of_the_other_door_with_tls(tmp_path: Path) -> None:
    """It has the same certificate, and does not speak HTTP/2."""
    pki = Pki(tmp_path)
    async with secured(pki) as server:
        await is_told_at_once(f"localhost:{server.rest_port}", Tls(file_of(pki.ca, tmp_path)), "perhaps its REST door")


async def test_a_file_of_tls_that_holds_something_else(server: Running, tmp_path: Path) -> None:
    """It is there, and no CA is in it."""
    (tmp_path / "ca.pem").write_text("nonsense")
    await is_told_at_once(f"localhost:{server.grpc_port}", Tls(str(tmp_path / "ca.pem")), "a file of TLS does not hold")


async def test_who_closes_connections_is_waited_for(server: Running) -> None:
    """It may be a proxy whose registry is away."""
    is_there = asyncio.Event()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
        sink.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if is_there.is_set():
            there, to_there = await asyncio.open_connection("127.0.0.1", server.grpc_port)
            await asyncio.gather(pump(reader, to_there), pump(there, writer))
        writer.close()

    proxy = await asyncio.start_server(accept, "127.0.0.1", 0)
    address = f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    for client in clients(address, None, 0.5):
        with pytest.raises(UnavailableError, match=r"closed at once, perhaps by a proxy.*wait=0"):
            await client.start_async()
    asyncio.get_running_loop().call_later(0.5, is_there.set)
    for client in clients(address, None, PATIENCE):
        async with client:
            assert client.error is None
    proxy.close()
    await proxy.wait_closed()
