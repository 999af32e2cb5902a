"""What a disk that fails at the last step leaves in the log of the state file is no damage, and comes back to nobody."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import ClientSession
from harness import INSTANCES

from luna_grpc.walcheck import is_damaged
from statefiles import LOG, copied
from support import instance_json, luna, need, not_here, session


@asynccontextmanager
async def nothing_is_confirmed(pid: int) -> AsyncIterator[None]:
    """Let the kernel write what a process writes, and then say that it cannot be kept."""
    strace = await asyncio.create_subprocess_exec(
        "strace", "-f", "-p", str(pid), "-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:error=EIO",
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert strace.stderr is not None
    said = (await asyncio.wait_for(strace.stderr.readline(), 30)).decode()
    if "attached" not in said:
        await strace.wait()
        not_here(f"strace may not look at other processes here: {said}")
    try:
        yield
    finally:
        strace.send_signal(signal.SIGINT)
        await strace.communicate()


async def registered(rest: ClientSession, name: str, number: int) -> set[int]:
    """Register so many instances at once; return the status codes of the answers."""

    async def one(instance_id: str) -> int:
        body = instance_json(instance_id, description="d" * 1000)
        async with rest.post(INSTANCES + instance_id, json=body) as answer:
            return answer.status

    return set(await asyncio.gather(*(one(f"{name}:h:{each}") for each in range(1, number + 1))))


async def names(rest: ClientSession) -> list[str]:
    """Return which services there are."""
    async with rest.get("/registry/v1/services/json") as answer:
        return [service["name"] for service in await answer.json()]


async def test_a_log_with_failed_commits_is_no_damage(tmp_path: Path) -> None:
    """Several that failed, each shorter than the one before, then good ones and a crash: what was acknowledged is there."""
    need("strace")
    path = tmp_path / "state.db"
    flags = ("--state-file", str(path), "--log-level", "error")
    async with luna(*flags, stderr=asyncio.subprocess.DEVNULL) as server, session(server.rest) as rest:
        assert await registered(rest, "before", 1) == {201}
        async with nothing_is_confirmed(server.pid):
            for number in (60, 40, 20, 1):
                assert await registered(rest, f"refused{number}", number) == {503}
        after_failing = copied(path, "failing.db")
        assert await registered(rest, "after", 1) == {201}
        await server.stop(signal.SIGKILL)
    assert not is_damaged(Path(f"{after_failing}{LOG}"))
    assert not is_damaged(Path(f"{path}{LOG}"))
    async with luna(*flags, stderr=asyncio.subprocess.DEVNULL) as server, session(server.rest) as rest:
        assert await names(rest) == ["after", "before"]
        assert await registered(rest, "again", 2) == {201}
        await server.stop(signal.SIGKILL)
    assert not is_damaged(Path(f"{path}{LOG}"))
