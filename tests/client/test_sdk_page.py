"""What docs/clients.md says of the Python SDK runs as it stands there."""

import asyncio
import inspect
import re
import sys
from pathlib import Path

import pytest

from luna_grpc import client
from luna_grpc.serve import running
from pki import Pki
from support import clean_environment, settings_for_tests

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SAYS = [
    "orders:localhost:8080 is REGISTERED\n",
    "",
    "http://localhost:8080/\n[<Status.OK: 'OK'>]\nthe list is 0.0 s old\n",
    "orders:localhost:8080 over TLS\n",
]


@pytest.mark.parametrize(("block", "says"), [*zip(BLOCKS, SAYS, strict=True)])
async def test_the_programs_of_the_page_run(block: str, says: str, tmp_path: Path) -> None:
    """Word for word; they leave nothing behind. A registry with TLS is there for the one that speaks of it."""
    pki = Pki(tmp_path)
    pki.ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with running(settings_for_tests(**pki.flags() if "Tls" in block else {})) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", block, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=tmp_path,
            env=clean_environment() | {"LUNA_ADDRESS": f"localhost:{server.grpc_port}"},
        )  # fmt: skip
        said, complained = await asyncio.wait_for(process.communicate(), 60)
        assert (process.returncode, said.decode(), complained.decode()) == (0, says, "")
        assert server.registry.store.count() == 0


def test_the_page_tells_what_pick_raises() -> None:
    """All that its docstring names, and nothing else."""
    table = PAGE.partition("| `pick` raises |")[2].partition("\n\n")[0]
    raised = re.findall(r"^ +(\w+Error):", inspect.getdoc(client.ServiceResolver.pick) or "", re.MULTILINE)
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(raised)


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
