"""What a list is narrowed down to: words that are searched for, and filters.

A word is looked for in the name of a service, in ids, in metadata (`key=value`, or a part of that) and among the words for a
status. All words have to be found. Those that the name of a service holds are settled by that; the others have to be found at one
and the same instance. So `orders down` finds the instances of orders that are down.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from luna_grpc.model import Instance, ServiceStatus, StatusReason
from luna_grpc.store import Registration

MOST_WORDS: Final = 8
OK, DOWN, DRAINED = "OK", "DOWN", "DRAINED"
STATES: Final = (OK, DOWN, DRAINED)
"""What an instance can be filtered by. A drained one is no `DOWN` here: someone wanted it so."""
_BEFORE_ALL: Final = "\0"
"""In no text: stands between entries of metadata."""
Matches = Callable[[Registration], bool]


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


def state_of(instance: Instance) -> str:
    """Return the one of `STATES` that an instance is in."""
    return DRAINED if instance.drained_until is not None else OK if instance.up else DOWN


class Texts:
    """Metadata as text to search in, made once for all instances that have the same object."""

    def __init__(self) -> None:
        self._texts: dict[int, tuple[Mapping[str, str], str]] = {}

    def of(self, metadata: Mapping[str, str]) -> str:
        """Return each entry as `key=value`, in small letters."""
        known = self._texts.get(id(metadata))
        if known is None:
            text = _BEFORE_ALL.join([f"{key}={value}" for key, value in metadata.items()]).lower()
            known = self._texts[id(metadata)] = (metadata, text)  # held, so that its id is not another one's
        return known[1]


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
        name = name.lower()
        return tuple(word for word in self.words if word not in name)

    def takes(self, status: ServiceStatus) -> bool:
        """Whether a service with this status may be among those wanted."""
        return not self.status or self.status == status

    def of_instances(self, words: tuple[str, ...], texts: Texts, *, wide: bool = False) -> Matches | None:
        """Return what tells whether an instance is wanted, as far as words and the filter concern it; None: all are.

        `wide`: its version and its URL are searched too.
        """
        holds = _holds_wide if wide else _holds
        wanted = _IS.get(self.state)
        if not words:
            return None if wanted is None else lambda registration: wanted(registration.instance)
        if len(words) == 1 and wanted is None and words[0] not in _WORDS_FOR_A_STATE:
            return holds(words[0], texts)
        found = [_or_is(word, holds(word, texts)) for word in words]
        return lambda registration: (wanted is None or wanted(registration.instance)) and all(each(registration) for each in found)


def _holds(word: str, texts: Texts) -> Matches:
    """Return what looks for a word in an id and in metadata."""
    of = texts.of

    def matches(registration: Registration) -> bool:
        info = registration.instance.info
        metadata = info.metadata
        return word in info.instance_id.lower() or (bool(metadata) and word in of(metadata))

    return matches


def _holds_wide(word: str, texts: Texts) -> Matches:
    """Return what looks for a word in a version and in a URL too."""
    holds = _holds(word, texts)

    def matches(registration: Registration) -> bool:
        info = registration.instance.info
        return holds(registration) or word in info.version.lower() or word in info.url.lower()

    return matches


def _or_is(word: str, holds: Matches) -> Matches:
    """Return what also takes a word for one for a status."""
    state = _WORDS_FOR_A_STATE.get(word)
    if state is None:
        return holds
    return lambda registration: state(registration.instance) or holds(registration)
