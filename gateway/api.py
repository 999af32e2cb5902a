"""The JSON routes of `/registry/v1`, as the original Luna's clients know them. The contract is docs/api.md."""

from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import orjson
from aiohttp import HttpVersion11, hdrs, web
from multidict import CIMultiDict

from gateway import views
from luna_grpc.access import User
from luna_grpc.model import Actor, Door, check_instance_id
from luna_grpc.registry import Beat, Registry
from luna_grpc.store import Echo, Registration, Service
from luna_grpc.turns import let_others_run

SLICE: Final = 500
"""Instances written before others get their turn: some 2 ms."""
_JSON: Final = CIMultiDict({hdrs.CONTENT_TYPE: "application/json; charset=utf-8"})


class Api:
    """The handlers; each is given a request and the user behind it."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def post_instance(self, request: web.Request, user: User) -> web.Response:
        """Register an instance."""
        instance_id = _instance_id(request)
        info, status = views.read_instance(instance_id, await request.read())
        registration = await self._registry.register(info, status, actor=_actor(request, user))
        return _json(_current(registration), status=201)

    async def put_instance(self, request: web.Request, user: User) -> web.Response:
        """Renew an instance's lease, and replace what is known of it; an empty body only renews."""
        instance_id = request.match_info["instanceId"]
        body = await request.read()
        said = hash(body)
        known = self._registry.store.get(instance_id)
        if (
            known is not None
            and known.echo is not None
            and known.echo.repeated_by(said, known)
            and user.covers(instance_id, known.instance.info.name)
        ):
            self._registry.renew((known,), Door.REST)
            return _json(views.heard(known.echo.answer, known.last_heartbeat))
        beat = _beat(check_instance_id(instance_id), body)
        renewed = await self._registry.heartbeat(beat, actor=_actor(request, user))
        answer = views.all_but_last_heartbeat(renewed.instance)
        if beat.repeats(renewed.instance):  # else someone has changed it since
            renewed.echo = Echo(said, renewed.instance, answer)
        return _json(views.heard(answer, renewed.last_heartbeat))

    async def get_instance(self, request: web.Request, _: User) -> web.Response:
        """Show an instance."""
        registration = self._registry.get(_instance_id(request))
        return _json(_current(registration))

    async def delete_instance(self, request: web.Request, user: User) -> web.Response:
        """Deregister an instance."""
        await self._registry.deregister(_instance_id(request), actor=_actor(request, user))
        return web.Response(text="OK")

    async def get_services(self, request: web.Request, _: User) -> web.Response:
        """Show all services that there are at this moment, however long it takes to write them."""
        services = [(service.name, list(service.registrations)) for service in self._registry.services()]
        response = web.Response(body=_written(services), headers=_JSON)
        if request.version < HttpVersion11:  # only the end of the connection tells it that the list is over
            response.force_close()
        return response

    async def get_service(self, request: web.Request, _: User) -> web.Response:
        """Show one service."""
        service = self._registry.service(request.match_info["name"])
        return _json(views.whole(views.service(service), [_current(registration) for registration in service.registrations]))


async def _written(services: Iterable[tuple[str, list[Registration]]]) -> AsyncIterator[bytes]:
    """Write services, and let others have their turns."""
    parts: list[bytes] = []
    before, unsent = b"[", 0
    for name, registrations in services:
        instances: list[bytes] = []
        for start in range(0, len(registrations), SLICE):
            part = registrations[start : start + SLICE]
            instances += map(_current, part)
            unsent += len(part)
            if unsent >= SLICE:
                await let_others_run()
        service = Service(name, registrations, sum(each.instance.up for each in registrations))
        parts.append(before + views.whole(views.service(service), instances))
        before = b","
        if unsent >= SLICE:
            yield b"".join(parts)
            parts.clear()
            unsent = 0
    yield b"".join(parts) + (b"]\n" if before == b"," else b"[]\n")


def _current(registration: Registration) -> bytes:
    return views.instance(registration.instance, registration.last_heartbeat)


def json_response(data: Any, *, status: int = 200) -> web.Response:  # noqa: ANN401 - whatever orjson takes
    """Answer with JSON."""
    return _json(orjson.dumps(data), status=status)


def _json(body: bytes, *, status: int = 200) -> web.Response:
    return web.Response(body=body + b"\n", status=status, headers=_JSON)


def _beat(instance_id: str, body: bytes) -> Beat:
    if not body:
        return Beat(instance_id)
    info, status = views.read_instance(instance_id, body)
    return Beat(instance_id, status=status, info=info)


def _actor(request: web.Request, user: User) -> Actor:
    return Actor(user, Door.REST, request.remote or "")


def _instance_id(request: web.Request) -> str:
    return check_instance_id(request.match_info["instanceId"])
