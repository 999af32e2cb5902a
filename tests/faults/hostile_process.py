"""A peer that means no good, in a process of its own: slow connections, and as many requests as it can make.

Its arguments: the addresses of the REST and of the gRPC door, how many slow connections to keep open, how many connections and how
many calls at a time to flood it with, and for how many seconds. It prints, as JSON, how it was answered: a status and a code, and
how often.
"""

import asyncio
import json
import re
import sys
import time
from collections import Counter
from contextlib import suppress

import grpc

from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc

AUTHORIZATION = "Basic YWRtaW46"
HEAD = f"PUT /registry/v1/instances/a:h:1 HTTP/1.1\r\nHost: localhost\r\nAuthorization: {AUTHORIZATION}\r\n"
LIST = f"GET /registry/v1/services/json HTTP/1.1\r\nHost: localhost\r\nAuthorization: {AUTHORIZATION}\r\n\r\n".encode()
PUT = f"{HEAD}Content-Length: 0\r\n\r\n".encode()
IN_A_PIPE = 20
"""Requests that are sent before the first answer is waited for."""


class Peer:
    """What it does, and what it was told."""

    def __init__(self, rest: str, grpc_address: str, seconds: float) -> None:
        self.host, _, port = rest.rpartition(":")
        self.port = int(port)
        self.grpc = grpc_address
        self.until = time.monotonic() + seconds
        self.slow: Counter[str] = Counter()
        self.flood: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.until

    async def crawl(self, begin: str, drop: str) -> None:
        """Begin a request and go on with it a few bytes a second; when that is over, begin anew."""
        while self.goes_on:
            with suppress(ConnectionError):
                reader, writer = await asyncio.open_connection(self.host, self.port)
                writer.write(begin.encode())
                answer = asyncio.create_task(reader.read())
                while self.goes_on and not answer.done():
                    writer.write(drop.encode())
                    await asyncio.wait([answer], timeout=1)
                writer.close()
                if answer.done():
                    self.slow[_outcome(answer.result())] += 1
                else:
                    answer.cancel()

    async def hammer(self, request: bytes) -> None:
        """Send requests in a pipe, as fast as they are answered."""
        while self.goes_on:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection(self.host, self.port)
                while self.goes_on:
                    writer.write(request * IN_A_PIPE)
                    for _ in range(IN_A_PIPE):
                        self.flood[await _answer(reader)] += 1
                writer.close()

    async def call(self, stub: "registry_pb2_grpc.RegistryAsyncStub") -> None:
        """Call, as fast as it is answered."""
        while self.goes_on:
            try:
                await stub.Heartbeat(pb.HeartbeatRequest(instance_id="a:h:1"), metadata=(("authorization", AUTHORIZATION),))
                self.calls["OK"] += 1
            except grpc.aio.AioRpcError as error:
                self.calls[error.code().name] += 1

    async def run(self, slow: int, flooding: int, calls: int) -> None:
        """Do all of it at once."""
        async with grpc.aio.insecure_channel(self.grpc) as channel:
            stub = registry_pb2_grpc.RegistryStub(channel)
            await asyncio.gather(
                *(self.crawl(HEAD, "X-A: b\r\n") for _ in range(slow // 2)),
                *(self.crawl(f"{HEAD}Content-Length: 1000\r\n\r\n", "{") for _ in range(slow - slow // 2)),
                *(self.hammer(PUT if number % 2 else LIST) for number in range(flooding)),
                *(self.call(stub) for _ in range(calls)),
            )


async def _answer(reader: asyncio.StreamReader) -> str:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    if length:
        return _outcome(head + await reader.readexactly(int(length[1])))
    while size := int(await reader.readline(), 16):  # chunked
        await reader.readexactly(size + 2)
    await reader.readline()
    return _outcome(head)


def _outcome(answer: bytes) -> str:
    if not answer:
        return "closed"
    status = answer.split(maxsplit=2)[1].decode()
    code = re.search(rb'"code":"(\w+)"', answer)
    return f"{status} {code[1].decode()}" if code else status


async def main() -> None:
    """Do as the arguments say."""
    rest, grpc_address, slow, flooding, calls, seconds = sys.argv[1:]
    peer = Peer(rest, grpc_address, float(seconds))
    await peer.run(int(slow), int(flooding), int(calls))
    sys.stdout.write(json.dumps({"slow": peer.slow, "flood": peer.flood, "calls": peer.calls}))


if __name__ == "__main__":
    asyncio.run(main())
