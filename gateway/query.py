"""What a page of the panel was asked for: every state of it is a URL, and every link changes one part of that.

What nobody knows, or what makes no sense, is as if it had not been said: an old link still shows something.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

from aiohttp import web

from gateway.negotiate import prefers_json

PAGE: Final = 100
"""Rows of a list on one page."""
MAX_DIGITS: Final = 10
LONGEST: Final = 200
"""Characters of a search that count."""
FORMATS: Final = ("json", "csv")


class Query:
    """The parameters of one request. `choices` names those that have only certain values; `sort` also takes a leading `-`.

    `names` are those that name one service or instance.
    """

    def __init__(self, request: web.Request, choices: Mapping[str, Collection[str]], names: Collection[str] = ()) -> None:
        said = request.query
        self.path = request.rel_url.raw_path
        self.values: dict[str, str] = {}
        """What differs from the page as it is without parameters."""
        text = "".join(character if character.isprintable() else " " for character in said.get("q", "")[:LONGEST]).strip()
        if text:
            self.values["q"] = text
        self.values |= {name: said[name] for name in names if said.get(name, "").isprintable() and said.get(name)}
        for name, values in choices.items():
            value = said.get(name, "")
            if value.removeprefix("-" if name == "sort" else "") in values:
                self.values[name] = value
        if said.get("live") == "off":
            self.values["live"] = "off"
        page = said.get("page", "")
        self.page = int(page) if page.isascii() and page.isdecimal() and len(page) < MAX_DIGITS else 1
        form = said.get("format", "")
        self.format = form if form in FORMATS else "json" if prefers_json(request) else "html"

    def __getitem__(self, name: str) -> str:
        """Return what was said of a parameter; empty: nothing."""
        return self.values.get(name, "")

    @property
    def live(self) -> bool:
        """Whether the page is to keep itself up to date."""
        return "live" not in self.values

    @property
    def narrowed(self) -> bool:
        """Whether less than everything is wanted."""
        return bool(self.values.keys() - {"sort", "live"})

    @property
    def here(self) -> str:
        """The address of this very page."""
        return self.link(page=self.page if self.page > 1 else "")

    def link(self, **changes: object) -> str:
        """Return the address of this page with other parameters, an empty one left out; it begins at the first page."""
        values = {name: str(value) for name, value in {**self.values, **changes}.items() if value not in {"", None}}
        return f"{self.path}?{urlencode(values, quote_via=quote)}" if values else self.path

    def toggled(self, name: str, value: str) -> str:
        """Return the address with a filter, or without it if it is on."""
        return self.link(**{name: "" if self[name] == value else value})

    def cleared(self) -> str:
        """Return the address without a search and without filters."""
        return self.link(**dict.fromkeys(self.values.keys() - {"sort", "live"}, ""))

    def sorted_by(self, column: str) -> dict[str, str]:
        """Return where the head of a column leads to, and how the column is sorted now, as `aria-sort` says it."""
        now = {column: "ascending", f"-{column}": "descending"}.get(self["sort"], "")
        return {"href": self.link(sort=f"-{column}" if now == "ascending" else column), "now": now}

    def of_instances(self) -> str:
        """Return the parameters with which the page of a service shows the instances that are looked for here."""
        values = {"q": self["q"], "status": self["instances"], "live": self["live"]}
        said = {name: value for name, value in values.items() if value}
        return f"?{urlencode(said, quote_via=quote)}" if said else ""

    @property
    def carried(self) -> str:
        """What links to other pages take along: that they are not to be live."""
        return "" if self.live else "?live=off"

    def hidden(self) -> list[tuple[str, str]]:
        """Return what a search form has to carry along."""
        return [(name, value) for name, value in self.values.items() if name != "q"]


class Pages:
    """Which part of a long list is shown."""

    def __init__(self, query: Query, total: int) -> None:
        self.last = max(1, -(-total // PAGE))
        self.number = max(1, min(query.page, self.last))
        """The page shown, from 1."""
        self.total = total
        """Rows on all pages."""
        self.start = (self.number - 1) * PAGE
        """The index of the first row shown."""
        self.end = min(self.start + PAGE, total)
        """The index after the last row shown."""
        self._query = query

    def link(self, number: int) -> str:
        """Return the address of another page."""
        return self._query.link(page=number if number > 1 else "")


def values_for_links(query: Query, formats: Collection[str] = FORMATS) -> dict[str, Any]:
    """Return where the same list is to be had in other forms."""
    return {form: query.link(format=form) for form in formats}
