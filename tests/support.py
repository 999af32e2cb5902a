"""What several tests need: real servers, in this process or in one of their own, and clients for both doors."""

import asyncio
import base64
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Self, TypeAlias, cast

import grpc
import pytest
from aiohttp import ClientSession
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status

from luna_grpc.clock import Clock
from luna_grpc.config import Settings, load
from luna_grpc.v1 import registry_pb2_grpc

Channel: TypeAlias = grpc.aio.Channel
Stub: TypeAlias = "registry_pb2_grpc.RegistryAsyncStub"  # a class that only the stub file knows
SOAK = "LUNA_SOAK" in os.environ
"""Whether tests are to take the time that they need; see docs/reliability.md."""
READY = re.compile(r"luna: ready rest=(https?://(\S+):(\d+)) grpc=(\S+):(\d+)\n")


HINTS = {
    "grpcurl": "go install github.com/fullstorydev/grpcurl/cmd/grpcurl@latest",
    "ip": "apt install iproute2",
    "nft": "apt install nftables",
    "promtool": "apt install prometheus",
}
"""How to install, on Debian and Ubuntu, what is not in a package of its own name."""


def need(*tools: str, hints: Mapping[str, str] = HINTS) -> None:
    """Skip a test without these programs, and say how to install what is missing; in CI it fails."""
    for tool in tools:
        if shutil.which(tool) is None:
            not_here(f"{tool} is missing: {hints.get(tool, f'apt install {tool}')}")


def not_here(reason: str) -> NoReturn:
    """Skip a test that this machine cannot run; in CI it has to run, and fails."""
    if "CI" in os.environ:
        pytest.fail(reason)
    pytest.skip(reason)


class FakeClock(Clock):
    """Time that passes only when a test says so."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.epoch_ms = 1_800_000_000_000
        super().__init__(lambda: self.seconds, lambda: self.epoch_ms * 1_000_000)

    def advance(self, seconds: float) -> None:
        """Let time pass without anyone looking at it."""
        self.seconds += seconds
        self.epoch_ms += round(seconds * 1000)


def settings_for_tests(**flags: object) -> Settings:
    """Return settings with free ports."""
    return load({"port": 0, "grpc_port": 0, **flags})


def basic(username: str = "admin", password: str = "") -> str:
    """Return an Authorization header."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


class _ChannelWithCredentials:
    """A channel whose calls carry credentials. Not interceptors: those of grpc.aio lose tasks when a stream is cancelled."""

    def __init__(self, inner: grpc.aio.Channel, header: str) -> None:
        self._inner = inner
        self._metadata = (("authorization", header),)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._inner, name)
        if name not in {"unary_unary", "unary_stream", "stream_unary", "stream_stream"}:
            return attribute
        return lambda *args, **kwargs: partial(attribute(*args, **kwargs), metadata=self._metadata)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._inner.close()


def channel(
    address: str, header: str | None = None, tls: grpc.ChannelCredentials | None = None, *, options: Sequence[tuple[str, int]] = ()
) -> grpc.aio.Channel:
    """Return a connection of its own to a server, which sends credentials with every call; none when `header` is empty."""
    options = [("grpc.use_local_subchannel_pool", 1), *options]
    if tls is None:
        inner = grpc.aio.insecure_channel(address, options=options)
    else:
        inner = grpc.aio.secure_channel(address, tls, options=options)
    if header == "":
        return inner
    return cast("grpc.aio.Channel", _ChannelWithCredentials(inner, basic() if header is None else header))


def field_violation(error: grpc.aio.AioRpcError) -> str:
    """Return the field that the BadRequest in an error's details names; it has to be there."""
    [details] = [value for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin"]
    status = Status.FromString(details)
    bad_request = BadRequest()
    assert status.details[0].Unpack(bad_request)
    [violation] = bad_request.field_violations
    assert violation.description == error.details() == status.message
    return str(violation.field)


def instance_json(instance_id: str, **changes: Any) -> dict[str, Any]:
    """Return what a legacy client sends."""
    name, _, rest = instance_id.partition(":")
    return {
        "instanceId": instance_id,
        "name": name,
        "description": f"The {name} service",
        "version": "1.0.0",
        "url": f"http://{rest}/",
        "status": "OK",
        "balancerOptions": {},
    } | changes


@dataclass
class Luna:
    """A server process of its own, started as people start it."""

    process: asyncio.subprocess.Process
    rest: str
    grpc: str

    @property
    def pid(self) -> int:
        return self.process.pid

    def stub(self) -> tuple[Channel, Stub]:
        open_channel = channel(self.grpc)
        return open_channel, registry_pb2_grpc.RegistryStub(open_channel)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 30)


@asynccontextmanager
async def luna(
    *flags: str,
    env: Mapping[str, str] = {},
    stderr: int | None = None,
    program: Sequence[str] = ("-m", "luna_grpc"),
    folder: Path | None = None,
    within: Sequence[str] = (),
    patience: float = 30,
) -> AsyncIterator[Luna]:
    """Run `luna serve` on free ports until the end of the context.

    `program` is what Python is to run as `luna`; paths in flags are relative to `folder`. `within` is a command that is to run it
    and becomes it, `patience` are the seconds until it has to be ready.
    """
    ports = [] if "--port" in flags or "LUNA_PORT" in env else ["--port", "0"]
    ports += [] if "--grpc-port" in flags or "LUNA_GRPC_PORT" in env else ["--grpc-port", "0"]
    process = await asyncio.create_subprocess_exec(
        *within, sys.executable, *program, "serve", *ports, *flags,
        stdout=asyncio.subprocess.PIPE, stderr=stderr, env={**clean_environment(), **env}, cwd=folder,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), patience)).decode()
        match = READY.fullmatch(line)
        assert match, f"the server printed {line!r}"
        yield Luna(process, match[1], f"{match[4]}:{match[5]}")
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        await process.wait()


async def refused(*flags: str, env: dict[str, str] | None = None) -> tuple[int | None, list[str]]:
    """Start a server that is not to start; return its exit code and the lines on stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "luna_grpc", "serve", *flags,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**clean_environment(), **(env or {})},
    )  # fmt: skip
    try:
        stdout, stderr = await asyncio.wait_for(process.communicate(), 60)
    except TimeoutError:
        process.kill()
        await process.communicate()
        pytest.fail(f"it started: {flags} {env}")
    assert stdout == b""
    assert b"Traceback" not in stderr
    return process.returncode, stderr.decode().splitlines()


def clean_environment() -> dict[str, str]:
    """Return the environment without what it says of Luna."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LUNA_")}


def session(base_url: str, header: str | None = None) -> ClientSession:
    """Return an HTTP client that sends credentials."""
    return ClientSession(base_url, headers={"Authorization": basic() if header is None else header})


async def status_of(client: ClientSession, path: str, **options: Any) -> int:
    """GET a path, take the whole answer, and return its status."""
    async with client.get(path, **options) as answer:
        await answer.read()
        return answer.status
