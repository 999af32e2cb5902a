"""The documents say what the code does."""

import asyncio
import os
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.errors import CODES, STATUS
from luna_grpc.config import Settings, flag, variable
from luna_grpc.serve import Running, running
from support import Luna, basic, clean_environment, luna, need, session, settings_for_tests

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
"""Where the shell finds `luna` too."""
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
API = (ROOT / "docs" / "api.md").read_text()
PROTO = (ROOT / "proto/luna/registry/v1/registry.proto").read_text()

FILES = dict(re.findall(r"```yaml\n# (\S+)\n(.*?)```", OPERATIONS, re.DOTALL))
"""What the page shows of files, by their names."""


def test_every_setting_stands_in_operations_with_its_default() -> None:
    """And no setting that does not exist."""
    rows = {row[0]: row[1:] for row in re.findall(r"^\| `(LUNA_\w+)` \| `(--[\w-]+)` \| (.*?) \|", OPERATIONS, re.MULTILINE)}
    assert set(rows) == {variable(name) for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        flag_in_docs, default = rows[variable(name)]
        assert flag_in_docs == flag(name)
        if isinstance(field.default, str | int | float) and field.default is not False:
            assert default == (f"`{field.default}`" if field.default != "" else "none")


def test_other_ports_are_told_to_those_who_ask() -> None:
    """The README moves the gRPC port, and says where clients look for it then."""
    [port] = re.findall(r"make run .*LUNA_GRPC_PORT=(\d+)", README)
    assert f"export LUNA_ADDRESS=127.0.0.1:{port}" in README


def test_every_route_stands_in_the_api(server: Running) -> None:
    """And no route that does not exist."""
    routes = {
        f"{route.method} {route.resource.canonical}"
        for route in server.rest.app.router.routes()
        if route.resource is not None and route.method not in {"HEAD", "*"}
    }
    assert set(re.findall(r"`((?:GET|POST|PUT|DELETE) /\S*)`", API)) == routes


def test_every_error_stands_in_the_api() -> None:
    """With its status."""
    rows = {(int(status), code) for status, code in re.findall(r"^\| (\d+) \| `(\w+)` \|", API, re.MULTILINE)}
    known = {(status, error.code) for error, status in STATUS.items()} | set(CODES.items()) | {(500, "INTERNAL")}
    assert rows == known


@pytest.fixture
async def metrics(tmp_path: Path) -> str:
    """Return what Prometheus is shown, by a server that has all there is to show."""
    async with (
        running(settings_for_tests(state_file=str(tmp_path / "state.db"))) as server,
        session(f"http://127.0.0.1:{server.rest_port}") as client,
        client.get("/metrics") as answer,
    ):
        return await answer.text()


def test_every_metric_stands_in_operations(metrics: str) -> None:
    """With its type, its labels and what it says of itself; and no metric that does not exist."""
    types = dict(re.findall(r"^# TYPE (luna_\w+) (\w+)$", metrics, re.MULTILINE))
    meanings = dict(re.findall(r"^# HELP (luna_\w+) (.*)\.$", metrics, re.MULTILINE))
    labels: dict[str, set[str]] = {name: set() for name in types}
    for sample in (sample for family in text_string_to_metric_families(metrics) for sample in family.samples):
        if sample.name.startswith("luna_"):
            labels[re.sub(r"_(bucket|count|sum)$", "", sample.name)] |= set(sample.labels) - {"le"}
    rows = re.findall(r"^\| `(luna_\w+)` \| (\w+) \| (.*?)\| (.*) \|$", OPERATIONS, re.MULTILINE)
    assert [row[0] for row in rows] == list(types)
    for name, kind, labelled, meaning in rows:
        assert (kind, set(re.findall(r"`(\w+)`", labelled))) == (types[name], labels[name]), name
        assert meaning.startswith(meanings[name]), name


def test_the_rules_for_alerts_ask_for_what_there_is(metrics: str) -> None:
    """Metrics by the names of their samples, labels and values that they can have; each rule says what to do next."""
    samples = [sample for family in text_string_to_metric_families(metrics) for sample in family.samples]
    rules = FILES["luna.yml"].split("- alert: ")[1:]
    assert len(rules) > 10
    for rule in rules:
        expression = rule[: rule.index("annotations:")]
        assert "next: >-" in rule
        for name, matchers in re.findall(r"\b((?:luna|process|python)_\w+)(?:\{(.*?)\})?", expression):
            wanted = dict(re.findall(r'(\w+)="(\w+)"', matchers))
            wanted.pop("job", None)  # Prometheus adds it
            assert any(sample.name == name and wanted.items() <= sample.labels.items() for sample in samples), (name, wanted)
        for word in re.findall(r"\bluna_\w+", rule[len(expression) :]):
            assert any(sample.name.startswith(word) for sample in samples), word


def test_prometheus_takes_the_rules_and_the_configuration(metrics: str, tmp_path: Path) -> None:
    """By the word of its own tool, which also has an opinion on names of metrics."""
    need("promtool")
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    for arguments in (["rules", "luna.yml"], ["config", "--syntax-only", "prometheus.yml"], ["metrics"]):
        checked = subprocess.run(
            ["promtool", "check", *arguments], cwd=tmp_path, input=metrics, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stderr) == (0, ""), arguments


def test_every_field_and_rpc_of_the_proto_is_commented() -> None:
    """Whatever is declared has a comment right above it."""
    lines = [line.strip() for line in PROTO.splitlines()]
    declaration = re.compile(r"(rpc|message|enum|service) \w+|(optional |repeated )?[\w.<>, ]+ \w+ = \d+;|[A-Z_]+ = \d+;")
    bare = [line for above, line in pairwise(lines) if declaration.match(line) and not above.startswith("//")]
    assert bare == []
    assert sum(bool(declaration.match(line)) for line in lines) > 80


def test_the_map_names_every_module() -> None:
    """A new file without a place in the architecture fails here."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    parts = "luna_grpc", "luna_grpc/client", "luna_grpc/rpc", "gateway"
    for path in [path for part in parts for path in ROOT.glob(f"{part}/*.py")]:
        if path.name not in {"__init__.py", "__main__.py"}:
            assert path.name in text, path


def test_links_lead_somewhere() -> None:
    """Those within the project."""
    for path in [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_contents_of_operations_name_its_headings() -> None:
    """All of them in their order, each with a link that leads there."""
    listed = re.findall(r"^- \[(.+)\]\(#(.+)\)$", OPERATIONS.partition("\n## ")[0], re.MULTILINE)
    headings = re.findall(r"^## (.+)$", OPERATIONS, re.MULTILINE)
    assert listed == [(heading, re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")) for heading in headings]


async def test_the_blocks_of_the_readme_run(server: Running) -> None:
    """Word for word, one after the other, against a real server; only the ports differ."""
    need("curl", "grpcurl")
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    outputs = [await run(block, server) for block in blocks]
    assert len(outputs) == 5
    assert '"instanceId":"orders:localhost:8080"' in outputs[0]
    assert '"status":"UP"' in outputs[1]
    assert '"last_heartbeat":' in outputs[2]
    assert outputs[3].count('"instance_id": "billing:localhost:9090"') == 2
    assert outputs[3].count('"heartbeat_interval": "10s"') == 2
    assert outputs[4] == "OK"
    assert server.registry.store.count() == 0


async def test_grpcurl_describes_the_service(server: Running) -> None:
    """Through reflection, which needs credentials; health needs none."""
    need("grpcurl")
    credentials = "-H 'authorization: Basic YWRtaW46'"
    assert "luna.registry.v1.Registry" in await run(f"grpcurl -plaintext {credentials} localhost:50051 list", server)
    described = await run(f"grpcurl -plaintext {credentials} localhost:50051 describe luna.registry.v1.Registry", server)
    assert "rpc StreamHeartbeats ( stream" in described
    assert "Unauthenticated" in await run("grpcurl -plaintext localhost:50051 list 2>&1 || true", server)
    health = await run(f"grpcurl -plaintext {credentials} localhost:50051 grpc.health.v1.Health/Check", server)
    assert "SERVING" in health


async def test_the_blocks_about_tls_run(tmp_path: Path) -> None:
    """Word for word, in one folder, each against the server that was started before it; only the ports differ."""
    need("curl", "grpcurl", "openssl")
    async with section("TLS", tmp_path) as (_, outputs):
        _, asked, in_use, added, certified, ready = outputs
    for answers in (asked, certified):
        assert re.fullmatch(r'\[\]\s*{\s*"resume_token": "\S+"\s*}\s*', answers)
    assert in_use.count("subject=CN = luna\n") == in_use.count("notAfter=") == 2
    assert added.startswith("orders is now a writer in users.toml.")
    assert ready == "ok\n"


async def test_the_blocks_about_users_run(tmp_path: Path) -> None:
    """Word for word, as above; only the process that is told of a change is that of the test."""
    need("curl")
    async with section("Users and roles", tmp_path) as (server, outputs):
        added, asked, removed = outputs
        assert added.endswith("orders-ci\twriter\torders\ngrafana\treader\n")
        registered, refused = asked.strip().splitlines()
        assert '"statusReason":"REPORTED"' in registered
        assert "the user 'grafana' has the role reader; this takes the role writer or admin" in refused
        assert removed.startswith("grafana is no longer in users.toml.")
        statuses = [200]
        async with asyncio.timeout(20):
            while statuses[-1] == 200:
                async with session(server.rest, basic("grafana", "another long one")) as client:
                    statuses.append((await client.get("/registry/v1/services/json")).status)
        assert statuses[-1] == 401


@asynccontextmanager
async def section(title: str, folder: Path) -> AsyncIterator[tuple[Luna, list[str]]]:
    """Run the blocks of a section of operations.md in a folder; return the last server of them, and what each shell printed."""
    blocks = re.findall(r"```(\w*)\n(.*?)```", OPERATIONS.partition(f"\n## {title}\n")[2].partition("\n## ")[0], re.DOTALL)
    outputs = []
    server: Luna | None = None
    async with AsyncExitStack() as stack:
        for kind, block in blocks:
            if kind == "bash":
                ports = ("4000", "50051") if server is None else (server.rest.rpartition(":")[2], server.grpc.rpartition(":")[2])
                hangup = f"kill -HUP {server.pid}" if server else ""
                outputs.append(await shell(block.replace("kill -HUP PID", hangup), *ports, folder=folder))
            else:
                flags = shlex.split(block.removeprefix("luna serve "))
                server = await stack.enter_async_context(luna(*flags, folder=folder))
        assert server is not None
        yield server, outputs


async def run(script: str, server: Running) -> str:
    """Run a shell script against the server's ports and return what it prints."""
    return await shell(script, server.rest_port, server.grpc_port)


async def shell(script: str, rest_port: object, grpc_port: object, folder: Path | None = None) -> str:
    """Run a shell script with these ports instead of the usual ones, and return what it prints."""
    script = script.replace(":4000", f":{rest_port}").replace(":50051", f":{grpc_port}")
    process = await asyncio.create_subprocess_exec(
        "bash", "-euc", script, cwd=folder, env={**clean_environment(), "PATH": PATH},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()
