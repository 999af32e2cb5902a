"""The JSON routes of `/registry/v1`, as the original Luna's clients know them. The contract is docs/api.md."""

from aiohttp import hdrs, web

from gateway import views
from gateway.answers import JSON, empty_answer, text_answer, written_json
from gateway.body import decoded
from gateway.lists import Lists, sent
from luna_grpc.access import User
from luna_grpc.model import Actor, Door, check_instance_id
from luna_grpc.registry import Beat, Registry
from luna_grpc.store import Echo, Registration


class Api:
    """The handlers; each is given a request and the user behind it."""

    def __init__(self, registry: Registry, lists: Lists, max_body: int) -> None:
        self._registry = registry
        self._lists = lists
        self._max_body = max_body

    async def post_instance(self, request: web.Request, user: User) -> web.Response:
        """Register an instance."""
        instance_id = _instance_id(request)
        body = await request.read()
        if hdrs.CONTENT_ENCODING in request.headers:
            body = self._decoded(request, body)
        info, status = views.read_instance(instance_id, body)
        registration = await self._registry.register(info, status, actor=actor(request, user))
        return written_json(_current(registration), status=201)

    async def put_instance(self, request: web.Request, user: User) -> web.Response:
        """Renew an instance's lease, and replace what is known of it; an empty body only renews."""
        instance_id = request.match_info["instanceId"]
        body = await request.read()
        if hdrs.CONTENT_ENCODING in request.headers:
            body = self._decoded(request, body)
        said = hash(body)
        known = self._registry.store.get(instance_id)
        if (
            known is not None
            and known.echo is not None
            and known.echo.repeated_by(said, known)
            and user.covers(instance_id, known.instance.info.name)
        ):
            self._registry.renew((known,), Door.REST)
            return written_json(views.heard(known.echo.answer, known.last_heartbeat))
        beat = _beat(check_instance_id(instance_id), body)
        renewed = await self._registry.heartbeat(beat, actor=actor(request, user))
        answer = views.all_but_last_heartbeat(renewed.instance)
        if beat.repeats(renewed.instance):  # else someone has changed it since
            renewed.echo = Echo(said, renewed.instance, answer)
        return written_json(views.heard(answer, renewed.last_heartbeat))

    async def get_instance(self, request: web.Request, _: User) -> web.Response:
        """Show an instance."""
        registration = self._registry.get(_instance_id(request))
        return written_json(_current(registration))

    async def delete_instance(self, request: web.Request, user: User) -> web.Response:
        """Deregister an instance."""
        await self._registry.deregister(_instance_id(request), actor=actor(request, user))
        return text_answer("OK")

    async def drain_instance(self, request: web.Request, user: User) -> web.Response:
        """Take an instance out of service for a time."""
        body = await request.read()
        if hdrs.CONTENT_ENCODING in request.headers:
            body = self._decoded(request, body)
        registration = await self._registry.drain(_instance_id(request), views.read_drain(body), actor=actor(request, user))
        return written_json(_current(registration))

    async def undrain_instance(self, request: web.Request, user: User) -> web.Response:
        """Put an instance back into service."""
        registration = await self._registry.undrain(_instance_id(request), actor=actor(request, user))
        return empty_answer(204) if registration is None else written_json(_current(registration))

    async def get_services(self, request: web.Request, _: User) -> web.Response:
        """Show all services that there are at this moment, however long it takes to write them."""
        return sent(request, await self._lists.services(), JSON)

    def _decoded(self, request: web.Request, body: bytes) -> bytes:
        return decoded(body, request.headers[hdrs.CONTENT_ENCODING], self._max_body)


def _current(registration: Registration) -> bytes:
    return views.instance(registration.instance, registration.last_heartbeat)


def _beat(instance_id: str, body: bytes) -> Beat:
    if not body:
        return Beat(instance_id)
    info, status = views.read_instance(instance_id, body)
    return Beat(instance_id, status=status, info=info)


def actor(request: web.Request, user: User) -> Actor:
    """Return who causes a change."""
    host, port, *_ = request.get_extra_info("peername") or ("", 0)
    return Actor(user, Door.REST, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def _instance_id(request: web.Request) -> str:
    return check_instance_id(request.match_info["instanceId"])
