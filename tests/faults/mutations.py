"""Requests that are nearly right: made from good ones, with the mistakes that clients, proxies and attackers make."""

import gzip
import json
import random
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from raw_grpc import fields, framed

from luna_grpc.v1 import registry_pb2 as pb
from support import basic, instance_json

IDS = ["a:h:1", "a:h:2", "orders:localhost:8080", "s6:[::1]:80"]
TELLING = [
    b"\0", b"\r\n", b"\n", b"\r\n\r\n", b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"%00", b"%ff", b" ", b":", b",", b"\x7f" * 9,
    b"\xff" * 10,
]  # fmt: skip
"""Bytes that parsers stumble over."""
Chance = random.Random


def damaged(chance: Chance, data: bytes, *, times: int = 3) -> bytes:
    """Flip, cut, repeat, insert and exchange bytes, up to so many times."""
    for _ in range(chance.randint(1, times)):
        at = chance.randint(0, len(data))
        until = min(len(data), at + chance.choice([1, 1, 2, 4, 16, 1000]))
        match chance.randrange(7):
            case 0 if at < len(data):
                data = data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
            case 1:
                data = data[:at]
            case 2:
                data = data[:at] + data[until:]
            case 3:
                data = data[:at] + data[at:until] * chance.choice([2, 3, 50]) + data[until:]
            case 4:
                data = data[:at] + chance.randbytes(chance.choice([1, 2, 8, 100])) + data[at:]
            case 5:
                data = data[:at] + chance.choice(TELLING) + data[at:]
            case _:
                data = data[:at] + chance.choice(TELLING) + data[until:]
    return data


# gRPC


class Call(NamedTuple):
    """One call, as bytes."""

    headers: list[tuple[str, str]]
    body: bytes
    endless: bool
    """Whether there may be no end to wait for: an answer that goes on, or a request without a whole message; see the test."""


REGISTRY = "/luna.registry.v1.Registry/"
INSTANCE = pb.Instance(
    instance_id="a:h:1", name="a", description="Takes orders", version="1", url="http://h:1/", status=pb.STATUS_OK,
    balancer_options=pb.BalancerOptions(weight=3), metadata={"zone": "eu"},
)  # fmt: skip
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
REQUESTS: dict[str, list[Message]] = {
    REGISTRY + "Register": [pb.RegisterRequest(instance=INSTANCE, replace=True, owner="one")],
    REGISTRY + "Heartbeat": [
        pb.HeartbeatRequest(instance_id="a:h:1", status=pb.STATUS_DOWN, instance=INSTANCE, generation=1),
        pb.HeartbeatRequest(instance_id="a:h:1", instance=INSTANCE),
    ],
    REGISTRY + "Deregister": [pb.DeregisterRequest(instance_id="a:h:2", generation=1), pb.DeregisterRequest(instance_id="a:h:1")],
    REGISTRY + "GetInstance": [pb.GetInstanceRequest(instance_id="a:h:1")],
    REGISTRY + "ListServices": [
        pb.ListServicesRequest(page_size=3, page_token="YQphOmg6MQ==", name_prefix="a", status=pb.SERVICE_STATUS_UP)
    ],
    REGISTRY + "WatchServices": [pb.WatchServicesRequest(names=["a", "b"], resume_token="0123456789abcdef-1-all")],
    REGISTRY + "StreamHeartbeats": [
        pb.StreamHeartbeatsRequest(options=pb.StreamOptions(on_disconnect=pb.ON_DISCONNECT_MARK_DOWN), sequence=1),
        pb.StreamHeartbeatsRequest(instance_ids=IDS, heartbeats=[pb.HeartbeatRequest(instance_id="a:h:1", instance=INSTANCE)]),
    ],
    "/grpc.health.v1.Health/Check": [health_pb2.HealthCheckRequest(service="luna.registry.v1.Registry")],
    "/grpc.health.v1.Health/Watch": [health_pb2.HealthCheckRequest(service="luna.registry.v1.Registry")],
    REFLECTION: [
        reflection_pb2.ServerReflectionRequest(host="x", list_services="*"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="luna.registry.v1.Registry"),
        reflection_pb2.ServerReflectionRequest(
            file_containing_extension=reflection_pb2.ExtensionRequest(containing_type="luna.registry.v1.Lease", extension_number=3)
        ),
        reflection_pb2.ServerReflectionRequest(all_extension_numbers_of_type="luna.registry.v1.Instance"),
        reflection_pb2.ServerReflectionRequest(file_by_filename="luna/registry/v1/registry.proto"),
    ],
}
MESSAGES = {path: [request.SerializeToString() for request in requests] for path, requests in REQUESTS.items()}
BOMB = gzip.compress(bytes(5_000_000))
STREAMS = {REGISTRY + "StreamHeartbeats", REFLECTION}
ENDLESS = {REGISTRY + "WatchServices", "/grpc.health.v1.Health/Watch"}
# What a client says beside its message; the second of each pair is as likely to be nonsense.
FURTHER: list[tuple[str, Sequence[str]]] = [
    ("grpc-encoding", ["gzip", "deflate", "identity", "nosuch", ""]),
    ("grpc-accept-encoding", ["gzip", "nosuch,,"]),
    ("grpc-timeout", ["1S", "100m", "1n", "0S", "x", "99999999999H", "-1S"]),
    ("content-type", ["application/grpc+proto", "application/json", ""]),
    ("te", ["", "chunked"]),
    ("authorization", ["", "Basic", "Basic !!!", basic("root"), "Basic " + "A" * 5000, "B\u00e4sic"]),
    ("user-agent", ["", "x" * 3000]),
    ("x-bin", ["AAAA", "!!!"]),
    ("grpc-tags-bin", ["AAAA"]),
    ("grpc-previous-rpc-attempts", ["1", "x"]),
    ("x-long", ["y" * 7000, "y" * 9000, "y" * 20000]),
    (":authority", ["", "evil.example", "[::1", "x" * 300]),
    (":scheme", ["https", "", "ftp"]),
]


def grpc_call(chance: Chance) -> Call:
    """Return a call with some mistakes: in a message, in the frame around it, in the header fields."""
    path, messages = chance.choice(list(MESSAGES.items()))
    body = b""
    for message in chance.choices(messages, k=chance.randint(0, 4) if path in STREAMS else 1):
        body += _frame(chance, damaged(chance, message) if chance.random() < 0.7 else message)
    if chance.random() < 0.1:
        body = damaged(chance, body)
    further = []
    if chance.random() < 0.2:
        name, values = chance.choice(FURTHER)
        further.append((name, chance.choice(values)))
    asked = path
    if chance.random() < 0.03:
        asked = chance.choice(
            [path + "x", path[1:], "/", "//", path.swapcase(), "/" + "x" * 500, path + "?x=1", "*", path + "\u00e4"]
        )
    endless = path in ENDLESS or (path not in STREAMS and not _whole(body))
    return Call(fields(asked, *further), body, endless)


def _frame(chance: Chance, message: bytes) -> bytes:
    """Frame a message, most likely as it has to be."""
    if chance.random() < 0.8:
        return framed(message)
    packed = gzip.compress(message)
    return chance.choice([
        framed(message, flag=chance.choice([1, 2, 128, 255])),
        framed(message, length=max(0, len(message) + chance.choice([-1, 1, -5, 5, 1000]))),
        framed(message, length=chance.choice([0, 2**22, 2**22 + 1, 2**31 - 1, 2**31, 2**32 - 1])),
        framed(damaged(chance, packed), flag=1),
        framed(message)[: chance.randint(0, len(message) + 4)],
        framed(BOMB, flag=1),
    ])  # fmt: skip


def _whole(body: bytes) -> bool:
    """Whether a body begins with a whole message. gRPC's core now and then says nothing to one with a flag that nobody knows."""
    return len(body) >= 5 and body[0] <= 1 and len(body) - 5 >= int.from_bytes(body[1:5], "big")


# HTTP


def http_request(chance: Chance) -> bytes:
    """Return what is sent on one connection."""
    kind = chance.random()
    if kind < 0.03:
        return chance.choice(FOREIGN)
    data = b"".join(_request(chance, last=False) for _ in range(chance.choice([0, 0, 0, 0, 1, 2]))) + _request(chance, last=True)
    return damaged(chance, data) if kind < 0.25 else data


FOREIGN = [
    b"",
    b"\r\n" * 50,
    bytes(1000),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"),
    # A TLS ClientHello, as far as it matters: the record, the handshake, version 1.2, a random, no session, one cipher.
    bytes.fromhex("16030100310100002d0303") + bytes(32) + bytes.fromhex("00000213010100000500000001"),
    b"GET /\r\n\r\n",
    b"GET / HTTP/1.1\n\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"x" * 100_000,
    b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 1000 + b"\r\n",
    b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
    b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
]
PREFIX = "/registry/v1/"
TARGETS = [
    *(f"{PREFIX}instances/{each}" for each in IDS),
    PREFIX + "services", PREFIX + "services/", PREFIX + "services/json", PREFIX + "services/a", PREFIX + "services/?page=2",
    PREFIX + "static/luna.css", PREFIX + "openapi.json", PREFIX + "docs", "/metrics", "/", "/livez", "/readyz?verbose",
    "/nowhere", "/registry/", PREFIX + "services/B%C3%BCcher",
]  # fmt: skip
ODD_TARGETS = [
    "http://localhost/registry/v1/services/json", "http://evil.example/", "//evil.example/", "*", "localhost:80", "", "?", "#",
    "/?%ff=%00", "http://[::1/",
    PREFIX + "instances/%00", PREFIX + "instances/a%3Ah%3A1", PREFIX + "instances/a:h:1/", PREFIX + "instances/%ff%fe:h:1",
    PREFIX + "instances/../../x", PREFIX + "services/%2e%2e/%2e%2e/x", PREFIX + "services/%C3%28", PREFIX + "services/%", "/%",
    PREFIX + "services/\u00e4", PREFIX + "services/" + "x" * 9000, PREFIX + "services/%ed%a0%80", "/registry/%0d%0aX: y/",
    "/\x80\xff",
    "http://localhost:99999/livez", "http://localhost:x/livez", "ftp://a/", "/registry/v1/services;x", "/a b",
    PREFIX + "services/?page=99999999999999", PREFIX + "services/?page=%C2%B2", PREFIX + "static/../guard.py",
    "/registry/v1//services",
]  # fmt: skip
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get", "PROPFIND", "X", "", "G\u00cbT"]
VERSIONS = ["HTTP/1.0", "HTTP/1.1", "HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "HTTP/1.", "HTTP/9", "http/1.1", "", "HTTP/1.1 "]
HEADERS: list[tuple[str, Sequence[str]]] = [
    ("Host", ["evil.example", "", "[::1", "localhost:x", "\xff", "a, b", "localhost\t", "x" * 9000]),
    ("Origin", ["null", "http://evil.example", "", "\xff"]),
    ("Authorization", ["", "Basic", "Basic \xff", "Basic " + "A" * 9000, basic("root"), "Bearer x", "Negotiate"]),
    ("Accept", ["text/html", "application/json", "*/*;q=x", "text/html;q=nan, application/json;q=inf", "\xff", ",;,;="]),
    ("Accept-Encoding", ["gzip, br", "\xff"]),
    ("Content-Type", ["application/json; charset=\xff", "multipart/form-data; boundary=x", "text/x;;", "a" * 1000]),
    ("Content-Encoding", ["gzip", "deflate", "br", "zstd", "nosuch", "gzip, gzip", ""]),
    ("Content-Length", ["0", "1", "5", "-1", "+5", "0x5", "5, 5", "5, 6", "", " 5", "1e3", "9" * 20, "100000", "102401"]),
    ("Transfer-Encoding", ["chunked", "gzip, chunked", "chunked, chunked", "x", "identity", "", "Chunked", "chunked, identity"]),
    ("Expect", ["100-continue", "x", ""]),
    ("Upgrade", ["h2c", "websocket", "HTTP/2.0"]),
    ("Connection", ["upgrade", "keep-alive", "close, upgrade", "x", "Host", ""]),
    ("Sec-WebSocket-Key", ["AAAAAAAAAAAAAAAAAAAAAA=="]),
    ("Range", ["bytes=0-1", "bytes=-", "x"]),
    ("If-None-Match", ["*", '"x"', "x"]),
    ("If-Modified-Since", ["x", "Thu, 01 Jan 1970 00:00:00 GMT", "Thu, 99 Jan 99999 00:00:00 GMT"]),
    ("Cookie", ["a=b", "=", "\xff;;", "a" * 5000]),
    ("Access-Control-Request-Method", ["PUT", "\xff"]),
    ("X-Forwarded-For", ["1.2.3.4, \xff"]),
    ("Keep-Alive", ["timeout=x"]),
    ("", ["x"]),
    ("X Y", ["x"]),
    ("X\0", ["x"]),
    ("Folded", ["a\r\n b", "a\r\n\tb", "a\n b", "a\rb"]),
]  # fmt: skip


def _request(chance: Chance, *, last: bool) -> bytes:
    """Return a request of the API, most likely with one thing wrong in its line, its headers or its body."""
    method = chance.choice(["GET", "POST", "POST", "PUT", "PUT", "DELETE", "HEAD"] if chance.random() < 0.9 else METHODS)
    instances = TARGETS[: len(IDS)]
    target = (
        chance.choice(instances if method in {"POST", "PUT"} else TARGETS) if chance.random() < 0.85 else chance.choice(ODD_TARGETS)
    )
    version = "HTTP/1.1" if chance.random() < 0.9 else chance.choice(VERSIONS)
    headers = [("Host", "localhost"), ("Authorization", basic()), ("Connection", "close" if last else "keep-alive")]
    body = _body(chance, target) if method in {"POST", "PUT"} or chance.random() < 0.1 else b""
    framing, body = _framing(chance, body)
    headers += framing
    for _ in range(chance.choice([0, 0, 0, 0, 0, 1, 1, 2])):
        name, values = chance.choice(HEADERS)
        if chance.random() < 0.5:
            headers = [each for each in headers if each[0] != name]
        headers.insert(chance.randint(0, len(headers)), (name, chance.choice(values)))
    if chance.random() < 0.02:
        headers += [(f"X-{number}", "y" * 50) for number in range(chance.choice([100, 300]))]
    head = f"{method} {target} {version}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
    return head.encode("utf-8" if chance.random() < 0.5 else "latin-1", "replace") + body


def _body(chance: Chance, target: str) -> bytes:
    said = instance_json(
        target.rpartition("/")[2] if ":" in target else chance.choice(IDS), name="a", balancerOptions={"weight": 3}
    )
    if chance.random() < 0.5:
        wrong: list[Any] = [
            None,
            5,
            2**70,
            1.5,
            True,
            [],
            {},
            {"weight": 0},
            {"weight": 2**70},
            {"a": "b"},
            "",
            "\0",
            "x" * 2000,
            "\u202e",
        ]
        said[chance.choice([*said, "metadata", "unknown"])] = chance.choice(wrong)
    body = json.dumps(said, ensure_ascii=chance.random() < 0.5).encode()
    match chance.randrange(12):
        case 0 | 5 | 6:
            return damaged(chance, body)
        case 1:
            return body.ljust(chance.choice([100 * 1024, 100 * 1024 + 1, 200 * 1024]))
        case 2:
            return chance.choice([b"", b"[" * 90_000, b'{"a":' * 20_000, b"null", b"\xef\xbb\xbf" + body, b"1" * 90_000])
        case 3:
            return gzip.compress(body) if chance.random() < 0.5 else zlib.compress(body)
        case _:
            return body


def _framing(chance: Chance, body: bytes) -> tuple[list[tuple[str, str]], bytes]:
    """Say how long a body is, one way or the other; now and then that is a lie."""
    if chance.random() < 0.75:
        return [("Content-Length", str(len(body)))] if body or chance.random() < 0.5 else [], body
    if chance.random() < 0.2:
        return [("Content-Length", str(max(0, len(body) + chance.choice([-1, 1, -20, 20, 10**6]))))], body
    return [("Transfer-Encoding", "chunked")], _chunked(chance, body)


def _chunked(chance: Chance, body: bytes) -> bytes:
    size = chance.choice([1, 7, 1000, 100_000]) if len(body) < 2000 else 100_000
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    sizes: list[Callable[[int], str]] = [lambda n: f"{n:x}", lambda n: f"{n:X};x=y", lambda n: f"{n:08x}"]
    bad: list[Callable[[int], str]] = [
        lambda n: f"-{n:x}", lambda n: f"{n + 1:x}", lambda n: f"{n:x} ", lambda _: "", lambda _: "f" * 17, lambda _: "xyz",
        lambda n: f"{n:x};" + "y" * 5000, lambda n: f"0x{n:x}", lambda _: "0",
    ]  # fmt: skip
    written = [f"{chance.choice(sizes)(len(chunk))}\r\n".encode() + chunk + b"\r\n" for chunk in chunks]
    if written and chance.random() < 0.4:
        at = chance.randrange(len(chunks))
        written[at] = (
            f"{chance.choice(bad)(len(chunks[at]))}\r\n".encode() + chunks[at] + chance.choice([b"\r\n", b"\n", b"", b"x"])
        )
    end = chance.choice([b"0\r\n\r\n"] * 5 + [b"", b"0\r\n", b"0\r\nX: y\r\n\r\n", b"0\r\nX\r\n\r\n", b"00\r\n\r\n", b"0\n\n"])
    return b"".join(written) + end
