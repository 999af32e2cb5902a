"""What the application keeps for its handlers, and what a request carries for them."""

from typing import Final

from aiohttp import web

from luna_grpc.model import Actor, Door
from luna_grpc.registry import Registry

REGISTRY: Final = web.AppKey("registry", Registry)
USER: Final = web.RequestKey("user", str)


def actor(request: web.Request) -> Actor:
    """Return who is behind a request."""
    return Actor(request[USER], Door.REST, request.remote or "")
