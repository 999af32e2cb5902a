"""Workers of real web servers that use the SDK: each is an instance, and leaves with its process."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from luna_grpc.serve import Running, running
from support import clean_environment, settings_for_tests, until

HERE = Path(__file__).parent
WORKERS = 3
COMMANDS = {
    "gunicorn": ["gunicorn", "--bind", "127.0.0.1:0", "--workers", str(WORKERS), "web_app:wsgi()"],
    "uvicorn": ["uvicorn", "--host", "127.0.0.1", "--port", "0", "--workers", str(WORKERS), "web_app:asgi"],
}


@asynccontextmanager
async def serving(name: str, registry: Running) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a web server with workers that register."""
    path = os.pathsep.join([str(HERE), str(HERE.parent.parent)])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *COMMANDS[name], cwd=HERE, start_new_session=True,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        env={**clean_environment(), "PYTHONPATH": path, "LUNA_ADDRESS": f"127.0.0.1:{registry.grpc_port}"},
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def up(registry: Running) -> set[str]:
    """Return the instances that are OK."""
    store = registry.registry.store
    return {each.instance.info.instance_id for service in store.services() for each in service.registrations if each.instance.up}


@pytest.mark.parametrize("name", COMMANDS)
async def test_workers_come_and_go(name: str) -> None:
    """Each worker registers; one that is killed is DOWN while the others stay; SIGTERM to the server deregisters all that live."""
    async with running(settings_for_tests(lease_ttl=3)) as registry, serving(name, registry) as process:
        await until(lambda: len(up(registry)) == WORKERS)
        killed = min(up(registry))
        others = up(registry) - {killed}
        os.kill(int(killed.split("-")[1].split(":")[0]), signal.SIGKILL)
        await until(lambda: killed not in up(registry))
        assert others <= up(registry)
        await until(lambda: len(up(registry)) == WORKERS)  # both web servers start another one
        assert others < up(registry)
        process.send_signal(signal.SIGTERM)
        await until(lambda: registry.registry.store.count() == 1)
        assert await asyncio.wait_for(process.wait(), 60) == 0
        [left] = [each for service in registry.registry.store.services() for each in service.registrations]
        assert (left.instance.info.instance_id, left.instance.up) == (killed, False)
