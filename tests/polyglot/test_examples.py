"""The programs in `examples/`, run as people run them, against real servers."""

import asyncio
import os
import re
import signal
import subprocess
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession
from programs import EXAMPLES, LANGUAGES, Program, built, grpc_worker, rest_worker

from luna_grpc.v1 import registry_pb2 as pb
from proxy import standing_before
from support import instance_json, luna, session

TTL = 3.0
PATIENCE = 20.0
"""Seconds until a wait has failed: far more than anything should take, for machines that are busy."""


@pytest.fixture(params=[*LANGUAGES, "typescript rest"])
def program(request: pytest.FixtureRequest) -> Program:
    """Return each of the workers, built."""
    return rest_worker() if request.param == "typescript rest" else grpc_worker(request.param)


@pytest.fixture(params=LANGUAGES)
def grpc_program(request: pytest.FixtureRequest) -> Program:
    """Return each of the workers that speak gRPC, built."""
    return grpc_worker(request.param)


@asynccontextmanager
async def _running(
    program: Program, rest: str, grpc: str, *, ttl: float = TTL, password: str = "", stderr: int | None = None
) -> AsyncIterator[Process]:
    """Run a program until the end of the context."""
    settings = {
        "LUNA_REST_URL": rest,
        "LUNA_ADDRESS": grpc,
        "LUNA_AUTH_USERNAME": "admin",
        "LUNA_AUTH_PASSWORD": password,
        "HEARTBEAT_SECONDS": str(ttl / 3),
        "INSTANCE_ID": program.instance_id,
    }
    process = await asyncio.create_subprocess_exec(
        *program.command, cwd=program.folder, env=os.environ | settings, stdin=DEVNULL, stdout=PIPE, stderr=stderr
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()  # closes the pipes too


async def _line(process: Process) -> str:
    """Return the next line that a program prints."""
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), PATIENCE)).decode().rstrip("\n")


async def _ended(process: Process, number: signal.Signals | None = None) -> tuple[int, str, str]:
    """Send a signal and wait for the end; return the exit code and what was printed to both sides and not read yet."""
    if number is not None:
        process.send_signal(number)
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode is not None
    return process.returncode, out.decode(), (err or b"").decode()


async def _instance(rest: ClientSession, program: Program) -> dict[str, Any]:
    """Return a program's instance as REST shows it; nothing when it is not registered."""
    async with rest.get(f"/registry/v1/instances/{program.instance_id}") as answer:
        assert answer.status in (200, 404)
        instance: dict[str, Any] = await answer.json()
        return instance if answer.status == 200 else {}


async def _until(condition: Callable[[dict[str, Any]], bool], rest: ClientSession, program: Program, patience: float) -> None:
    """Look at a program's instance until it is as it should be."""
    async with asyncio.timeout(patience):
        while not condition(await _instance(rest, program)):  # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(0.05)


def _is_ok(instance: dict[str, Any]) -> bool:
    return instance.get("status") == "OK"


async def test_the_program_that_speaks_rest_stays_registered_until_it_is_told_to_stop() -> None:
    """It registers, beats in time, registers with a registry that was started anew, and deregisters on SIGTERM.

    For those that speak gRPC there is test_conformance.py.
    """
    program = rest_worker()
    flags = ("--lease-ttl", str(TTL))
    async with luna(*flags) as server, _running(program, server.rest, server.grpc) as process:
        assert await _line(process) == f"registered {program.instance_id}"
        async with session(server.rest) as rest:
            await _until(_is_ok, rest, program, PATIENCE)
            await _stays_ok(rest, program, 2.2 * TTL)
        await server.stop(signal.SIGKILL)

        ports = ("--port", server.rest.rpartition(":")[2], "--grpc-port", server.grpc.rpartition(":")[2])
        async with luna(*flags, *ports), session(server.rest) as rest:
            await _until(_is_ok, rest, program, 5)
            assert await _line(process) == f"registered {program.instance_id}"

            assert await _ended(process, signal.SIGTERM) == (0, f"deregistered {program.instance_id}\n", "")
            assert await _instance(rest, program) == {}


async def _stays_ok(rest: ClientSession, program: Program, seconds: float) -> None:
    clock = asyncio.get_running_loop()
    end = clock.time() + seconds
    while clock.time() < end:
        assert _is_ok(await _instance(rest, program))
        await asyncio.sleep(0.1)


async def test_a_program_ends_when_its_credentials_are_wrong(program: Program) -> None:
    """It says what to check, and does not try again."""
    async with luna() as server, _running(program, server.rest, server.grpc, password="wrong", stderr=PIPE) as process:
        code, out, err = await _ended(process)
    assert (code, out) == (1, "")
    assert err.startswith("wrong credentials: check LUNA_AUTH_USERNAME and LUNA_AUTH_PASSWORD")
    assert err.count("\n") == 1


async def test_a_program_takes_over_from_its_earlier_run(program: Program) -> None:
    """A run that was killed leaves its registration behind; the next one goes on with it, and Ctrl-C ends it as SIGTERM does."""
    path = f"/registry/v1/instances/{program.instance_id}"
    async with luna() as server, session(server.rest) as rest:
        async with rest.post(path, json=instance_json(program.instance_id, version="0.0.1")) as answer:
            assert answer.status == 201
        async with _running(program, server.rest, server.grpc) as process:
            assert await _line(process) == f"registered {program.instance_id}"
            assert (await _instance(rest, program))["version"] == "1.0.0"
            assert await _ended(process, signal.SIGINT) == (0, f"deregistered {program.instance_id}\n", "")


async def test_a_program_ends_while_the_registry_is_away(program: Program) -> None:
    """It waits for the registry, but not when it is told to stop."""
    async with luna() as server:
        pass  # only its ports are wanted, now that nobody listens there
    async with _running(program, server.rest, server.grpc, stderr=PIPE) as process:
        assert process.stderr is not None
        assert b"trying again" in await asyncio.wait_for(process.stderr.readline(), PATIENCE)
        code, out, _ = await _ended(process, signal.SIGTERM)
    assert (code, out) == (0, "")


async def test_a_program_leaves_a_connection_that_has_fallen_silent(program: Program) -> None:
    """What it has sent goes nowhere and nothing comes back, as behind a firewall that forgot the connection: it opens another."""
    ttl = 1.5
    async with (
        luna("--lease-ttl", str(ttl)) as server,
        session(server.rest) as rest,
        standing_before(server.rest.removeprefix("http://")) as rest_proxy,
        standing_before(server.grpc) as grpc_proxy,
        _running(program, f"http://{rest_proxy.address}", grpc_proxy.address, ttl=ttl) as process,
    ):
        await _until(lambda instance: _age_at_last_heartbeat(instance) > ttl / 4, rest, program, PATIENCE)
        rest_proxy.silence()
        grpc_proxy.silence()
        # By then what was on its way has arrived.
        settled = time.time_ns() // 1_000_000 + 200
        await _until(lambda instance: instance["last_heartbeat"] > settled, rest, program, PATIENCE)
        out = f"registered {program.instance_id}\nderegistered {program.instance_id}\n"
        assert await _ended(process, signal.SIGTERM) == (0, out, "")


def _age_at_last_heartbeat(instance: dict[str, Any]) -> float:
    """Return for how many seconds an instance had been registered when it last sent a heartbeat."""
    return (instance["last_heartbeat"] - instance["registeredAt"]) / 1000 if instance else 0.0


@pytest.mark.parametrize("meanwhile", ["connected", "cut off"])
async def test_a_program_that_was_replaced_ends(grpc_program: Program, meanwhile: str) -> None:
    """It does not fight over the id with the one that has come after it, even when it learns of it only later."""
    async with (
        luna("--lease-ttl", str(TTL)) as server,
        session(server.rest) as rest,
        standing_before(server.grpc) as proxy,
        _running(grpc_program, server.rest, proxy.address, stderr=PIPE) as process,
    ):
        assert await _line(process) == f"registered {grpc_program.instance_id}"
        if meanwhile == "cut off":
            proxy.silence()
        channel, stub = server.stub()
        async with channel:
            await stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id=grpc_program.instance_id), replace=True))
        code, out, err = await _ended(process)
        assert (code, out) == (1, "")
        assert "another registration has taken over" in err
        assert _is_ok(await _instance(rest, grpc_program))


def test_the_typescript_programs_pass_their_type_check() -> None:
    """They are strictly typed; running them would not show it."""
    built("typescript")
    done = subprocess.run(
        ["npm", "run", "check"], cwd=EXAMPLES / "typescript", check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_lock_files_name_no_place() -> None:
    """Everyone installs from the package registries of their own settings."""
    assert '"resolved"' not in (EXAMPLES / "typescript" / "package-lock.json").read_text()
    sources = re.findall(r'^source = "(.*)"$', (EXAMPLES / "rust" / "Cargo.lock").read_text(), re.MULTILINE)
    assert set(sources) == {"registry+https://github.com/rust-lang/crates.io-index"}
