"""What docs/clients.md says can be done as it is said."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conformance import STEPS
from programs import EXAMPLES, needs

from support import clean_environment

ROOT = EXAMPLES.parent
PAGE = (ROOT / "docs" / "clients.md").read_text()
SECTIONS = dict(section.split("\n", 1) for section in re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[1:])
BLOCKS = {heading: block for heading, text in SECTIONS.items() for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)}
"""The commands of the page, by the headings that they stand under."""
MADE = {
    "python": ("python/luna/registry/v1/registry_pb2_grpc.py", "class RegistryStub"),
    "typescript": ("typescript/luna/registry/v1/Registry.ts", "export interface RegistryClient "),
    "go": ("go/luna/registry/v1/registry_grpc.pb.go", "type RegistryClient interface"),
    "rust": ("rust/src/lib.rs", "luna.registry.v1"),  # which has been compiled
    "java": ("java/grpc-java/luna/registry/v1/RegistryGrpc.java", "class RegistryBlockingStub"),
}
"""What the commands make in `stubs`, and what is in it."""


def _run(block: str, folder: Path, **environment: str) -> str:
    """Run a block of the page in a folder; return what it prints."""
    done = subprocess.run(
        ["bash", "-euc", block], cwd=folder, env=clean_environment() | environment,
        check=False, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("language", MADE)
def test_the_commands_make_stubs(language: str, tmp_path: Path) -> None:
    """Word for word, with nothing at hand but what is in the repository."""
    needs(language)
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    for name in ("rust/build.rs", "java/pom.xml"):
        (tmp_path / "examples" / name).parent.mkdir(parents=True)
        shutil.copy(EXAMPLES / name, tmp_path / "examples" / name)
    heading = {name.removeprefix("Stubs for ").lower(): name for name in BLOCKS}[language]
    _run(BLOCKS[heading], tmp_path, CARGO_TARGET_DIR=str(EXAMPLES / "rust" / "target"))
    made, content = MADE[language]
    assert content in (tmp_path / "stubs" / made).read_text()


def test_the_page_says_how_to_try_a_client() -> None:
    """The command runs every step, and says of each how it went."""
    block = BLOCKS["Try a client"].replace(".venv/bin/python", sys.executable)
    printed = _run(block, ROOT, PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert [line.partition(" (")[0] for line in printed.splitlines()] == [f"passed  {step}" for step in STEPS]
