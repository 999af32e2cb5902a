"""The page of one instance: how it is and why, what it says of itself, what happened to it, and what can be done about it."""

from typing import Any, Final

from aiohttp import hdrs, web

from gateway.bars import bar, last_day
from gateway.commands import Doors, commands
from gateway.found import Work, down
from gateway.lists import Handler, Lists
from gateway.pages import ago, lasting, written
from gateway.query import Query
from gateway.rows import entry_row, instance_row, when, why
from luna_grpc import history
from luna_grpc.access import MAY, Action, User
from luna_grpc.errors import NotFoundError
from luna_grpc.journal import Entry, Kind
from luna_grpc.model import Instance, check_instance_id
from luna_grpc.registry import Registry
from luna_grpc.store import Registration

LATEST: Final = 25
"""The most changes that the page shows."""


class InstancePage:
    """The handler; it is given a request and the user behind it."""

    def __init__(self, registry: Registry, lists: Lists, doors: Doors, as_json: Handler) -> None:
        self._registry = registry
        self._doors = doors
        self._lists = lists
        self._as_json = as_json

    async def show(self, request: web.Request, user: User) -> web.Response:
        """Show one instance, also one that has left: as a page to whoever asks for a page by name, to all others as JSON."""
        query = Query(request, {})
        if query.format != "html" or "text/html" not in request.headers.get(hdrs.ACCEPT, "").lower():
            response = await self._as_json(request, user)
        else:
            response = await self._lists.page(self._page, request, user, query)
        response.headers[hdrs.VARY] = "Accept"
        return response

    def _page(self, request: web.Request, user: User, query: Query) -> Work[web.Response]:
        instance_id = check_instance_id(request.match_info["instanceId"])
        registration = self._registry.store.get(instance_id)
        last = self._registry.store.journal.last_of(instance_id)
        if registration is None and last is None:
            raise NotFoundError(f"{instance_id} is not registered, and nothing is known of it")
        name = registration.instance.info.name if registration else last.service if last else ""
        shown = self._present(registration) if registration else self._gone(last)
        covered = user.covers(instance_id, name)
        return written(
            "instance.html",
            **self._history(instance_id, name, registration),
            **shown,
            id=instance_id,
            service=name,
            query=query,
            live=query.live,
            down=down(self._registry),
            commands=commands(request, user, self._doors),
            may_drain=covered and Action.OPERATE in MAY[user.role],
            may_deregister=covered and Action.CHANGE in MAY[user.role],
        )

    def _present(self, registration: Registration) -> dict[str, Any]:
        registry = self._registry
        now = registry.now_ms()
        row = instance_row(registration, now)
        left = registry.time_left(registration)
        return {
            "instance": row,
            "gone": None,
            "why": why(registration),
            "drain": self._drain(registration, now),
            "generation": registration.instance.generation,
            "lease": {"live": registration.live, "left": lasting(left * 1000), "held": registry.held and registration.live},
        }

    def _drain(self, registration: Registration, now: int) -> str:
        """Say who drained it and when, as far as that is known."""
        instance = registration.instance
        if instance.drained_until is None:
            return ""
        entries = self._registry.store.journal.of_instance(instance.info.instance_id, instance.info.name)
        drained = next((entry for entry in reversed(entries) if entry.kind is Kind.DRAINED), None)
        return f"{drained.user or 'someone'} {ago(now - drained.at)} ago" if drained else "an operator"

    def _gone(self, last: Entry | None) -> dict[str, Any]:
        assert last is not None  # noqa: S101 - who is not there and has no entry has no page
        now = self._registry.now_ms()
        until = self._registry.store.drains().get(last.instance_id)
        return {
            "instance": None,
            "gone": entry_row(last, now) | {"drained_until": None if until is None else when(until, now)},
            "why": "",
            "drain": "",
            "generation": 0,
            "lease": None,
        }

    def _history(self, instance_id: str, name: str, registration: Registration | None) -> dict[str, Any]:
        journal = self._registry.store.journal
        now = self._registry.now_ms()
        entries = journal.of_instance(instance_id, name)
        window = last_day(now, journal.known_since)
        instance: Instance | None = registration.instance if registration else None
        spans = history.of_instance(entries, instance, window)
        return {
            "bar": bar(spans, window),
            "latest": [entry_row(entry, now) for entry in entries[: -LATEST - 1 : -1]],
            "more": max(0, len(entries) - LATEST),
        }
