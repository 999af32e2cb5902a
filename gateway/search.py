"""What a list is narrowed down to: words that are searched for, and filters.

A word is looked for in the name of a service, in ids, in metadata (`key=value`, or a part of that) and among the words for a
status. All words have to be found. Those that the name of a service holds are settled by that; the others have to be found at one
and the same instance. So `orders down` finds the instances of orders that are down.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from luna_grpc.model import NO_METADATA, Instance, StatusReason
from luna_grpc.store import Registration, Service

MOST_WORDS: Final = 8
OK, DOWN, DRAINED = "OK", "DOWN", "DRAINED"
STATES: Final = (OK, DOWN, DRAINED)
"""What an instance can be filtered by. A drained one is no `DOWN` here: someone wanted it so."""
Pick: TypeAlias = Callable[[Iterable[Registration]], list[Registration]]
"""Picks those that are wanted."""


def is_ok(instance: Instance) -> bool:
    """Whether an instance may be used."""
    return instance.up


def is_down(instance: Instance) -> bool:
    """Whether an instance is down, and nobody wanted that."""
    return instance.drained_until is None and not instance.up


def is_drained(instance: Instance) -> bool:
    """Whether an operator took an instance out of service."""
    return instance.drained_until is not None


_IS: Final[Mapping[str, Callable[[Instance], bool]]] = {OK: is_ok, DOWN: is_down, DRAINED: is_drained}
_WORDS_FOR_A_STATE: Final[Mapping[str, Callable[[Instance], bool]]] = {
    "ok": is_ok,
    "up": is_ok,
    "down": lambda instance: not instance.up,
    **{reason.value.lower(): lambda instance, reason=reason: instance.reason is reason for reason in StatusReason},  # type: ignore[misc]
}

_FOR_DOWN: Final = frozenset(_WORDS_FOR_A_STATE) - {"ok", "up", StatusReason.REPORTED.value.lower()}


def state_of(instance: Instance) -> str:
    """Return the one of `STATES` that an instance is in."""
    return DRAINED if instance.drained_until is not None else OK if instance.up else DOWN


class Texts:
    """Which metadata holds a word, found out once for all instances that have the same object."""

    def __init__(self) -> None:
        self._metadata: dict[int, Mapping[str, str]] = {}  # held, so that an id stays that of one object
        self._holding: dict[str, dict[int, bool]] = {}

    def holding(self, word: str) -> tuple[dict[int, bool], Callable[[Mapping[str, str]], bool]]:
        """Return what is known by the ids of metadata, and what finds it out where it is not known yet."""
        known = self._holding.setdefault(word, {id(NO_METADATA): False})

        def look(metadata: Mapping[str, str]) -> bool:
            self._metadata[id(metadata)] = metadata
            known[id(metadata)] = holds = any(word in f"{key}={value}".lower() for key, value in metadata.items())
            return holds

        return known, look


class Wanted(NamedTuple):
    """What is looked for."""

    words: tuple[str, ...] = ()
    """In small letters."""
    state: str = ""
    """One of `STATES`; empty: any."""
    status: str = ""
    """Of the service: UP or DOWN; empty: any."""

    @classmethod
    def of(cls, text: str, *, state: str = "", status: str = "") -> "Wanted":
        """Read what someone typed."""
        return cls(tuple(text.lower().split()[:MOST_WORDS]), state, status)

    def left(self, name: str) -> tuple[str, ...]:
        """Return the words that the name of a service does not settle."""
        if not self.words:
            return ()
        name = name.lower()
        return tuple(word for word in self.words if word not in name)

    def takes(self, service: Service) -> bool:
        """Whether the status of a service is a wanted one."""
        return not self.status or self.status == service.status

    def in_text(self, words: tuple[str, ...], text: str, down: int) -> bool | None:
        """Whether instances with these ids and metadata are wanted, `down` of which are down; None: they have to be looked at."""
        for word in words:
            if word not in text and (word not in _WORDS_FOR_A_STATE or (word in _FOR_DOWN and not down)):
                return False
        conclusive = len(words) == 1 and not self.state and words[0] not in _WORDS_FOR_A_STATE
        return True if conclusive else None

    def picks(self, words: tuple[str, ...], texts: Texts, *, wide: bool = False) -> Pick | None:
        """Return what picks the instances that are wanted, as far as words and the filter concern them; None: all are.

        `wide`: their versions and URLs are searched too.
        """
        steps = [_in_state(_IS[self.state])] if self.state else []
        for word in words:
            step = _holding_wide(word, texts) if wide else _holding(word, texts)
            state = _WORDS_FOR_A_STATE.get(word)
            steps.append(step if state is None else _or_in_state(step, state))
        return _one_after_the_other(steps) if steps else None


def _one_after_the_other(steps: Sequence[Pick]) -> Pick:
    first, *rest = steps
    if not rest:
        return first

    def pick(registrations: Iterable[Registration]) -> list[Registration]:
        picked = first(registrations)
        for step in rest:
            picked = step(picked)
        return picked

    return pick


def _in_state(state: Callable[[Instance], bool]) -> Pick:
    return lambda registrations: [each for each in registrations if state(each.instance)]


def _or_in_state(step: Pick, state: Callable[[Instance], bool]) -> Pick:
    """Return what also picks those in a state."""

    def pick(registrations: Iterable[Registration]) -> list[Registration]:
        noted = list(registrations)
        picked = set(step(noted))
        return [each for each in noted if each in picked or state(each.instance)]

    return pick


def _holding(word: str, texts: Texts) -> Pick:
    """Return what looks for a word in ids and in metadata: a loop without a call, for 100,000 instances are nothing special."""
    known, look = texts.holding(word)
    get = known.get

    def pick(registrations: Iterable[Registration]) -> list[Registration]:
        return [
            each
            for each in registrations
            if word in (info := each.instance.info).instance_id.lower()
            or (holds := get(id(info.metadata)))
            or (holds is None and look(info.metadata))
        ]

    return pick


def _holding_wide(word: str, texts: Texts) -> Pick:
    """Return what looks for a word in versions and in URLs too."""
    step = _holding(word, texts)

    def pick(registrations: Iterable[Registration]) -> list[Registration]:
        noted = list(registrations)
        picked = set(step(noted))
        return [
            each
            for each in noted
            if each in picked or word in (info := each.instance.info).version.lower() or word in info.url.lower()
        ]

    return pick
