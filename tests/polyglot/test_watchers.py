"""The programs in `examples/` that print the changes of a service, run against real servers."""

import asyncio
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from programs import EXAMPLES, LANGUAGES, built

from luna_grpc.v1 import registry_pb2 as pb
from proxy import standing_before
from support import Stub, clean_environment, luna

PATIENCE = 20.0
FIRST, SECOND = "orders:localhost:1", "orders:localhost:2"
WATCHERS = [language for language in LANGUAGES if LANGUAGES[language].watch]


@pytest.fixture(params=WATCHERS)
def language(request: pytest.FixtureRequest) -> str:
    """Return each language that has a watcher, built."""
    built(request.param)
    return str(request.param)


@asynccontextmanager
async def _watching(language: str, address: str, password: str = "") -> AsyncIterator[Process]:
    """Watch `orders` until the end of the context."""
    process = await asyncio.create_subprocess_exec(
        *LANGUAGES[language].watch, "orders", cwd=EXAMPLES / language,
        env=clean_environment() | {"LUNA_ADDRESS": address, "LUNA_AUTH_PASSWORD": password},
        stdin=DEVNULL, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _prints(process: Process, *lines: str) -> None:
    """Hold that these are the next lines on the standard output, in any order."""
    assert process.stdout is not None
    printed = [await asyncio.wait_for(process.stdout.readline(), PATIENCE) for _ in lines]
    assert sorted(line.decode() for line in printed) == sorted(f"{line}\n" for line in lines)


async def _says(process: Process, text: str) -> None:
    """Wait for a line on stderr."""
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        while (await process.stderr.readline()).decode() != f"{text}\n":
            assert not process.stderr.at_eof(), text


async def _register(stub: Stub, instance_id: str) -> None:
    await stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id=instance_id), replace=True))


async def test_a_watcher_prints_the_changes_of_a_service(language: str) -> None:
    """Each once, of that service alone, and what changed while its connection was cut, going on from where it was."""
    async with luna() as server, standing_before(server.grpc) as proxy, _watching(language, proxy.address) as process:
        channel, stub = server.stub()
        async with channel:
            await _register(stub, FIRST)
            await _prints(process, f"{FIRST} OK http://localhost:1/")
            await _says(process, "in step, from the beginning")
            await _register(stub, "other:localhost:1")
            await stub.Heartbeat(pb.HeartbeatRequest(instance_id=FIRST, status=pb.STATUS_DOWN))
            await _prints(process, f"{FIRST} DOWN http://localhost:1/")

            proxy.cut()
            await _register(stub, SECOND)
            await _says(process, "in step, from where it was")
            await stub.Deregister(pb.DeregisterRequest(instance_id=FIRST))
            await _prints(process, f"{SECOND} OK http://localhost:2/", f"{FIRST} gone")

        process.send_signal(signal.SIGTERM)
        out, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert (process.returncode, out) == (0, b"")


async def test_a_watcher_learns_who_has_gone_with_a_registry(language: str) -> None:
    """A registry that was started anew tells who is there; who is not is printed as gone, and who is there is not printed again."""
    flags = ("--lease-ttl", "1")
    async with luna(*flags) as server:
        ports = ("--port", server.rest.rpartition(":")[2], "--grpc-port", server.grpc.rpartition(":")[2])
        channel, stub = server.stub()
        async with channel, _watching(language, server.grpc) as process:
            await _register(stub, FIRST)
            await _register(stub, SECOND)
            await _prints(process, f"{FIRST} OK http://localhost:1/", f"{SECOND} OK http://localhost:2/")
            await server.stop(signal.SIGKILL)
            async with luna(*flags, *ports, "--log-level", "warning") as again:
                channel, stub = again.stub()
                async with channel:
                    await _register(stub, SECOND)
                    await _prints(process, f"{FIRST} gone", f"{SECOND} DOWN http://localhost:2/")


async def test_a_watcher_ends_when_its_credentials_are_wrong(language: str) -> None:
    """It says what to check, and does not try again."""
    async with luna() as server, _watching(language, server.grpc, password="wrong") as process:
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert (process.returncode, out) == (1, b"")
    assert err.decode().startswith("wrong credentials: check LUNA_AUTH_USERNAME and LUNA_AUTH_PASSWORD")
    assert err.count(b"\n") == 1
