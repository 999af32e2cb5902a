"""The JSON routes of `/registry/v1`, as the original Luna's clients know them. The contract is docs/api.md."""

from typing import Any, Final

import orjson
from aiohttp import web

from gateway import views
from gateway.keys import REGISTRY, actor
from luna_grpc.model import check_instance_id
from luna_grpc.registry import Beat

_JSON: Final = {"Content-Type": "application/json; charset=utf-8"}


async def post_instance(request: web.Request) -> web.Response:
    """Register an instance."""
    instance_id = _instance_id(request)
    info, status = views.read_instance(instance_id, await request.read())
    registration = await request.app[REGISTRY].register(info, status, actor=actor(request))
    return json_response(views.instance(registration), status=201)


async def put_instance(request: web.Request) -> web.Response:
    """Renew an instance's lease, and replace what is known of it; an empty body only renews."""
    registry = request.app[REGISTRY]
    instance_id = request.match_info["instanceId"]
    body = await request.read()
    registration = registry.store.get(instance_id)
    known = registration.instance.info if registration is not None else None
    if known is None:
        check_instance_id(instance_id)
    beat = Beat(instance_id)
    if body:
        info, status = views.read_instance(instance_id, body, known)
        beat = Beat(instance_id, status=status, info=info)
    return json_response(views.instance(await registry.heartbeat(beat, actor=actor(request))))


async def get_instance(request: web.Request) -> web.Response:
    """Show an instance."""
    return json_response(views.instance(request.app[REGISTRY].get(_instance_id(request))))


async def delete_instance(request: web.Request) -> web.Response:
    """Deregister an instance."""
    await request.app[REGISTRY].deregister(_instance_id(request), actor=actor(request))
    return web.Response(text="OK")


async def get_services(request: web.Request) -> web.Response:
    """Show all services."""
    return json_response([views.service(service) for service in request.app[REGISTRY].services()])


async def get_service(request: web.Request) -> web.Response:
    """Show one service."""
    return json_response(views.service(request.app[REGISTRY].service(request.match_info["name"])))


def json_response(data: Any, *, status: int = 200) -> web.Response:  # noqa: ANN401 - whatever orjson takes
    """Answer with JSON."""
    return web.Response(body=orjson.dumps(data, option=orjson.OPT_APPEND_NEWLINE), status=status, headers=_JSON)


def _instance_id(request: web.Request) -> str:
    return check_instance_id(request.match_info["instanceId"])
