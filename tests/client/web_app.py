"""The same service under two web servers: each worker is an instance of its own. Run by test_web_servers.py."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from luna_grpc.client import Registration

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


def instance_id() -> str:
    """Return an id that no other worker has."""
    return f"web:worker-{os.getpid()}:8080"


def wsgi() -> Callable[..., Iterable[bytes]]:
    """For gunicorn, whose workers call this after the fork: stopped by SIGTERM, before gunicorn ends the worker."""
    Registration(instance_id(), handle_sigterm=True).start()

    def app(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    return app


@asynccontextmanager
async def lifespan() -> AsyncIterator[None]:
    """For uvicorn: registered from the worker's start-up to its shutdown."""
    async with Registration(instance_id()):
        yield


async def asgi(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Serve as ASGI wants it, without a framework."""
    if scope["type"] != "lifespan":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})
        return
    assert (await receive())["type"] == "lifespan.startup"
    async with lifespan():
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})
