"""What docs/clients.md says of the Python SDK runs as it stands there."""

import asyncio
import inspect
import re
import sys
from pathlib import Path

import pytest

from luna_grpc import client
from luna_grpc.serve import Running
from support import clean_environment

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SAYS = [
    "orders:localhost:8080 is REGISTERED\n",
    "",
    "http://localhost:8080/\n[<Status.OK: 'OK'>]\nthe list is 0.0 s old\n",
]


@pytest.mark.parametrize(("block", "says"), [*zip(BLOCKS, SAYS, strict=True)])
async def test_the_programs_of_the_page_run(server: Running, block: str, says: str) -> None:
    """Word for word; they leave nothing behind."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", block, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=clean_environment() | {"LUNA_ADDRESS": f"127.0.0.1:{server.grpc_port}"},
    )  # fmt: skip
    said, complained = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, said.decode(), complained.decode()) == (0, says, "")
    assert server.registry.store.count() == 0


def test_every_error_is_explained() -> None:
    """And is a ClientError; the methods for programs say which of them they raise."""
    exported = [thing for name, thing in inspect.getmembers(client) if name in client.__all__]
    classes = [thing for thing in exported if inspect.isclass(thing) and issubclass(thing, Exception)]
    assert len(classes) > 10
    for cls in classes:
        assert issubclass(cls, client.ClientError)
        assert (cls.__doc__ or "").endswith(".")
    raised = (inspect.getdoc(client.Registration.start) or "") + (inspect.getdoc(client.ServiceResolver.pick) or "")
    for name in re.findall(r"^ +(\w+Error):", raised, re.MULTILINE):
        assert name in client.__all__
