"""What of all services and instances a list shows: found, sorted and cut into pages, in that order; the rest is never made ready.

All of it is done in slices, so these are generators that yield when others are to have their turns (see `Lists.done`), and return
what they found. What is sorted is sorted slice by slice, and merged only as far as someone reads.
"""

from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from gateway.haystacks import Haystacks
from gateway.search import DOWN, DRAINED, OK, Pick, Texts, Wanted, state_of
from luna_grpc.registry import Registry
from luna_grpc.store import Registration, Service

T = TypeVar("T")
Work: TypeAlias = Generator[None, None, T]
"""Long work, which yields when others are to have their turns."""
SLICE: Final = 500
"""How many instances or services are looked at in between: less than 1 ms."""
HEAVY: Final = 500
"""Characters in what an instance says that count as much as one instance more."""
LONG: Final = 250_000
"""Characters in the instances of a service from which on they are looked at one by one, instead of keeping a text of them."""
NAMED: Final = 5
"""The most instances that the row of a service names."""
_RANK: Final = {state: rank for rank, state in enumerate((DOWN, DRAINED, OK))}


class Found(NamedTuple):
    """A service that a list shows."""

    name: str
    up: int
    total: int
    drained: int
    left: tuple[str, ...] = ()
    """The words that are to be found at its instances."""
    description: str = ""
    """Only of the rows of a page, and where rows are sorted by it."""

    @property
    def phase(self) -> int:
        """How it is: 0 down, 1 half up, 2 up."""
        return (self.up > 0) + (self.up == self.total)

    def in_state(self, state: str) -> int:
        """Return how many of its instances are in a state."""
        return {OK: self.up, DOWN: self.total - self.up - self.drained, DRAINED: self.drained}[state]


class Row(NamedTuple):
    """A service as a page shows it."""

    found: Found
    matching: int
    """How many of its instances are among what was looked for; 0 where it was not about instances."""
    named: Sequence[Registration]
    """The first of those."""


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


def wholly_drained(registry: Registry, drained: Mapping[str, int]) -> int:
    """Return how many services have only instances that are drained; `drained` says how many each has of those."""
    services = ((registry.store.service(name), count) for name, count in drained.items())
    return sum(service is not None and len(service.registrations) == count for service, count in services)


def down(registry: Registry) -> int:
    """Return how many instances are down that nobody drained."""
    totals = registry.store.totals()
    return totals.instances - totals.instances_up - sum(drained_in(registry).values())


def services(registry: Registry, haystacks: Haystacks, wanted: Wanted, *, described: bool = False) -> Work[list[list[Found]]]:
    """Return the services that are wanted, slice by slice; with their descriptions, if those are needed for all of them."""
    drained, texts, slices, after = drained_in(registry), Texts(), list[list[Found]](), ""
    while True:
        part, looked = list[Found](), 0
        for service in registry.services(after=after):
            name, registrations, up = service
            after = name + "\0"
            looked += 1
            if not wanted.takes(service):
                continue
            found = Found(name, up, len(registrations), drained[name], wanted.left(name))
            if found.left and (found.total > SLICE or _is_long(service, haystacks)):
                has = yield from _has(registrations, wanted.picks(found.left, texts))
                part += [found] * has
                break  # what is iterated over may have changed
            has, cost = _settled(found, service, haystacks, wanted, texts)
            looked += cost
            part += [found] * has
            if looked >= SLICE:
                break
        else:
            slices.append(_described(registry, part) if described else part)
            return slices
        slices.append(_described(registry, part) if described else part)
        yield


def pieces(noted: Iterable[Registration]) -> Iterator[list[Registration]]:
    """Cut instances into parts that take about as long as each other: one that says much counts for several."""
    part, cost = list[Registration](), 0
    for registration in noted:
        part.append(registration)
        cost += 1 + registration.instance.info.size // HEAVY
        if cost >= SLICE:
            yield part
            part, cost = [], 0
    if part:
        yield part


def _is_long(service: Service, haystacks: Haystacks) -> bool:
    """Whether a service has so much to say that to search it takes long."""
    return not haystacks.has(service.name) and sum(each.instance.info.size for each in service.registrations) > LONG


def _settled(found: Found, service: Service, haystacks: Haystacks, wanted: Wanted, texts: Texts) -> tuple[bool, int]:
    """Return whether a service is wanted, and how many of its instances were looked at to know that."""
    if wanted.state and found.in_state(wanted.state) <= 0:
        return False, 0
    if not found.left:
        return True, 0
    text, known = haystacks.of(service)
    in_text = wanted.in_text(found.left, text, found.total - found.up)
    if in_text is not None:
        return in_text, 0 if known else found.total
    pick = wanted.picks(found.left, texts)
    return bool(pick is None or pick(service.registrations)), found.total


def _has(registrations: Collection[Registration], pick: Pick | None) -> Work[bool]:
    """Return whether one of very many instances is wanted."""
    for part in pieces(list(registrations)):
        if pick is None or pick(part):
            return True
        yield
    return False


def _described(registry: Registry, found: Iterable[Found]) -> list[Found]:
    described = ((row, registry.store.service(row.name)) for row in found)
    return [row._replace(description=service.description) for row, service in described if service is not None]


def rows(registry: Registry, found: list[Found], wanted: Wanted) -> Work[list[Row]]:
    """Make the rows of one page ready: with descriptions, and with the instances that were looked for."""
    ready, texts = list[Row](), Texts()
    for each in _described(registry, found):
        service, pick = registry.store.service(each.name), wanted.picks(each.left, texts)
        if service is None or pick is None:
            ready.append(Row(each, 0, ()))
            continue
        enough = 0 if each.left else each.in_state(wanted.state)
        matching, named = 0, list[Registration]()
        for number, part in enumerate(pieces(list(service.registrations))):
            if number:
                yield
            picked = pick(part)
            matching += len(picked)
            named += picked[: NAMED - len(named)]
            if enough and len(named) == min(NAMED, enough):
                break
        ready.append(Row(each, max(enough or matching, len(named)), named))
    return ready


def instances(service: Service, wanted: Wanted) -> Work[list[list[Registration]]]:
    """Return the instances of a service that are wanted, slice by slice; its name settles some of the words."""
    words, noted = wanted.left(service.name), list(service.registrations)
    return (yield from _picked(noted, wanted.picks(words, Texts(), wide=True)))


def _picked(noted: list[Registration], pick: Pick | None) -> Work[list[list[Registration]]]:
    picked = list[list[Registration]]()
    for part in pieces(noted):
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
