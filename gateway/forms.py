"""What can be done in the panel, as forms that work without JavaScript: drain, undrain, deregister.

The rules for who may are those of the REST routes that do the same. Pages of other origins are kept out by the guard.
"""

from typing import Final
from urllib.parse import parse_qs, quote

from aiohttp import hdrs, web

from gateway.answers import empty_answer
from gateway.api import actor
from luna_grpc.access import User
from luna_grpc.drains import DEFAULT
from luna_grpc.errors import InvalidArgumentError
from luna_grpc.model import check_instance_id, shown
from luna_grpc.registry import Registry

_PREFIX: Final = "/registry/v1/"
_FORM: Final = "application/x-www-form-urlencoded"
_LONGEST: Final = 4000
"""Characters of an address to go back to."""
_MOST_FIELDS: Final = 10


class Forms:
    """The handlers; each is given a request and the user behind it."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def drain(self, request: web.Request, user: User) -> web.Response:
        """Take an instance out of service for a time."""
        instance_id, form = await _read(request)
        await self._registry.drain(instance_id, _seconds(form.get("duration", "")), actor=actor(request, user))
        return _back(instance_id, form)

    async def undrain(self, request: web.Request, user: User) -> web.Response:
        """Put an instance back into service."""
        instance_id, form = await _read(request)
        await self._registry.undrain(instance_id, actor=actor(request, user))
        return _back(instance_id, form)

    async def deregister(self, request: web.Request, user: User) -> web.Response:
        """Deregister an instance."""
        instance_id, form = await _read(request)
        await self._registry.deregister(instance_id, actor=actor(request, user))
        return _back(instance_id, form)


async def _read(request: web.Request) -> tuple[str, dict[str, str]]:
    """Return the id that a form is about, and its fields.

    Raises:
        InvalidArgumentError: the id is malformed, or the body is no form.

    """
    instance_id = check_instance_id(request.match_info["instanceId"])
    body = await request.read()
    if body and request.content_type != _FORM:
        raise InvalidArgumentError(f"the body is not a form: its Content-Type must be {_FORM}", field="body")
    if hdrs.CONTENT_ENCODING in request.headers:
        raise InvalidArgumentError("the body of a form must not be compressed", field="body")
    try:
        fields = parse_qs(body.decode("ascii"), errors="strict", max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise InvalidArgumentError("the body is not a well-formed form", field="body") from None
    return instance_id, {name: values[0] for name, values in fields.items()}


def _seconds(text: str) -> float:
    if not text:
        return DEFAULT
    try:
        return float(text)
    except ValueError:
        raise InvalidArgumentError(f"duration is {shown(text)}; it must be a number, of seconds", field="duration") from None


def _back(instance_id: str, form: dict[str, str]) -> web.Response:
    """Send the browser back to where the form stood: to a page of ours, whatever the form says."""
    back = form.get("back", "")
    ours = back.startswith(_PREFIX) and back.isascii() and back.isprintable() and " " not in back and len(back) <= _LONGEST
    return empty_answer(303, Location=back if ours else f"{_PREFIX}instances/{quote(instance_id, safe=':')}")
