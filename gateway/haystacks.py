"""What is searched in: for each service one text with all ids and metadata of its instances.

Memory decides how long a search takes: to look at 100,000 instances is to wait for 300,000 objects that are anywhere. So each text
is made when someone first searches, some 36 bytes an instance, and thrown away when something in its service changes. Whether a
word is in it takes a microsecond.
"""

from collections.abc import Mapping
from typing import Final

from luna_grpc.events import Change, Event
from luna_grpc.registry import Registry
from luna_grpc.store import Service

_BETWEEN: Final = "\0"
"""In no text and no word."""
_NOT_IN_A_TEXT: Final = frozenset({Change.DRAINED, Change.UNDRAINED})
"""What comes without other words; a change of the status may bring some along."""


class Haystacks:
    """The texts of all services of a registry."""

    def __init__(self, registry: Registry) -> None:
        self._texts: dict[str, str] = {}
        registry.store.feed.observe(self._forget)
        registry.store.feed.observe_restarts(self._texts.clear)

    def has(self, name: str) -> bool:
        """Whether the text of a service is there."""
        return name in self._texts

    def of(self, service: Service) -> tuple[str, bool]:
        """Return the text of a service, in small letters, and whether it was there already."""
        text = self._texts.get(service.name)
        if text is not None:
            return text, True
        ids, metadata = list[str](), dict[int, Mapping[str, str]]()
        for registration in service.registrations:
            info = registration.instance.info
            ids.append(info.instance_id)
            metadata[id(info.metadata)] = info.metadata
        entries = [f"{key}={value}" for each in metadata.values() for key, value in each.items()]
        text = self._texts[service.name] = _BETWEEN.join([*ids, *entries]).lower()
        return text, False

    def _forget(self, event: Event) -> None:
        if self._texts and event.change not in _NOT_IN_A_TEXT:
            self._texts.pop(event.instance.info.name, None)
