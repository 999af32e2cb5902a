"""Load from real generators: wrk for HTTP/1.1, h2load for gRPC; and the proof that the server took what they sent."""

import asyncio
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

AUTHORIZATION: Final = "Basic YWRtaW46"
METADATA: Final = (("authorization", AUTHORIZATION),)
LUA: Final = """
-- Sends the requests of a file in turn: a path and a body a line, with a tab between.
local requests, at = {}, 0
function init(args)
    local headers = {["Authorization"] = "%(authorization)s", ["Content-Type"] = "application/json"}
    for line in io.lines("%(file)s") do
        local path, body = line:match("([^\\t]+)\\t(.*)")
        requests[#requests + 1] = wrk.format("PUT", path, headers, body)
    end
end
function request()
    at = at %% #requests + 1
    return requests[at]
end
"""


class LoadError(Exception):
    """A run that does not count: something was refused."""


def framed(messages: Sequence[bytes]) -> bytes:
    """Put messages behind each other as gRPC does on the wire."""
    return b"".join(b"\0" + len(message).to_bytes(4, "big") + message for message in messages)


async def put(port: int, requests: Sequence[tuple[str, bytes]], *, seconds: float = 5, connections: int = 32) -> float:
    """PUT by wrk, over and over; return the answers a second.

    Raises:
        LoadError: an answer was not 2xx.

    """
    with tempfile.TemporaryDirectory() as folder:
        lines, script = Path(folder) / "requests", Path(folder) / "put.lua"
        lines.write_bytes(b"".join(path.encode() + b"\t" + body + b"\n" for path, body in requests))
        script.write_text(LUA % {"authorization": AUTHORIZATION, "file": lines})
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(script), f"http://127.0.0.1:{port}/"]
        output = await _run(command)
    if "Non-2xx" in output or "Socket errors" in output:
        raise LoadError(output)
    return float(_found(r"Requests/sec:\s+([\d.]+)", output))


async def call(
    port: int,
    rpc: str,
    messages: Sequence[bytes],
    *,
    calls: int,
    connections: int = 4,
    concurrent: int = 8,
    credentials: bool = True,
    answered: int = 0,
) -> float:
    """Call an rpc by h2load with the same messages each time; return the calls a second.

    h2load counts what gRPC refuses as a success; ask the server what it took, or say how many bytes of data have to come back.

    Raises:
        LoadError: a call was not answered.

    """
    with tempfile.NamedTemporaryFile() as body:
        body.write(framed(messages))
        body.flush()
        command = [
            "h2load", f"-n{calls}", f"-c{connections}", f"-m{concurrent}", "-d", body.name, "-H", "te: trailers",
            "-H", "content-type: application/grpc", *(["-H", f"authorization: {AUTHORIZATION}"] if credentials else []),
            f"http://127.0.0.1:{port}{rpc}",
        ]  # fmt: skip
        output = await _run(command)
    if int(_found(r"(\d+) succeeded", output)) != calls:
        raise LoadError(output)
    if answered and int(_found(r"\((\d+)\) data", output)) != answered:
        raise LoadError(output)
    return float(_found(r"([\d.]+) req/s", output))


async def _run(command: list[str]) -> str:
    # On the core of this process; see __main__.
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise LoadError(output.decode())
    return output.decode()


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise LoadError(text)
    return match[1]
