"""What is said of an instance is kept as it was said, or refused with the field at fault: by the model and by both doors."""

import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import orjson
import pytest
from aiohttp import ClientSession
from hypothesis import given
from hypothesis import strategies as st
from said import ANY_TEXT, FIELDS, GOOD_IDS, IDS, SENDABLE, as_json, fields, message, messages

from gateway import errors, views
from luna_grpc.errors import InvalidArgumentError
from luna_grpc.model import Info, Instance, Status, check_instance_id
from luna_grpc.rpc import convert
from luna_grpc.rpc.guard import parsed
from luna_grpc.serve import running
from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from support import Stub, channel, session, settings_for_tests

REQUESTS = [
    pb.RegisterRequest, pb.HeartbeatRequest, pb.DeregisterRequest, pb.GetInstanceRequest, pb.ListServicesRequest,
    pb.WatchServicesRequest, pb.StreamHeartbeatsRequest,
]  # fmt: skip
JSON_FIELDS = {
    "body", "instanceId", "name", "description", "version", "url", "status", "balancerOptions", "balancerOptions.weight",
    "metadata",
}  # fmt: skip


def words_of(error: InvalidArgumentError) -> str:
    """Return what a refusal says; either door has to be able to carry it."""
    assert error.message.isprintable()
    orjson.dumps(errors.body(error))
    return error.message


def again(info: Info) -> Info:
    """Say once more what was understood."""
    return Info.of(
        info.instance_id,
        name=info.name,
        description=info.description,
        version=info.version,
        url=info.url,
        weight=info.weight,
        metadata=dict(info.metadata),
    )


@given(st.one_of(ANY_TEXT, IDS))
def test_an_id_is_kept_or_refused(text: str) -> None:
    """As it is, and the same the second time."""
    try:
        assert check_instance_id(check_instance_id(text)) == text
    except InvalidArgumentError as error:
        assert error.field == "instance_id"
        assert words_of(error)


@given(GOOD_IDS)
def test_every_id_of_the_documented_form_is_taken(instance_id: str) -> None:
    """Names, IPv4 and IPv6 addresses, all ports."""
    assert check_instance_id(instance_id) == instance_id


@given(st.one_of(GOOD_IDS, GOOD_IDS, IDS, ANY_TEXT), fields())
def test_what_is_said_is_kept_or_the_field_at_fault_is_named(instance_id: str, said: dict[str, Any]) -> None:
    """And the field that is named is wrong by itself, whatever else was said."""
    try:
        info = Info.of(instance_id, **said)
    except InvalidArgumentError as error:
        assert words_of(error)
        assert error.field in {"instance_id", *FIELDS}
        with pytest.raises(InvalidArgumentError) as caught:
            Info.of(
                instance_id if error.field == "instance_id" else "a:h:1", **{key: said[key] for key in said if key == error.field}
            )
        assert (caught.value.field, caught.value.message) == (error.field, error.message)
        return
    assert info.instance_id == instance_id
    assert (info.description, info.version, info.metadata) == (said["description"], said["version"], said["metadata"])
    assert info.name == said["name"] or (not said["name"] and info.name == instance_id.partition(":")[0])
    assert info.weight == (said["weight"] or None)
    assert again(info) == info
    assert again(info).size == info.size


@given(GOOD_IDS, fields(at_fault=0))
def test_good_values_are_taken(instance_id: str, said: dict[str, Any]) -> None:
    """The test above would hold if everything were refused."""
    assert Info.of(instance_id, **said).name == said["name"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | SENDABLE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SENDABLE, inner, max_size=3),
    max_leaves=5,
)


def bodies() -> st.SearchStrategy[bytes]:
    """Return bodies that are mostly instances: some with a field of any type, some cut, some nothing of the kind."""
    said = st.builds(rest_body, GOOD_IDS, fields(at_fault=1), st.sampled_from(["OK", "DOWN", "UP", ""]))
    field = st.sampled_from(sorted(JSON_FIELDS))
    odd = st.builds(lambda body, field, value: body | {field: value}, said, field, JSON)
    lacking = st.builds(lambda body, field: {key: body[key] for key in body if key != field}, said, field)
    written = st.one_of(said, odd, lacking, JSON).map(orjson.dumps)
    cut = st.builds(lambda body, at: body[: at % (len(body) + 1)], written, st.integers(0, 1000))
    return st.one_of(written, written, cut, st.binary())


def rest_body(instance_id: str, said: dict[str, Any], status: str) -> dict[str, Any]:
    """Write what a REST client says."""
    rest = {key: said[key] for key in said if key != "weight"}
    # What JSON takes and orjson does not write.
    weight = said["weight"]
    return {"instanceId": instance_id, **rest, "status": status, "balancerOptions": {} if weight is None else {"weight": weight}}


@given(bodies())
def test_a_body_is_an_instance_or_the_field_at_fault_is_named(body: bytes) -> None:
    """What was understood is written so that it is understood again, and the same."""
    try:
        instance_id = str(orjson.loads(body)["instanceId"])
    except (ValueError, TypeError, LookupError, RecursionError):
        instance_id = "a:h:1"
    try:
        info, status = views.read_instance(instance_id, body)
    except InvalidArgumentError as error:
        assert words_of(error)
        assert errors.body(error)["field"] in JSON_FIELDS
        return
    answer = views.instance(Instance(info, status, None, 1, 5), 7)
    assert views.read_instance(instance_id, answer if info.version else body) == (info, status)
    assert orjson.loads(answer)["last_heartbeat"] == 7


@given(messages(), IDS)
def test_a_message_is_an_instance_or_the_field_at_fault_is_named(said: pb.Instance, other: str) -> None:
    """What was understood is written so that it is understood again, and the same; `instance_id` beside it has to agree."""
    try:
        info = convert.info(said)
    except InvalidArgumentError as error:
        assert words_of(error)
        names = {f"instance.{field}" for field in ("instance_id", *FIELDS)} - {"instance.weight"} | {
            "instance.balancer_options.weight"
        }
        assert error.field in names
        return
    answer = pb.Instance()
    convert.fill(answer, Instance(info, Status.OK, None, 2**63, 5), 1_800_000_000_007)
    assert convert.info(pb.Instance.FromString(answer.SerializeToString())) == info
    assert (answer.last_heartbeat.ToMilliseconds(), answer.registered_at.ToMilliseconds()) == (1_800_000_000_007, 5)
    if other != info.instance_id:
        with pytest.raises(InvalidArgumentError) as caught:
            convert.info(said, instance_id=other)
        assert caught.value.field == "instance.instance_id"


@pytest.mark.parametrize("kind", REQUESTS)
@given(body=st.one_of(st.binary(), messages().map(lambda instance: pb.RegisterRequest(instance=instance).SerializeToString())))
def test_bytes_are_a_message_or_refused(kind: Any, body: bytes) -> None:
    """With an error that says what was expected; there is no field to name."""
    try:
        assert kind.FromString(parsed(kind, body).SerializeToString()) == kind.FromString(body)
    except InvalidArgumentError as error:
        assert (error.field, kind.__name__ in words_of(error)) == ("", True)


@given(heartbeat=st.builds(pb.HeartbeatRequest, instance_id=IDS, instance=messages(), generation=st.integers(0, 2**64 - 1)))
def test_a_heartbeat_is_read_or_refused(heartbeat: pb.HeartbeatRequest) -> None:
    """An instance inside it has to be the one that it is for."""
    try:
        beat = convert.beat(heartbeat)
    except InvalidArgumentError as error:
        assert error.field.startswith("instance.")
        return
    assert (beat.instance_id, beat.generation) == (heartbeat.instance_id, heartbeat.generation)
    assert beat.info is not None
    assert beat.info.instance_id == beat.instance_id


@given(st.floats(0, 1e9))
def test_a_span_of_time_is_written_as_it_is(seconds: float) -> None:
    """To the nanosecond."""
    assert abs(convert.duration(seconds).ToTimedelta().total_seconds() - seconds) <= 1e-6 + seconds * 1e-15


@pytest.fixture(scope="module")
async def doors() -> AsyncIterator[tuple[ClientSession, Stub]]:
    """Run one server for all that hypothesis thinks of; return a client for each door."""
    async with (
        running(settings_for_tests()) as server,
        session(f"http://127.0.0.1:{server.rest_port}") as client,
        channel(f"127.0.0.1:{server.grpc_port}") as connection,
    ):
        yield client, registry_pb2_grpc.RegistryStub(connection)


@given(GOOD_IDS, fields(at_fault=1), st.sampled_from(["OK", "DOWN"]), st.booleans())
async def test_both_doors_keep_the_same(
    doors: tuple[ClientSession, Stub], instance_id: str, said: dict[str, Any], status: str, by_rest: bool
) -> None:
    """What one door has taken, the other one shows, and sending that back changes nothing."""
    rest, stub = doors
    path = f"/registry/v1/instances/{instance_id}"
    body = rest_body(instance_id, said, status)
    request = pb.RegisterRequest(instance=message(instance_id, dict(said), pb.Status.Value(f"STATUS_{status}")))
    if by_rest:
        taken = (await rest.post(path, data=orjson.dumps(body))).status == 201
    else:
        taken = await succeeds(stub.Register(request))
    assert (await rest.get(path)).status == (200 if taken else 404)
    if not taken:
        return
    shown = await (await rest.get(path)).json()
    written = (await stub.GetInstance(pb.GetInstanceRequest(instance_id=instance_id))).instance
    assert shown == as_json(written)
    assert (shown["description"], shown["version"], shown.get("metadata", {})) == (
        said["description"],
        said["version"],
        said["metadata"],
    )
    await stub.Heartbeat(pb.HeartbeatRequest(instance_id=instance_id, instance=written))
    if said["version"]:
        assert (await rest.put(path, data=json.dumps(shown))).status == 200
    now = (await stub.GetInstance(pb.GetInstanceRequest(instance_id=instance_id))).instance
    written.last_heartbeat.CopyFrom(now.last_heartbeat)
    assert now == written
    assert (await rest.delete(path)).status == 200


async def succeeds(call: Any) -> bool:
    """Return whether a call is answered; the only refusal there may be is INVALID_ARGUMENT."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        return False
    return True
