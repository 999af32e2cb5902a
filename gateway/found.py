"""What of all services and instances a list shows: found, sorted and cut into pages, in that order; the rest is never made ready.

All of it is done in slices, so these are generators that yield when others are to have their turns (see `Lists.done`), and return
what they found. What is sorted is sorted slice by slice, and merged only as far as someone reads.
"""

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from gateway.search import DOWN, DRAINED, OK, Pick, Texts, Wanted, state_of
from luna_grpc.registry import Registry
from luna_grpc.store import Registration, Service

T = TypeVar("T")
Work: TypeAlias = Generator[None, None, T]
"""Long work, which yields when others are to have their turns."""
SLICE: Final = 1000
"""How many instances or services are looked at in between: less than 1 ms."""
NAMED: Final = 5
"""The most instances that the row of a service names."""
_RANK: Final = {state: rank for rank, state in enumerate((DOWN, DRAINED, OK))}


class Found(NamedTuple):
    """A service that a list shows."""

    name: str
    up: int
    total: int
    drained: int
    matching: int | None
    """How many of its instances are among what was looked for; None: it was not about instances."""
    named: Sequence[Registration] = ()
    """The first of those."""
    description: str = ""
    """Only of the rows of a page, and where rows are sorted by it."""

    @property
    def phase(self) -> int:
        """How it is: 0 down, 1 half up, 2 up."""
        return (self.up > 0) + (self.up == self.total)


SERVICE_COLUMNS: Final[dict[str, Callable[[Found], Any]]] = {
    "status": lambda found: found.phase,
    "name": lambda _: "",
    "description": lambda found: found.description.lower(),
    "instances": lambda found: (found.total, found.up),
}
"""What a list of services can be sorted by; the name decides between equal ones."""
INSTANCE_COLUMNS: Final[dict[str, Callable[[Registration], Any]]] = {
    "status": lambda registration: _RANK[state_of(registration.instance)],
    "id": lambda _: 0,
    "version": lambda registration: _natural(registration.instance.info.version),
    "url": lambda registration: registration.instance.info.url,
    "weight": lambda registration: registration.instance.info.weight or 0,
    "heartbeat": lambda registration: -registration.last_heartbeat,
}


def drained_in(registry: Registry) -> Counter[str]:
    """Return how many instances of each service are drained."""
    store = registry.store
    registrations = (store.get(instance_id) for instance_id in store.drains())
    return Counter(registration.instance.info.name for registration in registrations if registration is not None)


def down(registry: Registry) -> int:
    """Return how many instances are down that nobody drained."""
    totals = registry.store.totals()
    return totals.instances - totals.instances_up - sum(drained_in(registry).values())


def services(registry: Registry, wanted: Wanted, *, described: bool = False) -> Work[list[list[Found]]]:
    """Return the services that are wanted, slice by slice; with their descriptions, if those are needed for all of them."""
    drained, texts, slices, after = drained_in(registry), Texts(), list[list[Found]](), ""
    while True:
        part, looked = list[Found](), 0
        for service in registry.services(after=after):
            after = service.name + "\0"
            looked += 1
            if wanted.takes(service):
                words = wanted.left(service.name)
                if words and len(service.registrations) > SLICE:
                    part += yield from _large(service, drained[service.name], wanted.picks(words, texts))
                    break
                part += _found(service, drained[service.name], wanted, words, texts)
                looked += len(service.registrations) if words else 0
            if looked >= SLICE:
                break
        else:
            slices.append(_described(registry, part) if described else part)
            return slices
        slices.append(_described(registry, part) if described else part)
        yield


def _found(service: Service, drained: int, wanted: Wanted, words: tuple[str, ...], texts: Texts) -> Iterable[Found]:
    """Return the service if it is wanted."""
    name, registrations, up = service
    total = len(registrations)
    pick = wanted.picks(words, texts) if words else None
    if pick is not None:
        picked = pick(registrations)
        return (Found(name, up, total, drained, len(picked), picked[:NAMED]),) if picked else ()
    if not wanted.state:
        return (Found(name, up, total, drained, None),)
    matching = {OK: up, DOWN: total - up - drained, DRAINED: drained}[wanted.state]
    return (Found(name, up, total, drained, matching),) if matching > 0 else ()


def _large(service: Service, drained: int, pick: Pick | None) -> Work[Iterable[Found]]:
    """Return the service if one of its many instances is wanted."""
    name, registrations, up = service
    total = len(registrations)
    slices = yield from _picked(list(registrations), pick)
    named = list(islice((each for part in slices for each in part), NAMED))
    return (Found(name, up, total, drained, sum(map(len, slices)), named),) if named else ()


def _described(registry: Registry, found: Iterable[Found]) -> list[Found]:
    described = ((row, registry.store.service(row.name)) for row in found)
    return [row._replace(description=service.description) for row, service in described if service is not None]


def named(registry: Registry, found: list[Found], wanted: Wanted) -> Work[list[Found]]:
    """Make the rows of one page ready: with their descriptions, and with instances where only the number of those is known."""
    rows, pick = list[Found](), wanted.picks((), Texts())
    for row in _described(registry, found):
        service = registry.store.service(row.name) if row.matching and not row.named else None
        if service is None or pick is None:
            rows.append(row)
            continue
        of_service, noted = list[Registration](), list(service.registrations)
        for start in range(0, len(noted), SLICE):
            of_service += pick(noted[start : start + SLICE])
            if len(of_service) >= NAMED:
                break
            if start + SLICE < len(noted):
                yield
        rows.append(row._replace(named=of_service[:NAMED]))
    return rows


def instances(service: Service, wanted: Wanted) -> Work[list[list[Registration]]]:
    """Return the instances of a service that are wanted, slice by slice; its name settles some of the words."""
    words, noted = wanted.left(service.name), list(service.registrations)
    return (yield from _picked(noted, wanted.picks(words, Texts(), wide=True)))


def _picked(noted: list[Registration], pick: Pick | None) -> Work[list[list[Registration]]]:
    picked = list[list[Registration]]()
    for start in range(0, len(noted), SLICE):
        part = noted[start : start + SLICE]
        picked.append(part if pick is None else pick(part))
        yield
    return picked


def in_order(
    slices: list[list[T]], key: Callable[[T], Any], name: Callable[[T], str], *, backwards: bool = False
) -> Work[Iterator[T]]:
    """Sort what was found by a key, equal ones by name; nothing is merged before it is read."""
    runs = []
    for part in slices:
        runs.append(sorted([((key(item), name(item)), item) for item in part], key=itemgetter(0), reverse=backwards))
        yield
    return (item for _, item in merge(*runs, key=itemgetter(0), reverse=backwards))


def cut(items: Iterator[T], start: int, end: int) -> Work[list[T]]:
    """Return a part of what is sorted."""
    for skipped in range(0, start, SLICE):
        yield
        for _ in islice(items, min(SLICE, start - skipped)):
            pass
    return list(islice(items, end - start))


def _natural(version: str) -> tuple[tuple[int, int, str], ...]:
    """Make a version sortable as people read it: 1.10 comes after 1.9."""
    parts = version.replace("-", ".").replace("+", ".").split(".")
    return tuple((1, int(part), "") if part.isascii() and part.isdigit() else (0, 0, part) for part in parts)
