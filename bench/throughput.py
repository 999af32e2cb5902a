"""How much a second: P1 to P5."""

from bench import http2, load, peers, servers
from bench.lab import SERVICE, Lab, Measure, Row, accepted
from luna_grpc.v1 import registry_pb2 as pb

MESSAGES = 200
"""In one stream of h2load, which counts finished streams only."""


def put_heartbeats(lab: Lab, port: int, ids: list[str]) -> Measure:
    """REST heartbeats for each of the ids in turn."""
    requests = [(f"/registry/v1/instances/{instance_id}", servers.as_json(instance_id)) for instance_id in ids]
    return lambda: load.put(port, requests, seconds=5 * lab.size)


def stream_heartbeats(
    lab: Lab, port: int, ids: list[str], *, size: int, messages: int = MESSAGES, streams: int, at_once: int = 0
) -> Measure:
    """Send `messages` messages on each of many streams; they name the ids in turn, `size` in each."""
    connections, concurrent = (at_once, 1) if at_once else (4, 8)
    bodies = [
        pb.StreamHeartbeatsRequest(
            instance_ids=[ids[(n * size + k) % len(ids)] for k in range(size)], sequence=n + 1
        ).SerializeToString()
        for n in range(messages)
    ]

    async def run() -> float:
        calls = max(4, int(streams * lab.size))
        rpc = SERVICE + "StreamHeartbeats"
        return size * messages * await load.call(port, rpc, bodies, calls=calls, connections=connections, concurrent=concurrent)

    return run


def _calls(lab: Lab, port: int, ids: list[str]) -> Measure:
    """Heartbeat calls for each of the ids in turn; h2load can only repeat one and the same."""
    requests = [pb.HeartbeatRequest(instance_id=instance_id).SerializeToString() for instance_id in ids]

    async def run() -> float:
        return await http2.calls(port, SERVICE + "Heartbeat", requests, count=int(20_000 * lab.size), concurrent=32)

    return run


async def p1(lab: Lab) -> list[Row]:
    """REST PUT heartbeats that carry the instance's info."""
    server, ids = await lab.filled()
    port = await lab.bare("http")
    await servers.fill(server.rest, ids[:20_000], method="PUT")  # see p5
    figure, other = await lab.in_turn(
        accepted(server, put_heartbeats(lab, server.rest, ids[:20_000])), put_heartbeats(lab, port, ids[:20_000])
    )
    return [Row("P1", "REST PUT heartbeat", figure, "/s", 0.85, "bare aiohttp", other)]


async def p2(lab: Lab) -> list[Row]:
    """Unary calls."""
    server, ids = await lab.filled()
    port = await lab.bare("grpc")
    calls = int(20_000 * lab.size)
    beat = [pb.HeartbeatRequest(instance_id=ids[0]).SerializeToString()]
    # Each takes the id over anew: the whole path, with an event.
    registration = [pb.RegisterRequest(instance=servers.instance(ids[0]), replace=True).SerializeToString()]

    def call(port: int, rpc: str, body: list[bytes]) -> Measure:
        return lambda: load.call(port, SERVICE + rpc, body, calls=calls)

    figure, other = await lab.in_turn(accepted(server, call(server.grpc, "Heartbeat", beat), calls), call(port, "Heartbeat", beat))
    registered, other_registered = await lab.in_turn(
        _registered(server, call(server.grpc, "Register", registration), calls), call(port, "Register", registration)
    )
    return [
        Row("P2", "gRPC unary Heartbeat", figure, "/s", 0.90, "bare grpc.aio", other),
        Row("P2", "gRPC unary Register", registered, "/s", 0.80, "bare grpc.aio", other_registered),
    ]


def _registered(server: servers.Server, run: Measure, registrations: int) -> Measure:
    """Let a run count only when so many generations were given out."""

    async def checked() -> float:
        before = await server.generation()
        figure = await run()
        taken = await server.generation() - before - 1
        if taken != registrations:
            raise load.LoadError(f"the server took {taken} registrations of {registrations}")
        return figure

    return checked


async def _beside(lab: Lab, server: servers.Server, ids: list[str], *, size: int, streams: int) -> list[Measure]:
    """Streams to Luna, the same to the bare server that answers each message, and as many messages to etcd."""
    sent = int(streams * lab.size)
    return [
        accepted(server, stream_heartbeats(lab, server.grpc, ids, size=size, streams=streams), sent * MESSAGES * size),
        stream_heartbeats(lab, await lab.bare("grpc"), ids, size=size, streams=streams),
        lambda: peers.etcd_keepalives(calls=sent, messages=MESSAGES),
    ]


async def p3(lab: Lab) -> list[Row]:
    """Streams with one id a message, 20 instances in turn."""
    server, ids = await lab.filled()
    reading = stream_heartbeats(lab, await lab.bare("grpc", "read-only"), ids[:20], size=1, streams=300)
    figure, other, etcd, most = await lab.in_turn(*await _beside(lab, server, ids[:20], size=1, streams=300), reading)
    work = "StreamHeartbeats, one id a message"
    return [
        Row("P3", work, figure, "messages/s", 2.0, "bare, each answered", other),
        Row("P3", work, figure, "messages/s", 2.0, "etcd keepalive", etcd),
        Row("P3", work, figure, "messages/s", 0, "bare that only reads", most),
    ]


async def p3b(lab: Lab) -> list[Row]:
    """1,000 streams that each wait for their answer."""
    server, ids = await lab.filled()
    port = await lab.bare("grpc")
    figure, other = await lab.in_turn(
        accepted(server, lambda: http2.turns(server.grpc, SERVICE + "StreamHeartbeats", _one_each(ids[:1000]), 5 * lab.size)),
        lambda: http2.turns(port, SERVICE + "StreamHeartbeats", _one_each(ids[:1000]), 5 * lab.size),
    )
    return [Row("P3b", "1,000 streams, each answered", figure, "messages/s", 0.9, "bare, each answered", other)]


def _one_each(ids: list[str]) -> list[bytes]:
    return [pb.StreamHeartbeatsRequest(instance_ids=[instance_id], sequence=1).SerializeToString() for instance_id in ids]


async def p4(lab: Lab) -> list[Row]:
    """Streams with 100 ids a message, 1,000 instances in turn."""
    server, ids = await lab.filled()
    figure, other, etcd = await lab.in_turn(*await _beside(lab, server, ids[:1000], size=100, streams=60))
    work = "StreamHeartbeats, 100 ids a message"
    return [
        Row("P4", work, figure, "ids/s", 0.6, "bare, each answered", other),
        Row("P4", work, figure, "ids/s", 30, "etcd keepalive", etcd),
    ]


async def p5(lab: Lab) -> list[Row]:
    """P1 to P4 over all ids, shuffled: what 100 times as many instances cost, beside what they cost a server with only a dict."""
    few, many = 1000, lab.instances
    luna = {count: (await lab.filled(count))[0] for count in (few, many)}
    bare = {count: {name: await lab.bare(name, "remember") for name in ("http", "grpc")} for count in (few, many)}
    ids = {count: (await lab.filled(count))[1] for count in (few, many)}
    for count in (few, many):  # the first heartbeat after a registration is remembered for the others
        await servers.fill(luna[count].rest, ids[count], method="PUT")

    def measures(count: int, rest: int, grpc: int) -> list[tuple[str, Measure]]:
        return [
            ("P1, PUT", put_heartbeats(lab, rest, ids[count])),
            ("P2, Heartbeat", _calls(lab, grpc, ids[count])),
            ("P3, one id a message", stream_heartbeats(lab, grpc, ids[count], size=1, messages=20_000, streams=8)),
            # One stream after the other, as no one binds all ids on many streams; ten times each id, as the first time it is bound.
            ("P4, 100 ids a message", stream_heartbeats(lab, grpc, ids[count], size=100, messages=10_000, streams=4, at_once=1)),
        ]

    rows = []
    ours = {count: measures(count, luna[count].rest, luna[count].grpc) for count in (few, many)}
    theirs = {count: measures(count, bare[count]["http"], bare[count]["grpc"]) for count in (few, many)}
    for n, (name, _) in enumerate(ours[few]):
        ours_few, ours_many, bare_few, bare_many = await lab.in_turn(
            accepted(luna[few], ours[few][n][1]), accepted(luna[many], ours[many][n][1]), theirs[few][n][1], theirs[many][n][1]
        )
        work = f"{many:,} instances over {few:,}: {name}"
        rows.append(Row("P5", work, ours_many / ours_few, "×", 0.9, "bare with a dict", bare_many / bare_few))
    return rows
