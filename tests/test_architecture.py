"""Data flows one way: who may import whom."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# The first that matches a file counts. What is named is what that part of the tree may import of the guarded modules.
RULES: list[tuple[str, set[str]]] = [
    ("luna_grpc/v1/*", {"grpc", "google"}),
    ("luna_grpc/client/*", {"grpc", "google", "grpc_health"}),
    ("luna_grpc/rpc/*", {"grpc", "google", "grpc_health", "grpc_reflection"}),
    ("luna_grpc/serve.py", {"gateway", "uvloop"}),
    ("luna_grpc/sweeper.py", {"asyncio"}),
    ("luna_grpc/metrics.py", {"prometheus_client"}),
    ("luna_grpc/redis_link.py", {"redis"}),
    ("luna_grpc/*", set()),
    ("gateway/*", {"aiohttp", "gateway"}),
]
GUARDED = {"grpc", "google", "grpc_health", "grpc_reflection", "aiohttp", "gateway", "prometheus_client", "redis", "uvloop"}
NOT_FOR_THE_GATEWAY = ("luna_grpc.rpc", "luna_grpc.v1", "luna_grpc.memory", "luna_grpc.serve", "luna_grpc.cli")
DOMAIN = [
    "access",
    "capacity",
    "clock",
    "errors",
    "histogram",
    "leases",
    "memory",
    "model",
    "registry",
    "services",
    "store",
    "streams",
    "throttle",
    "watch",
]
FOR_THE_CLIENT = {"luna_grpc.client", "luna_grpc.v1", "luna_grpc.model"}
"""What of Luna runs in other people's programs."""
RULES_OF_THE_CLIENT = ["actions", "held", "jitter", "lines", "session"]
NO_IO = {"asyncio", "socket", "threading", "os", "pathlib", "structlog", "logging", "random"}


def imports(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module)


def across(name: str, path: Path) -> list[str]:
    """Return what a file imports that is on the other side of the wire."""
    own = {".".join(module.split(".")[:2]) for module in imports(path) if module.startswith("luna_grpc.")}
    if name.startswith("luna_grpc/client/"):
        return [f"{name} imports {module}" for module in own - FOR_THE_CLIENT]
    if "luna_grpc.client" in own and not name.startswith("luna_grpc/cli"):  # the command line is a client
        return [f"{name} imports luna_grpc.client"]
    return []


def with_io(root: Path) -> list[str]:
    """Return what those parts import that do no I/O."""
    found = []
    for name in RULES_OF_THE_CLIENT:
        path = root / "luna_grpc" / "client" / f"{name}.py"
        forbidden = (NO_IO - {"random"}) | {"grpc", "time"}  # the source of chance is given to them
        if path.exists():
            found += [f"the client's {name} imports {module}" for module in imports(path) if module.partition(".")[0] in forbidden]
    for name in DOMAIN:
        path = root / "luna_grpc" / f"{name}.py"
        if path.exists():
            found += [f"the domain's {name} imports {module}" for module in imports(path) if module.partition(".")[0] in NO_IO]
    return found


def violations(root: Path) -> list[str]:
    """Return what a tree imports against the rules."""
    found = []
    for path in sorted([*root.glob("luna_grpc/**/*.py"), *root.glob("gateway/**/*.py")]):
        name = path.relative_to(root).as_posix()
        allowed = next(allowed for pattern, allowed in RULES if Path(name).match(pattern) or name.startswith(pattern.rstrip("*")))
        for module in imports(path):
            package = module.partition(".")[0]
            if package in GUARDED - allowed:
                found.append(f"{name} imports {module}")
            if name.startswith("gateway/") and module.startswith(NOT_FOR_THE_GATEWAY):
                found.append(f"{name} imports {module}")
        found += across(name, path)
    return found + with_io(root)


def test_the_tree_keeps_the_rules() -> None:
    """Neither edge knows the other, the domain knows none of them and does no I/O."""
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("gateway/api.py", "import grpc"),
        ("gateway/api.py", "from luna_grpc.rpc import convert"),
        ("gateway/api.py", "from google.protobuf import message"),
        ("luna_grpc/rpc/service.py", "from aiohttp import web"),
        ("luna_grpc/rpc/service.py", "import gateway.app"),
        ("luna_grpc/memory.py", "import grpc.aio"),
        ("luna_grpc/registry.py", "def f():\n    import aiohttp"),
        ("luna_grpc/registry.py", "import asyncio"),
        ("luna_grpc/watch.py", "from luna_grpc import model\nfrom google.protobuf import message"),
        ("luna_grpc/cli.py", "import grpc"),
        ("luna_grpc/registry.py", "from prometheus_client import Counter"),
        ("luna_grpc/metrics.py", "import gateway.app"),
        ("luna_grpc/redis_store.py", "import redis"),
        ("luna_grpc/client/runner.py", "from luna_grpc.registry import Registry"),
        ("luna_grpc/client/session.py", "import grpc"),
        ("luna_grpc/client/session.py", "import threading"),
        ("luna_grpc/client/resolver.py", "import aiohttp"),
        ("luna_grpc/registry.py", "from luna_grpc.client.session import Session"),
    ],
)
def test_a_breach_is_found(tmp_path: Path, name: str, line: str) -> None:
    """The test above can fail."""
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert violations(tmp_path) != []


def test_every_module_can_be_read_in_one_go() -> None:
    """A longer one does more than one thing."""
    for path in [
        *ROOT.glob("luna_grpc/*.py"),
        *ROOT.glob("luna_grpc/client/*.py"),
        *ROOT.glob("luna_grpc/rpc/*.py"),
        *ROOT.glob("gateway/*.py"),
    ]:
        assert len(path.read_text().splitlines()) <= 350, path
