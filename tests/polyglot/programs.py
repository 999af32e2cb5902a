"""The programs in `examples/`: what they are built with, and how they are run."""

import fcntl
import os
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from support import need, not_here

EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass(frozen=True)
class Program:
    """One of the examples."""

    command: tuple[str, ...]
    folder: Path
    instance_id: str


@dataclass(frozen=True)
class Language:
    """How the examples in a language come to be run; all commands are for the language's folder."""

    worker: tuple[str, ...]
    watch: tuple[str, ...] = ()
    tools: dict[str, str] = field(default_factory=dict)
    """What has to be installed, and how."""
    build: tuple[str, ...] = ()


_NODE = "install Node.js 20 or later with npm: https://nodejs.org"
_JAVA = ("java", "-cp", f"target/examples.jar{os.pathsep}target/libraries/*")
LANGUAGES = {
    "python": Language((sys.executable, "stubs.py")),
    "typescript": Language(
        # Without npm between us and the program, which would get our signals.
        ("node", "--import", "tsx", "grpc.ts"),
        ("node", "--import", "tsx", "watch.ts"),
        {"node": _NODE, "npm": _NODE},
        ("npm ci --ignore-scripts --no-audit --no-fund", "npm run stubs"),
    ),
    "go": Language(
        ("bin/worker",),
        ("bin/watch",),
        {"go": "install Go 1.26 or later: https://go.dev/dl", "buf": "npm install --global @bufbuild/buf"},
        ("buf generate", "go build -o bin/ ./..."),
    ),
    "rust": Language(
        ("target/debug/worker",),
        ("target/debug/watch",),
        {"cargo": "install Rust 1.88 or later: https://rustup.rs"},
        ("cargo build --locked --quiet",),
    ),
    "java": Language(
        (*_JAVA, "example.Worker"),
        (*_JAVA, "example.Watch"),
        {"java": "install a JDK 17 or later: https://adoptium.net", "mvn": "install Maven 3.8 or later: https://maven.apache.org"},
        ("mvn --batch-mode --quiet package",),
    ),
}


def grpc_worker(language: str) -> Program:
    """Return the worker of a language that speaks gRPC, built."""
    built(language)
    return Program(LANGUAGES[language].worker, EXAMPLES / language, f"orders-{language}:localhost:8080")


def rest_worker() -> Program:
    """Return the worker that speaks REST."""
    built("typescript")
    return Program(("node", "--import", "tsx", "rest.ts"), EXAMPLES / "typescript", "orders-rest:localhost:8080")


def built(language: str) -> None:
    """Build what there is in a language, with its usual tools. A test whose tools are missing is skipped; in CI it fails."""
    needs(language)
    reason = _build(language)
    if reason:
        not_here(reason)


def needs(language: str) -> None:
    """Skip a test when the tools of a language are missing; in CI it fails."""
    tools = LANGUAGES[language].tools
    need(*tools, hints=tools)


@cache
def _build(language: str) -> str:
    """Build, once a run; return what went wrong."""
    folder = EXAMPLES / language
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run of the tests may be building
        for command in LANGUAGES[language].build:
            if command.startswith("npm ci") and _is_installed(folder):
                continue
            done = subprocess.run(command.split(), cwd=folder, check=False, capture_output=True, text=True, timeout=600)
            if done.returncode != 0:
                return f"{command} in examples/{language} failed:\n{done.stdout}{done.stderr}"
    finally:
        os.close(lock)
    return ""


def _is_installed(folder: Path) -> bool:
    """Return whether npm has installed what the lock file names; it always begins by removing everything."""
    installed = folder / "node_modules" / ".package-lock.json"  # npm writes it last
    return installed.exists() and installed.stat().st_mtime >= (folder / "package-lock.json").stat().st_mtime
