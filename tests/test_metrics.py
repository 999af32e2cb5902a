"""What Prometheus is shown: every metric is there with its type, and moves when it should. All of it through real doors."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from aiohttp import ClientSession
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser
from prometheus_client.parser import text_string_to_metric_families

from luna_grpc import __version__, users
from luna_grpc.access import Role
from luna_grpc.histogram import BOUNDS, Histogram
from luna_grpc.serve import Running, running
from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import Channel, Stub, basic, channel, instance_json, session, settings_for_tests

openmetrics: Callable[[str], Iterable[Metric]] = parser.text_string_to_metric_families  # has no annotations
INSTANCES: Final = "/registry/v1/instances/"
PROMETHEUS: Final = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
"""What it sends as Accept."""
BIG: Final = {f"key-{number}": "x" * 1024 for number in range(64)}
"""As much metadata as an instance may have."""


@dataclass
class House:
    """A server and clients of both doors."""

    server: Running
    rest: ClientSession
    channel: Channel
    stub: Stub
    stack: AsyncExitStack
    """Closed with the clients."""
    state_file: str = ""

    async def register(self, instance_id: str, **said: Any) -> pb.Instance:
        """Register over gRPC."""
        instance = pb.Instance(instance_id=instance_id, **said)
        return (await self.stub.Register(pb.RegisterRequest(instance=instance))).instance

    async def post(self, instance_id: str, **changes: Any) -> int:
        """Register over REST."""
        async with self.rest.post(INSTANCES + instance_id, json=instance_json(instance_id, **changes)) as answer:
            return answer.status

    async def put(self, instance_id: str, **changes: Any) -> int:
        """Send a heartbeat that says something over REST."""
        async with self.rest.put(INSTANCES + instance_id, json=instance_json(instance_id, **changes)) as answer:
            return answer.status

    async def stream(self, on_disconnect: pb.OnDisconnect.ValueType, *ids: str) -> Any:
        """Open a heartbeat stream, and hear that its first message was handled."""
        call: Any = self.stub.StreamHeartbeats()
        await call.write(
            pb.StreamHeartbeatsRequest(sequence=1, instance_ids=ids, options=pb.StreamOptions(on_disconnect=on_disconnect))
        )
        assert (await call.read()).sequence == 1
        return call

    async def scrape(self) -> dict[str, float]:
        """Return all samples, by their names and labels as they are written."""
        async with self.rest.get("/metrics") as answer:
            assert answer.status == 200
            text = await answer.text()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {written(sample.name, sample.labels): sample.value for sample in samples}


def written(name: str, labels: Mapping[str, str]) -> str:
    """Return a sample's name and labels, the labels sorted."""
    inside = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{name}{{{inside}}}" if inside else name


@asynccontextmanager
async def house(**flags: object) -> AsyncIterator[House]:
    """Run a server."""
    async with (
        running(settings_for_tests(**flags)) as server,
        session(f"http://127.0.0.1:{server.rest_port}", basic(password=str(flags.get("auth_password", "")))) as rest,
        channel(f"127.0.0.1:{server.grpc_port}") as open_channel,
        AsyncExitStack() as stack,
    ):
        yield House(
            server, rest, open_channel, registry_pb2_grpc.RegistryStub(open_channel), stack, str(flags.get("state_file", ""))
        )


Scenario = Callable[[House], Awaitable[object]]


@dataclass
class Case:
    """What makes a metric move, and by how much."""

    type: str
    scenario: Scenario
    moves: dict[str, float]
    """By how much each sample changes; samples of the metric that are not named stay as they are."""
    flags: dict[str, object] = field(default_factory=dict)
    at_least: bool = False
    """Whether more than that is fine too."""


async def registrations(house: House) -> None:
    """Two services: one with an instance that is OK and one that is DOWN, the other DOWN."""
    await house.post("a:h:1")
    await house.register("a:h:2", status=pb.STATUS_DOWN)
    await house.register("b:h:1", status=pb.STATUS_DOWN)


async def heartbeats(house: House) -> None:
    """One through REST, two in gRPC calls, and three by a stream; then two more, of which one brings an instance back."""
    await house.post("a:h:1")
    await house.put("a:h:1")
    await house.stub.Heartbeat(pb.HeartbeatRequest(instance_id="a:h:1"))
    await house.stub.Heartbeat(pb.HeartbeatRequest(instance_id="a:h:1", status=pb.STATUS_DOWN))
    call = await house.stream(pb.ON_DISCONNECT_KEEP, "a:h:1", "a:h:1", "a:h:1")
    await call.done_writing()
    await house.register("a:h:2")
    (await house.stream(pb.ON_DISCONNECT_MARK_DOWN, "a:h:2")).cancel()
    await until(lambda: not house.server.registry.get("a:h:2").live)
    await house.put("a:h:2")


async def deregistrations(house: House) -> None:
    """One through REST, one through gRPC, one by a stream that breaks."""
    for number in (1, 2, 3):
        await house.register(f"a:h:{number}")
    await house.rest.delete(INSTANCES + "a:h:1")
    await house.stub.Deregister(pb.DeregisterRequest(instance_id="a:h:2"))
    (await house.stream(pb.ON_DISCONNECT_DEREGISTER, "a:h:3")).cancel()


async def changes_of_status(house: House) -> None:
    """Reported DOWN and OK; taken down by a stream that broke, and back; run out."""
    await house.post("a:h:1")
    await house.put("a:h:1", status="DOWN")
    await house.put("a:h:1", status="DOWN")
    await house.put("a:h:1")
    (await house.stream(pb.ON_DISCONNECT_MARK_DOWN, "a:h:1")).cancel()
    await until(lambda: house.server.registry.store.totals().instances_up == 0)
    await house.put("a:h:1")


async def nothing(_: House) -> None:
    """Only let time pass."""


async def one(house: House) -> None:
    """Register an instance."""
    await house.register("a:h:1")


async def come_and_gone(house: House) -> None:
    """Register an instance and deregister it."""
    await house.register("a:h:1")
    await house.stub.Deregister(pb.DeregisterRequest(instance_id="a:h:1"))


async def a_stall(_: House) -> None:
    """Stand still."""
    await asyncio.sleep(0.1)  # so that the sweeper has begun to tick
    time.sleep(0.7)  # noqa: ASYNC251 - this is the point


async def warmed_up(house: House) -> None:
    """End the warming up."""
    house.server.registry.store.feed.warmed()


async def watch(house: House) -> Any:
    """Watch everything over a connection whose window stays small, and read no further than to the present."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
    connection = await house.stack.enter_async_context(
        grpc.aio.insecure_channel(f"127.0.0.1:{house.server.grpc_port}", options=options)
    )
    stub: Any = registry_pb2_grpc.RegistryStub(connection)
    call = stub.WatchServices(pb.WatchServicesRequest(), metadata=(("authorization", basic()),))
    house.stack.callback(call.cancel)
    while not (await call.read()).synced:
        pass
    return call


async def follow_changes(house: House) -> None:
    """Follow changes as a page of the panel does."""
    response = await house.stack.enter_async_context(house.rest.get("/registry/v1/changes"))
    await response.content.readline()


async def slow_watch(house: House) -> None:
    """Let more be waiting for a watcher than its connection takes."""
    await watch(house)
    for number in range(1, 41):
        await house.register(f"big:h:{number}", metadata=BIG)


async def resyncs(house: House) -> None:
    """Let a watcher's queue overflow, let the log move past it, and then let it read on."""
    call = await watch(house)
    for number in range(1, 21):
        await house.register(f"big:h:{number}", metadata=BIG)
    for number in range(1, 600):
        await house.register(f"small:h:{number}")
    await until(lambda: house.server.registry.store.feed.sent_back_to_log == 1)
    for _ in range(270):
        await house.stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id="big:h:1", metadata=BIG), replace=True))
    while not (await call.read()).reset:
        pass


async def streams(house: House) -> None:
    """Open two heartbeat streams."""
    for _ in range(2):
        house.stack.callback((await house.stream(pb.ON_DISCONNECT_KEEP)).cancel)


async def ends_of_streams(house: House) -> None:
    """One stream is ended properly, one breaks."""
    await (await house.stream(pb.ON_DISCONNECT_KEEP)).done_writing()
    (await house.stream(pb.ON_DISCONNECT_KEEP)).cancel()


async def a_slow_request(house: House) -> None:
    """Promise a body and send none."""
    _, writer = await asyncio.open_connection("127.0.0.1", house.server.rest_port)
    house.stack.callback(writer.close)
    head = f"POST {INSTANCES}a:h:1 HTTP/1.1\r\nHost: localhost\r\nAuthorization: {basic()}\r\nContent-Length: 10\r\n\r\n"
    writer.write(head.encode())
    await writer.drain()


async def refusals(house: House) -> None:
    """Be refused for every reason that there is without a file and a fault."""
    await house.post("a:h:1")
    await house.post("a:h:1")
    for method, path, arguments in (
        ("POST", INSTANCES + "a:h:2", {"data": b"{"}),
        ("GET", INSTANCES + "a:h:2", {}),
        ("GET", "/nowhere", {}),
        ("DELETE", "/registry/v1/services", {}),
        ("POST", INSTANCES + "a:h:2", {"data": b" " * 200_000}),
        ("GET", "/registry/v1/services", {"headers": {"Host": "evil.example"}}),
        ("GET", "/registry/v1/services", {"headers": {"Authorization": basic(password="wrong")}}),
        ("GET", "/registry/v1/services", {"headers": {"Authorization": basic(password="wrong")}}),
    ):
        await house.rest.request(method, path, **arguments)
    nothing_said: Any = b""  # the stubs know only the channels of generated code
    generation = (await house.register("a:h:3")).generation
    for call in (
        house.stub.Register(pb.RegisterRequest()),
        house.stub.GetInstance(pb.GetInstanceRequest(instance_id="a:h:2")),
        house.stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id="a:h:3"))),
        house.stub.Deregister(pb.DeregisterRequest(instance_id="a:h:3", generation=generation + 1)),
        house.channel.unary_unary("/no.such.Service/Method")(nothing_said),
    ):
        with pytest.raises(grpc.aio.AioRpcError):
            await call
    await house.stream(pb.ON_DISCONNECT_KEEP, "a:h:3", "a:h:8", "a:h:9")
    await house.stream(pb.ON_DISCONNECT_KEEP)
    with pytest.raises(grpc.aio.AioRpcError):
        await (await house.stream(pb.ON_DISCONNECT_KEEP)).read()


async def three_wrong_logins(house: House) -> None:
    """The first two are looked at."""
    for number in range(3):
        await house.rest.get("/registry/v1/services", headers={"Authorization": basic(password=f"wrong-{number}")})


async def a_busy_disk(house: House) -> None:
    """Let the disk have something to do until the end."""

    async def registering(number: int) -> None:
        while True:
            await house.stub.Register(pb.RegisterRequest(instance=pb.Instance(instance_id=f"a:h:{number}"), replace=True))

    for number in range(1, 51):
        house.stack.callback(asyncio.create_task(registering(number)).cancel)


async def a_lost_disk(house: House) -> None:
    """Take the file away."""
    await asyncio.to_thread(Path(house.state_file).unlink)
    with pytest.raises(grpc.aio.AioRpcError):
        await house.register("a:h:1")


async def a_drain(house: House) -> None:
    """Drain one of two instances; it is counted also when it has left."""
    await house.post("a:h:1")
    await house.post("a:h:2")
    await house.stub.DrainInstance(pb.DrainInstanceRequest(instance_id="a:h:1"))
    await house.rest.delete(f"{INSTANCES}a:h:1")


SHORT: Final[dict[str, object]] = {"lease_ttl": 0.5}
STATE: Final[dict[str, object]] = {"state_file": "TMP/state.db"}
CASES: Final[dict[str, Case]] = {
    "luna_build_info": Case("gauge", nothing, {}),
    "luna_instances": Case("gauge", registrations, {'luna_instances{status="OK"}': 1, 'luna_instances{status="DOWN"}': 2}),
    "luna_services": Case("gauge", registrations, {'luna_services{status="UP"}': 1, 'luna_services{status="DOWN"}': 1}),
    "luna_drained": Case("gauge", a_drain, {"luna_drained": 1}),
    "luna_registrations_total": Case(
        "counter", registrations, {'luna_registrations_total{door="rest"}': 1, 'luna_registrations_total{door="grpc"}': 2}
    ),
    "luna_heartbeats_total": Case(
        "counter",
        heartbeats,
        {
            'luna_heartbeats_total{door="rest",kind="unary"}': 2,
            'luna_heartbeats_total{door="grpc",kind="unary"}': 2,
            'luna_heartbeats_total{door="grpc",kind="stream"}': 4,
        },
    ),
    "luna_deregistrations_total": Case(
        "counter", deregistrations, {'luna_deregistrations_total{door="rest"}': 1, 'luna_deregistrations_total{door="grpc"}': 2}
    ),
    "luna_status_changes_total": Case(
        "counter",
        changes_of_status,
        {
            'luna_status_changes_total{reason="REPORTED",status="DOWN"}': 1,
            'luna_status_changes_total{reason="DISCONNECTED",status="DOWN"}': 1,
            'luna_status_changes_total{reason="LEASE_EXPIRED",status="DOWN"}': 1,
            'luna_status_changes_total{reason="REPORTED",status="OK"}': 2,
        },
        {"lease_ttl": 3},
    ),
    "luna_expiries_total": Case("counter", one, {"luna_expiries_total": 1}, SHORT),
    "luna_evictions_total": Case("counter", one, {"luna_evictions_total": 1}, SHORT | {"evict_after": 0.1}),
    "luna_events_published_total": Case(
        "counter",
        come_and_gone,
        {'luna_events_published_total{type="UPSERTED"}': 1, 'luna_events_published_total{type="REMOVED"}': 1},
    ),
    "luna_revision": Case("gauge", come_and_gone, {"luna_revision": 2}),
    "luna_expiry_lateness_seconds": Case(
        "histogram",
        one,
        {"luna_expiry_lateness_seconds_count": 1, 'luna_expiry_lateness_seconds_bucket{le="+Inf"}': 1},
        SHORT,
        at_least=True,  # how late it was is not for a test to say
    ),
    "luna_sweep_duration_seconds": Case("histogram", nothing, {"luna_sweep_duration_seconds_count": 3}, at_least=True),
    "luna_event_loop_lag_seconds": Case("histogram", a_stall, {"luna_event_loop_lag_seconds_sum": 0.4}, at_least=True),
    "luna_stalls_total": Case("counter", a_stall, {"luna_stalls_total": 1}, SHORT, at_least=True),
    "luna_held": Case("gauge", a_stall, {"luna_held": 1}, {"lease_ttl": 2}),
    "luna_warming": Case("gauge", warmed_up, {"luna_warming": -1}),
    "luna_watchers": Case("gauge", watch, {"luna_watchers": 1}),
    "luna_watchers_limit": Case("gauge", nothing, {}),
    "luna_watch_queue_events": Case("gauge", slow_watch, {"luna_watch_queue_events": 20}, at_least=True),
    "luna_watch_queue_largest_events": Case("gauge", slow_watch, {"luna_watch_queue_largest_events": 20}, at_least=True),
    "luna_watch_resyncs_total": Case(
        "counter", resyncs, {'luna_watch_resyncs_total{to="log"}': 1, 'luna_watch_resyncs_total{to="snapshot"}': 1}
    ),
    "luna_heartbeat_streams": Case("gauge", streams, {"luna_heartbeat_streams": 2}),
    "luna_heartbeat_streams_limit": Case("gauge", nothing, {}),
    "luna_heartbeat_streams_broken_total": Case("counter", ends_of_streams, {"luna_heartbeat_streams_broken_total": 1}),
    "luna_change_streams": Case("gauge", follow_changes, {"luna_change_streams": 1}),
    "luna_change_streams_limit": Case("gauge", nothing, {}),
    "luna_rest_requests_in_flight": Case("gauge", a_slow_request, {"luna_rest_requests_in_flight": 1}),
    "luna_requests_refused_total": Case(
        "counter",
        refusals,
        {
            f'luna_requests_refused_total{{code="{code}",door="{door}"}}': times
            for door, code, times in (
                ("rest", "ALREADY_EXISTS", 1),
                ("rest", "INVALID_ARGUMENT", 1),
                ("rest", "NOT_FOUND", 2),
                ("rest", "METHOD_NOT_ALLOWED", 1),
                ("rest", "PAYLOAD_TOO_LARGE", 1),
                ("rest", "PERMISSION_DENIED", 1),
                ("rest", "UNAUTHENTICATED", 1),
                ("rest", "RESOURCE_EXHAUSTED", 1),
                ("grpc", "INVALID_ARGUMENT", 1),
                ("grpc", "NOT_FOUND", 3),
                ("grpc", "ALREADY_EXISTS", 1),
                ("grpc", "FAILED_PRECONDITION", 1),
                ("grpc", "UNIMPLEMENTED", 1),
                ("grpc", "RESOURCE_EXHAUSTED", 1),
            )
        },
        {"max_failed_logins": 1, "max_heartbeat_streams": 2},
    ),
    "luna_login_failures_total": Case("counter", three_wrong_logins, {"luna_login_failures_total": 2}, {"max_failed_logins": 2}),
    "luna_logins_throttled_total": Case(
        "counter", three_wrong_logins, {"luna_logins_throttled_total": 1}, {"max_failed_logins": 2}
    ),
    "luna_state_file_waiting_changes": Case("gauge", a_busy_disk, {"luna_state_file_waiting_changes": 1}, STATE, at_least=True),
    "luna_state_file_failing_seconds": Case("gauge", a_lost_disk, {"luna_state_file_failing_seconds": 0.001}, STATE, at_least=True),
    "luna_state_file_transactions_total": Case("counter", one, {"luna_state_file_transactions_total": 1}, STATE, at_least=True),
}


async def until(look: Callable[[], bool]) -> None:
    """Wait for something to become so."""
    async with asyncio.timeout(20):
        while not look():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", CASES)
async def test_it_moves_when_it_should(name: str, tmp_path: Path) -> None:
    """By as much as it should, and no other sample of it moves."""
    case = CASES[name]
    flags = {flag: value.replace("TMP", str(tmp_path)) if isinstance(value, str) else value for flag, value in case.flags.items()}
    async with house(**flags) as at:
        before = {sample: value for sample, value in (await at.scrape()).items() if belongs(sample, name)}
        assert before
        await case.scenario(at)
        try:
            async with asyncio.timeout(20):
                while not _moved(before, moved := await at.scrape(), case):  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.02)
        except TimeoutError:
            pytest.fail(f"moved by { ({sample: moved[sample] - before[sample] for sample in before}) }, not by {case.moves}")


def belongs(sample: str, name: str) -> bool:
    """Whether a sample is one of a metric."""
    return re.fullmatch(rf"{name}(_bucket|_count|_sum)?(\{{.*\}})?", sample) is not None


def _moved(before: Mapping[str, float], now: Mapping[str, float], case: Case) -> bool:
    moved = {sample: now[sample] - was for sample, was in before.items() if now[sample] != was}
    if case.at_least:
        return all(moved.get(sample, 0) >= least for sample, least in case.moves.items())
    return moved == case.moves


async def test_names_types_and_limits(tmp_path: Path) -> None:
    """Every metric has a case above and the type that stands there; what never moves says what was set."""
    async with house(max_watchers=7, max_heartbeat_streams=8, max_change_streams=9, state_file=str(tmp_path / "state.db")) as at:
        text = await (await at.rest.get("/metrics")).text()
        found = dict(re.findall(r"^# TYPE (luna_\w+) (\w+)$", text, re.MULTILINE))
        assert found == {name: case.type for name, case in CASES.items()}
        assert {"process_resident_memory_bytes", "process_open_fds", 'python_gc_collections_total{generation="2"}'} <= set(
            await at.scrape()
        )
        assert 'luna_build_info{python="3.' in text
        assert f'version="{__version__}"}} 1.0' in text
        assert "\nluna_watchers_limit 7.0\n" in text
        assert "\nluna_heartbeat_streams_limit 8.0\n" in text
        assert "\nluna_change_streams_limit 9.0\n" in text


async def test_a_failure_of_the_registry_itself_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """At both doors, as INTERNAL."""

    def broken(_: str) -> None:
        raise ZeroDivisionError

    async with house() as at:
        monkeypatch.setattr(at.server.registry, "get", broken)
        assert (await at.rest.get(INSTANCES + "a:h:1")).status == 500
        with pytest.raises(grpc.aio.AioRpcError):
            await at.stub.GetInstance(pb.GetInstanceRequest(instance_id="a:h:1"))
        samples = await at.scrape()
        assert [samples[f'luna_requests_refused_total{{code="INTERNAL",door="{door}"}}'] for door in ("rest", "grpc")] == [1, 1]


async def test_prometheus_gets_openmetrics_and_others_text() -> None:
    """Both are well-formed, and hold the same samples; an Accept that makes no sense is no failure."""
    async with house() as at:
        await registrations(at)
        async with at.rest.get("/metrics", headers={"Accept": PROMETHEUS}) as answer:
            assert answer.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
            families = list(openmetrics(await answer.text()))
        names = {written(sample.name, sample.labels) for family in families for sample in family.samples}
        assert names == set(await at.scrape())
        for accept in (
            "*/*",
            "text/html",
            "text/plain;version=0.0.4",
            "text/plain;version=x",
            "application/openmetrics-text;q=0",
            ";",
        ):
            async with at.rest.get("/metrics", headers={"Accept": accept}) as answer:
                assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        async with at.rest.get("/metrics", headers={"Accept": "application/openmetrics-text;version=x"}) as answer:
            assert answer.status == 200


async def test_no_label_tells_of_an_instance_a_service_or_a_user() -> None:
    """There is no end to those."""
    async with house(auth_username="somebody", auth_password="something") as at:
        await at.post("peculiar:strange.example:4711", name="Wunderlich", metadata={"odd": "queer"})
        await at.rest.get(INSTANCES + "peculiar:strange.example:4712")
        text = await (await at.rest.get("/metrics")).text()
        for word in ("peculiar", "strange", "471", "Wunderlich", "odd", "queer", "somebody", "127.0.0.1"):
            assert word not in text


async def test_a_scrape_looks_at_no_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    """So 100,000 of them make it no slower."""

    class Unwalkable(dict[Any, Any]):
        def __iter__(self) -> Any:
            raise AssertionError("it was walked")

        keys = values = items = __iter__

    async with house() as at:
        await registrations(at)
        store: Any = at.server.registry.store
        monkeypatch.setattr(store, "_registrations", Unwalkable(store._registrations))
        monkeypatch.setattr(store._services, "_services", Unwalkable(store._services._services))
        monkeypatch.setattr(store._services, "_names", None)
        assert (await at.scrape())['luna_instances{status="DOWN"}'] == 2
        monkeypatch.undo()


async def test_readyz_tells_of_the_same_counts() -> None:
    """Those that are in both."""
    async with house() as at:
        await heartbeats(at)
        await until(lambda: at.server.registry.heartbeats == 8)
        ready = await (await at.rest.get("/readyz?verbose")).text()
        samples = await at.scrape()
        assert f"heartbeats: {sum(value for name, value in samples.items() if 'luna_heartbeats_total' in name):.0f} since" in ready
        assert f"instances: {sum(value for name, value in samples.items() if 'luna_instances' in name):.0f}\n" in ready


async def test_it_takes_credentials_and_a_reader_s_are_enough(tmp_path: Path) -> None:
    """So Prometheus gets a user of its own, who can change nothing."""
    file = str(tmp_path / "users.toml")
    users.add(file, "prometheus", role=Role.READER, prefixes=(), password="secret")
    async with house(users_file=file) as at, session(str(at.rest._base_url), basic("prometheus", "secret")) as reader:
        assert (await reader.get("/metrics")).status == 200
        for method in ("GET", "POST"):
            answer = await at.rest.request(method, "/metrics", headers={"Authorization": ""})
            assert answer.status == 401
            assert "luna_" not in await answer.text()


def test_a_histogram_counts_by_the_smallest_bound_not_exceeded() -> None:
    """What is longer than all of them counts as well."""
    histogram = Histogram()
    for seconds in (0.0, 0.001, 0.0011, 10.0, 60.0):
        histogram.observe(seconds)
    assert histogram.counts == [2, 1] + [0] * (len(BOUNDS) - 3) + [1, 1]
    assert histogram.sum == pytest.approx(70.0021)
