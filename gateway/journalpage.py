"""The journal as people see it: what happened of late, why, and who did it."""

from typing import Final

from aiohttp import hdrs, web

from gateway import export
from gateway.found import SLICE, Work, down
from gateway.lists import Lists
from gateway.pages import written
from gateway.query import Pages, Query, values_for_links
from gateway.rows import entry_row, when
from luna_grpc.access import User
from luna_grpc.journal import CAPACITY, Entry, Kind
from luna_grpc.registry import Registry

_CHOICES: Final = {"kind": [kind.value for kind in Kind]}


class JournalPage:
    """The handler; it is given a request and the user behind it."""

    def __init__(self, registry: Registry, lists: Lists) -> None:
        self._registry = registry
        self._lists = lists

    async def show(self, request: web.Request, _: User) -> web.Response:
        """Show the latest changes, or those that are looked for: as a page, as JSON or as CSV."""
        query = Query(request, _CHOICES, names=("service", "instance"))
        async with self._lists.searching:
            entries = await self._lists.done(self._wanted(query))
        if query.format == "html":
            response = await self._lists.page(self._page, query, entries)
        else:
            write = export.entries_as_json if query.format == "json" else export.entries_as_csv
            body = self._lists.body(len(entries), lambda: export.gathered(write(entries)))
            response = export.answer(request, body, query.format, "journal")
        response.headers[hdrs.VARY] = "Accept"
        return response

    def _wanted(self, query: Query) -> Work[list[Entry]]:
        """Return the entries that are looked for, the latest first."""
        noted, found = list(self._registry.store.journal.latest()), list[Entry]()
        words, kind, of = query["q"].lower().split(), query["kind"], (query["service"], query["instance"])
        if not words and not kind and not any(of):
            return noted
        for start in range(0, len(noted), SLICE):
            part = (entry for entry in noted[start : start + SLICE] if (not kind or entry.kind == kind) and _is_of(entry, *of))
            found += (entry for entry in part if _holds(entry, words))
            yield
        return found

    def _page(self, query: Query, entries: list[Entry]) -> Work[web.Response]:
        journal = self._registry.store.journal
        now = self._registry.now_ms()
        pages = Pages(query, len(entries))
        return written(
            "journal.html",
            query=query,
            live=query.live,
            down=down(self._registry),
            entries=[entry_row(entry, now) for entry in entries[pages.start : pages.end]],
            kinds=[
                {"value": kind.value, "href": query.toggled("kind", kind.value), "on": query["kind"] == kind.value} for kind in Kind
            ],
            pages=pages,
            capacity=CAPACITY,
            known_since=when(journal.known_since, now),
            forms=values_for_links(query),
        )


def _is_of(entry: Entry, service: str, instance_id: str) -> bool:
    return service in {"", entry.service} and instance_id in {"", entry.instance_id}


def _holds(entry: Entry, words: list[str]) -> bool:
    text = f"{entry.instance_id}\0{entry.service}\0{entry.user}".lower()
    return all(word in text for word in words)
