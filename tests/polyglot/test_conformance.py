"""Every client in `examples/` does what a client has to do, and the driver that says so finds those that do not."""

import sys
from pathlib import Path

import pytest
from conformance import STEPS, Client, NonconformingError, check
from programs import EXAMPLES, LANGUAGES, grpc_worker

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def _raw_client(flaw: str) -> Client:
    return Client(("env", f"PYTHONPATH={HERE.parent}", sys.executable, str(HERE / "raw_client.py"), flaw), HERE)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_client_conforms(language: str, step: str) -> None:
    """In every language, and every step."""
    program = grpc_worker(language)
    await check(Client(program.command, program.folder), step)


@pytest.mark.parametrize("step", STEPS)
async def test_the_python_sdk_conforms(step: str) -> None:
    """It keeps the same rules as the programs with plain stubs."""
    await check(Client((sys.executable, "worker.py"), EXAMPLES / "python"), step)


@pytest.mark.parametrize("step", STEPS)
async def test_the_smallest_client_conforms(step: str) -> None:
    """The one whose flaws are looked for below, without any."""
    await check(_raw_client(""), step)


@pytest.mark.parametrize(
    ("flaw", "step"),
    [
        ("is too slow", "joins and is UP"),
        ("keeps its health to itself", "tells its health"),
        ("never registers again", "registry restarted"),
        ("never registers again", "registry away"),
        ("forgets its health", "registry away"),
        ("leaves without a word", "SIGTERM"),
        ("is down when cut off", "SIGKILL"),
        ("tries again", "wrong password"),
    ],
)
async def test_a_flaw_is_found(flaw: str, step: str) -> None:
    """By the step that is about it."""
    with pytest.raises(NonconformingError, match=f"^{step}: "):
        await check(_raw_client(flaw), step)
