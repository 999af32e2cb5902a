"""The panel's lists: all services, and the instances of one. Pages are made on the server, and complete without JavaScript."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

from aiohttp import hdrs, web

from gateway import export, found, views
from gateway.bars import bar, last_day
from gateway.commands import Doors, commands
from gateway.found import Found, Row, Work
from gateway.haystacks import Haystacks
from gateway.lists import Body, Lists
from gateway.pages import lasting, written
from gateway.query import Pages, Query, values_for_links
from gateway.rows import PHASES, entry_row, instance_row, service_row
from gateway.search import STATES, Wanted
from luna_grpc import history
from luna_grpc.access import MAY, Action, User
from luna_grpc.journal import Entry
from luna_grpc.model import ServiceStatus
from luna_grpc.registry import Registry
from luna_grpc.store import Registration, Service

T = TypeVar("T")
_SERVICES: Final = {
    "status": [status.value for status in ServiceStatus],
    "instances": STATES,
    "sort": found.SERVICE_COLUMNS,
}
_INSTANCES: Final = {"status": STATES, "sort": found.INSTANCE_COLUMNS}
LEFT: Final = 3600 * 1000
"""Milliseconds for which an instance that has left is shown beside those that are there."""
MOST_LEFT: Final = 20
MOST_CHANGES: Final = 3000
"""Entries that are looked at for a bar: some 4 ms. A service that changes more often has a shorter bar."""
LATEST: Final = 10
"""Entries of the journal on a page that is about something else."""


class Panel:
    """The handlers; each is given a request and the user behind it."""

    def __init__(self, registry: Registry, lists: Lists, doors: Doors) -> None:
        self._registry = registry
        self._doors = doors
        self._lists = lists
        self._haystacks = Haystacks(registry)

    async def services(self, request: web.Request, user: User) -> web.Response:
        """Show all services, or those that are looked for: as a page, as JSON or as CSV."""
        query = Query(request, _SERVICES)
        wanted = Wanted.of(query["q"], state=query["instances"], status=query["status"])
        if query.format == "json" and not query.narrowed and not query["sort"]:
            return _negotiated(export.answer(request, await self._lists.services(), "json", ""))
        described = query.format == "csv" or query["sort"].endswith("description")
        async with self._lists.searching:
            slices = await self._lists.done(found.services(self._registry, self._haystacks, wanted, described=described))
            rows = await self._lists.done(
                _sorted(slices, query["sort"], found.SERVICE_COLUMNS, "status", lambda row: row.name.lower())
            )
            if query.format != "html":
                body = self._exported(query.format, slices, rows, wanted)
                return _negotiated(export.answer(request, body, query.format, "services"))
            pages = Pages(query, sum(map(len, slices)))
            cut = await self._lists.done(found.cut(rows, pages.start, pages.end))
        shown = await self._lists.done(found.rows(self._registry, cut, wanted))
        return _negotiated(await self._lists.page(self._services_page, request, user, query, pages, shown))

    async def service(self, request: web.Request, user: User) -> web.Response:
        """Show one service with its instances: as a page, as JSON or as CSV."""
        query = Query(request, _INSTANCES)
        name = request.match_info["name"]
        if query.format == "json" and not query.narrowed and not query["sort"]:
            return _negotiated(export.answer(request, await self._lists.service(name), "json", ""))
        service = self._registry.store.service(name)
        if service is None:
            return _negotiated(await self._lists.page(self._gone_page, query, name))
        wanted = Wanted.of(query["q"], state=query["status"])
        async with self._lists.searching:
            slices = await self._lists.done(found.instances(service, wanted))
            rows = await self._lists.done(_sorted(slices, query["sort"], found.INSTANCE_COLUMNS, "status", _id))
            if query.format != "html":
                body = self._instances_exported(query.format, name, slices, rows)
                return _negotiated(export.answer(request, body, query.format, "instances"))
            pages = Pages(query, sum(map(len, slices)))
            shown = await self._lists.done(found.cut(rows, pages.start, pages.end))
        return _negotiated(await self._lists.page(self._service_page, user, query, name, pages, shown))

    # As JSON and CSV

    def _exported(self, form: str, slices: list[list[Found]], rows: Iterable[Found], wanted: Wanted) -> Body:
        if form == "csv":
            return self._lists.body(sum(map(len, slices)), lambda: export.gathered(export.services_as_csv(rows)))
        count = sum(row.in_state(wanted.state) if wanted.state else row.total for part in slices for row in part)
        return self._lists.body(count, lambda: export.gathered(export.services_as_json(self._registry, rows, wanted)))

    def _instances_exported(self, form: str, name: str, slices: list[list[Registration]], rows: Iterable[Registration]) -> Body:
        service = self._registry.service(name)
        if form == "csv":
            return self._lists.body(sum(map(len, slices)), lambda: export.gathered(export.instances_as_csv(rows)))
        opening = views.opening(service)
        return self._lists.body(sum(map(len, slices)), lambda: export.gathered(export.instances_as_json(opening, rows)))

    # As pages

    def _services_page(self, request: web.Request, user: User, query: Query, pages: Pages, shown: list[Row]) -> Work[web.Response]:
        registry = self._registry
        totals = registry.store.totals()
        drained_in = found.drained_in(registry)
        drained = sum(drained_in.values())
        services_down = totals.services - totals.services_up
        down = totals.instances - totals.instances_up - drained
        filters = [
            _filter(query, "status", "UP", "Services up", totals.services_up),
            _filter(query, "status", "DOWN", "Services down", services_down)
            | {"alarm": services_down > found.wholly_drained(registry, drained_in)},
            _filter(query, "instances", "OK", "Instances up", totals.instances_up),
            _filter(query, "instances", "DOWN", "Instances down", down),
            _filter(query, "instances", "DRAINED", "Instances drained", drained),
        ]
        return written(
            "services.html",
            query=query,
            down=down,
            live=query.live,
            anything=totals.instances > 0,
            services=[service_row(row) for row in shown],
            filters=filters,
            pages=pages,
            forms=values_for_links(query),
            warming=registry.warming,
            stale=lasting(registry.stale_for * 1000) if registry.stale_for else "",
            commands=commands(request, user, self._doors),
            ttl=f"{registry.policy.ttl:g} s",
        )

    def _service_page(self, user: User, query: Query, name: str, pages: Pages, shown: list[Registration]) -> Work[web.Response]:
        service = self._registry.store.service(name)
        if service is None:  # it has left meanwhile
            return self._gone_page(query, name)
        now = self._registry.now_ms()
        total = len(service.registrations)
        drained = found.drained_in(self._registry)[name]
        down = total - service.up - drained
        return written(
            "service.html",
            **self._history(name, service, now),
            query=query,
            down=down,
            live=query.live,
            service={
                "name": name,
                "description": service.description,
                "status": service.status.value,
                "moon": PHASES[(service.up > 0) + (service.up == total)],
                "up": service.up,
                "total": total,
            },
            filters=[
                _filter(query, "status", "OK", "Up", service.up),
                _filter(query, "status", "DOWN", "Down", down),
                _filter(query, "status", "DRAINED", "Drained", drained),
            ],
            instances=[instance_row(registration, now) for registration in shown],
            may_drain=[Action.OPERATE in MAY[user.role] and user.covers(_id(each), name) for each in shown],
            pages=pages,
            forms=values_for_links(query),
        )

    def _gone_page(self, query: Query, name: str) -> Work[web.Response]:
        if query.format != "html" or not self._registry.store.journal.of_service(name):
            self._registry.service(name)  # says that there is none
        now = self._registry.now_ms()
        return written(
            "service.html",
            **self._history(name, None, now),
            query=query,
            down=0,
            live=query.live,
            service={"name": name, "description": "", "status": "GONE", "moon": "gone", "up": 0, "total": 0},
            filters=[],
            instances=[],
            may_drain=[],
            pages=Pages(query, 0),
            forms={},
        )

    def _history(self, name: str, service: Service | None, now: int) -> dict[str, Any]:
        """Return what the journal tells of a service."""
        journal = self._registry.store.journal
        all_entries = journal.of_service(name)
        entries = list(islice(reversed(all_entries), MOST_CHANGES))[::-1]
        cut_off = len(entries) < len(all_entries)
        window = last_day(now, entries[0].at if cut_off else journal.known_since)
        seen = {entry.instance_id for entry in entries}
        present = {instance_id for instance_id in seen if self._is_in(name, instance_id)}
        others = len(service.registrations) - len(present) if service else 0
        spans = history.of_service(entries, service.up if service else 0, others, window)
        left = list(_left(entries, present, now - LEFT if service else 0))
        return {
            "bar": bar(spans, window),
            "left": [entry_row(entry, now) for entry in left[:MOST_LEFT]],
            "more_left": max(0, len(left) - MOST_LEFT),
            "latest": [entry_row(entry, now) for entry in entries[: -LATEST - 1 : -1]],
        }

    def _is_in(self, name: str, instance_id: str) -> bool:
        registration = self._registry.store.get(instance_id)
        return registration is not None and registration.instance.info.name == name


def _filter(query: Query, name: str, value: str, words: str, count: int) -> dict[str, Any]:
    """Return a link that turns a filter on or off, and how many it is about."""
    return {
        "words": words,
        "count": count,
        "href": query.toggled(name, value),
        "on": query[name] == value,
        "alarm": value == "DOWN" and count > 0,
    }


def _left(entries: Sequence[Entry], present: Collection[str], since: int) -> Iterator[Entry]:
    """Yield the last entries of instances that have left, the latest first."""
    seen = set(present)
    for entry in reversed(entries):
        if entry.at < since:
            return
        if entry.instance_id not in seen:
            seen.add(entry.instance_id)
            if not entry.there:
                yield entry


def _sorted(
    slices: list[list[T]], sort: str, columns: Mapping[str, Callable[[T], Any]], default: str, name: Callable[[T], str]
) -> Work[Iterator[T]]:
    column = sort.removeprefix("-") or default
    return found.in_order(slices, columns[column], name, backwards=sort.startswith("-"))


def _negotiated(response: web.Response) -> web.Response:
    response.headers[hdrs.VARY] = "Accept"
    return response


def _id(registration: Registration) -> str:
    return registration.instance.info.instance_id
