"""Messages and requests that are damaged, in every way that mutations.py knows: the registry is as well afterwards as before."""

import asyncio
import random
import re
import secrets
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import IO

import h2.connection
import hpack
import pytest
from harness import complaints, memory, soak
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import Frame, HeadersFrame
from mutations import Call, damaged, grpc_call, http_request
from raw_grpc import Connection, Outcome, fields, framed, talk

from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc
from raw_http import NotHttpError, answers, ask
from support import Luna, channel, instance_json, luna, session

SEED = soak(1, secrets.randbits(32))
GROWTH = 10.0
"""MB by which memory may be larger after the second half than after the first."""
SILENCE = 0.3
"""Seconds after which a server that has said nothing waits for more."""

# What gRPC's core answers by itself, before any of our code is asked.
OF_THE_CORE = re.compile(
    r"Compression bit set but no encoding configured"  # a flag in the frame that the headers do not go with
    r"|Decompression failed due to .*"
    r"|Error parsing '[\w:-]+' metadata.*"  # a header field of its own that is nonsense: te, grpc-timeout, something-bin
    r"|Failed parsing HTTP/2 \(.*\)"  # frames and header blocks
    r"|Illegal header (key|value): .*|Metadata keys cannot be zero length"
    r"|Unexpected <class 'UnicodeDecodeError'>: .*"  # a path that is not UTF-8; in grpcio 1.84 and 1.85 it ends the server
)


# What grpc.aio prints past its logger, when it cannot tell a client of such a path so because it has left.
PRINTED = re.compile(r'Traceback .*|  File "src/python/grpcio/grpc/_cython/.*|grpc\._cython\.cygrpc\.ExecuteBatchError: .*')


@asynccontextmanager
async def attacked() -> AsyncIterator[tuple[Luna, IO[bytes]]]:
    """Run a server that has to be as well afterwards as it was before: alive, on both doors, and without a complaint."""
    with tempfile.TemporaryFile() as log:
        async with luna(stderr=log.fileno()) as server:
            yield server, log
            assert server.process.returncode is None
            async with session(server.rest) as client, channel(server.grpc) as connection:
                answer = await client.post("/registry/v1/instances/after:h:1", json=instance_json("after:h:1"))
                assert answer.status == 201
                stub = registry_pb2_grpc.RegistryStub(connection)
                listed = await stub.ListServices(pb.ListServicesRequest(name_prefix="after"))
                assert [service.name for service in listed.services] == ["after"]
            assert await server.stop() == 0
        assert [line for line in complaints(log) if line["level"] != "none" or not PRINTED.match(line["event"])] == []


async def in_halves(server: Luna, count: int, attack: Callable[[random.Random], Awaitable[None]], abreast: int) -> list[float]:
    """Attack so many times, some of it at a time; return the memory in MB after each half, when nothing is registered any more."""
    chance = random.Random(SEED)
    held = []
    for half in (count // 2, count - count // 2):
        left = iter(range(half))

        async def attacker(left: Iterator[int] = left) -> None:
            for _ in left:
                await attack(chance)

        await asyncio.gather(*(attacker() for _ in range(abreast)))
        await forget_all(server)
        held.append(memory(server.pid) / 1e6)
    return held


async def forget_all(server: Luna) -> None:
    """Deregister everything."""
    async with channel(server.grpc) as connection:
        stub = registry_pb2_grpc.RegistryStub(connection)
        while services := (await stub.ListServices(pb.ListServicesRequest(page_size=1000))).services:
            for instance in (each for service in services for each in service.instances):
                await stub.Deregister(pb.DeregisterRequest(instance_id=instance.instance_id))


async def test_mutated_http_requests(record_property: Callable[[str, object], None]) -> None:
    """Each is answered in HTTP, or its connection is closed; no answer is a 5xx but the 503 of the documentation."""
    count = soak(2_000, 50_000)
    statuses: Counter[int] = Counter()

    async def attack(chance: random.Random) -> None:
        request = http_request(chance)
        try:
            received = answers(await ask(port, request, patience=SILENCE), to_head=b"HEAD" in request)
        except (NotHttpError, TimeoutError) as error:
            pytest.fail(f"{error!r} came of {request!r}")
        assert all(answer.status < 500 or answer.status == 503 for answer in received), (request, received)
        statuses.update(answer.status for answer in received)

    async with attacked() as (server, _):
        port = int(server.rest.rpartition(":")[2])
        memory = await in_halves(server, count, attack, 50)
    report(record_property, f"{count} HTTP requests", statuses, memory)
    assert {200, 201, 400, 401, 403, 404, 405, 413} <= set(statuses)  # they got everywhere


async def test_mutated_grpc_messages(record_property: Callable[[str, object], None]) -> None:
    """Each call ends with a status of ours, with what the core says of frames and headers, or is left without a whole message.

    An rpc of one request whose message is cut short is not answered by grpc.aio until its client leaves: that is as it is.
    """
    count = soak(2_000, 45_000)
    statuses: Counter[str] = Counter()
    idle: list[Connection] = []

    async def attack(chance: random.Random) -> None:
        call = grpc_call(chance)
        connection = idle.pop() if idle else await Connection.to(port)
        outcome = await made(connection, call)
        assert is_right(outcome), (call, outcome)
        statuses[outcome.status or ("left" if outcome.left else "reset")] += 1
        if connection.usable:
            idle.append(connection)
        else:
            connection.close()

    async with attacked() as (server, _):
        port = int(server.grpc.rpartition(":")[2])
        memory = await in_halves(server, count, attack, 20)
        for connection in idle:
            connection.close()
    report(record_property, f"{count} gRPC calls", statuses, memory)
    assert {"0", "3", "5", "8", "9", "12", "16"} <= set(statuses)


async def made(connection: Connection, call: Call) -> Outcome:
    """Make a call."""
    try:
        return await connection.call(call.headers, call.body, patience=SILENCE if call.endless else 20, endless=call.endless)
    except TimeoutError:
        pytest.fail(f"there was no end of {call}")


def is_right(outcome: Outcome) -> bool:
    """Whether a call ended as it may: no UNKNOWN, no INTERNAL of ours, not without a word."""
    if outcome.status in {"2", "13"}:
        return OF_THE_CORE.fullmatch(outcome.message) is not None
    return bool(outcome.status) or outcome.left or outcome.reset is not None or outcome.closed


async def test_mutated_http2(record_property: Callable[[str, object], None]) -> None:
    """Frames that are damaged themselves: the connection ends, or calls on it do; statuses are as above."""
    count = soak(500, 5_000)
    statuses: Counter[str] = Counter()

    async def attack(chance: random.Random) -> None:
        sent = damaged(chance, conversation(chance), times=2)
        for headers in heads(await talk(port, sent, patience=SILENCE)):
            status, message = headers.get("grpc-status", ""), headers.get("grpc-message", "")
            assert is_right(Outcome(status, message, left=True)), (sent, headers)
            statuses[status] += 1

    async with attacked() as (server, _):
        port = int(server.grpc.rpartition(":")[2])
        memory = await in_halves(server, count, attack, 50)
    report(record_property, f"{count} HTTP/2 connections", statuses, memory)
    assert {"0", "3", "16"} <= set(statuses)


def conversation(chance: random.Random) -> bytes:
    """Return all that a client sends on a connection with some calls."""
    client = h2.connection.H2Connection()
    client.initiate_connection()
    for _ in range(chance.randint(1, 3)):
        call = grpc_call(chance)
        stream = client.get_next_available_stream_id()
        client.send_headers(stream, fields(dict(call.headers)[":path"] or "/"))
        client.send_data(stream, call.body[:10_000] or framed(b""), end_stream=True)
    client.ping(b"12345678")
    return client.data_to_send()


def heads(data: bytes) -> list[dict[str, str]]:
    """Return the header blocks among the frames that came back; what cannot be read is of a connection that was damaged."""
    decoder = hpack.Decoder()
    found = []
    with suppress(HyperframeError, hpack.HPACKError):
        while len(data) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(data[:9]))
            frame.parse_body(memoryview(data[9 : 9 + length]))
            data = data[9 + length :]
            if isinstance(frame, HeadersFrame):
                found.append({str(name): str(value) for name, value in decoder.decode(frame.data)})
    return found


def report(record: Callable[[str, object], None], what: str, statuses: Counter[int] | Counter[str], memory: list[float]) -> None:
    """Keep the figures; memory that grows with the attack is a leak."""
    record(what, dict(statuses))
    print(f"\n{what} (seed {SEED}): {dict(statuses.most_common())}; memory {memory[0]:.0f} MB, then {memory[1]:.0f} MB")  # noqa: T201 - for pytest -s
    assert memory[1] < memory[0] + GROWTH
