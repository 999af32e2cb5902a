"""Commands to copy into a shell, for the very server that is asked and the very user who asks."""

import shlex
from typing import Any
from urllib.parse import quote

from aiohttp import hdrs, web

from luna_grpc.access import User


class Doors:
    """Where a server is asked, apart from where the request in hand came in."""

    grpc_port = 50051
    """Set when the port is known."""


def commands(request: web.Request, user: User, doors: Doors) -> dict[str, Any]:
    """Return what commands need: the options of curl and grpcurl and where they ask, quoted for the reader's shell."""
    host = request.headers.get("Host", "localhost:4000")
    credentials = shlex.quote(f"{user.name}:")
    signed_in = hdrs.AUTHORIZATION in request.headers
    certified = bool(request.get_extra_info("peercert"))
    curl = [f"-u {credentials}"] * signed_in + ["--cert client.pem --key client.key"] * certified
    grpcurl = (
        ["-plaintext"] * (not request.secure)
        + ["-cert client.pem -key client.key"] * certified
        + [f'-H "authorization: Basic $(printf %s {credentials} | base64 | tr -d "\\n")"'] * signed_in
    )
    # A certificate is for the name that the reader used.
    named = host if host.endswith("]") or ":" not in host else host.rpartition(":")[0]
    grpc_host = named if request.secure else "127.0.0.1"
    return {
        "user": user.name if signed_in else "",
        "curl": " ".join(curl),
        "grpcurl": " ".join(grpcurl),
        "instance": lambda instance_id: shlex.quote(f"{request.scheme}://{host}/registry/v1/instances/{quote(instance_id, ':')}"),
        "grpc": shlex.quote(f"{grpc_host}:{doors.grpc_port}"),
        "tls": request.secure,
        "certified": certified,
    }
