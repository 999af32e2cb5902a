"""What watchers are told: the changes of instances."""

from luna_grpc.enums import Word
from luna_grpc.model import Actor, Instance


class EventType(Word):
    """The kind of a change."""

    UPSERTED = "UPSERTED"
    REMOVED = "REMOVED"


class Change(Word):
    """What became of an instance; after the last three it is not in its service any more."""

    REGISTERED = "registered"
    STATUS = "status changed"
    DRAINED = "drained"
    UNDRAINED = "undrained"
    OTHER = "changed"
    DEREGISTERED = "deregistered"
    EVICTED = "evicted"
    MOVED = "moved"


class Event:
    """One visible change of one instance."""

    __slots__ = ("actor", "change", "encoded", "instance", "key", "last_heartbeat", "revision", "size", "type")

    def __init__(
        self,
        type_: EventType,
        instance: Instance,
        last_heartbeat: int,
        *,
        revision: int = 0,
        actor: Actor | None = None,
        change: Change = Change.OTHER,
    ) -> None:
        self.type = type_
        self.instance = instance
        """After the change (UPSERTED), or before it (REMOVED)."""
        self.last_heartbeat = last_heartbeat
        """Milliseconds since the epoch, at the time of the change."""
        self.revision = revision
        """0 for an event of a snapshot."""
        self.actor = actor
        self.change = change
        self.key = (instance.info.name, instance.info.instance_id)
        """Events of one key supersede each other."""
        self.size = instance.info.size
        """How many characters of text it holds."""
        self.encoded: bytes | None = None
        """Room for an edge to keep its encoding, so that one serves every watcher."""
