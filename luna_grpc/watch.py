"""Telling watchers what changes, without ever waiting for one.

Every visible change is an event with the next revision. A bounded log keeps the latest ones. A watcher is in one of three phases:

- SNAPSHOT: it is given the present state, service by service, as read at the moment of giving;
- CATCHING_UP: it reads the log from the revision at which its snapshot began, or at which its token says it stopped;
- LIVE: events come through a small queue of its own, in which a later event of an instance takes the place of an earlier one.

A queue that overflows is dropped, and the watcher catches up from the log. A log that has moved past it means a new snapshot. So a
slow watcher costs a bounded amount of memory, is never waited for, and always ends with the present state.

A token is `log id - revision - names`: it says what the watcher knows, and of which names. Tokens are given only while that is
everything, so with `synced` and after.
"""

import re
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from enum import Enum, auto
from hashlib import blake2b
from itertools import islice
from typing import Final, NamedTuple

from luna_grpc.events import Change, Event, EventType
from luna_grpc.model import Actor, Instance

LOG_CAPACITY: Final = 10_000
"""The most events in the log."""
LOG_CHARACTERS: Final = 16 * 1024 * 1024
"""The most characters, of one to four bytes each, in the texts of the log; one instance can have 75,000 of them."""
BATCH: Final = 100
"""The most events in one batch."""
QUEUE_CAPACITY: Final = 500
"""The most events that wait for one watcher; more, and it catches up from the log."""


_REVISION: Final = re.compile(r"[0-9]{1,20}", re.ASCII)


_REMOVED: Final = EventType.REMOVED  # see _OK in luna_grpc.model


class Batch(NamedTuple):
    """What a watcher is to be told next."""

    events: list[Event]
    reset: bool
    """A snapshot begins with this batch."""
    synced: bool
    """With this batch the watcher knows the present state, for the first time since the beginning or the last reset."""
    token: str
    """Where to go on from; empty until synced."""


class _Phase(Enum):
    SNAPSHOT = auto()
    CATCHING_UP = auto()
    LIVE = auto()


Snapshot = Callable[[frozenset[str]], Iterator[Event]]
"""Yields the present instances of the services named (all, when empty), reading each service at the moment of yielding it."""


class Feed:
    """The log of changes, and those who want to know of them."""

    def __init__(self, snapshot: Snapshot, *, capacity: int = LOG_CAPACITY, warming: bool = False) -> None:
        self.log_id = secrets.token_hex(8)
        self.revision = 0
        self.warming = warming
        """While True, watchers that come with a foreign token wait for `synced`; see `warmed`."""
        self._snapshot = snapshot
        self._capacity = capacity
        self._log: deque[Event] = deque()
        self._log_characters = 0
        self._watchers: dict[Watcher, None] = {}
        self._of_all: dict[Watcher, None] = {}
        self._of_name: dict[str, dict[Watcher, None]] = {}
        self._observers: list[Callable[[Event], None]] = []
        self._of_restarts: list[Callable[[], None]] = []
        self.removals = 0
        """How many of the changes since the start were removals."""
        self.sent_back_to_log = 0
        """How often the queue of a watcher has overflowed."""
        self.sent_back_to_snapshot = 0
        """How often the log has moved past a watcher."""

    def observe(self, observer: Callable[[Event], None]) -> None:
        """Call `observer`, which must be quick and must not raise, with every event from now on."""
        self._observers.append(observer)

    def observe_restarts(self, observer: Callable[[], None]) -> None:
        """Call `observer`, which must not raise, whenever another log has begun: what was known before may be lost."""
        self._of_restarts.append(observer)

    def publish(self, type_: EventType, instance: Instance, last_heartbeat: int, actor: Actor, change: Change) -> None:
        """Give a change the next revision, log it and offer it to the watchers of its service."""
        self.revision += 1
        if type_ is _REMOVED:
            self.removals += 1
        event = Event(type_, instance, last_heartbeat, revision=self.revision, actor=actor, change=change)
        self._append(event)
        for watcher in self._of_name.get(instance.info.name, ()):
            watcher.offer(event)
        for watcher in self._of_all:
            watcher.offer(event)
        for observer in self._observers:
            observer(event)
        if self.revision % (self._capacity // 4) == 0:
            # Watchers of quiet services: their tokens would fall off the log without anything being wrong.
            for watcher in self.watchers():
                watcher.remind()

    def _append(self, event: Event) -> None:
        log = self._log
        log.append(event)
        self._log_characters += event.size
        while len(log) > self._capacity or self._log_characters > LOG_CHARACTERS:
            self._log_characters -= log.popleft().size

    @property
    def audience(self) -> int:
        """About how many watchers one event is told to: those of all services."""
        return len(self._of_all)

    def warmed(self) -> None:
        """Declare that the registry has heard from those who are alive: removals may now be told."""
        self.warming = False
        for watcher in self.watchers():
            watcher.remind()

    def restart(self, log_id: str, revision: int, *, warming: bool) -> None:
        """Begin another log at a revision: whoever watches is given the present state once more; see `warming`."""
        self.log_id, self.revision = log_id, revision
        self.warming = self.warming or warming
        self._log.clear()
        self._log_characters = 0
        for watcher in self.watchers():
            watcher.start_over(foreign=warming)
        for observer in self._of_restarts:
            observer()

    def watchers(self) -> list["Watcher"]:
        """Return every watcher once."""
        return list(self._watchers)

    def since(self, revision: int) -> Iterator[Event]:
        """Yield the logged events after `revision`, oldest first; the caller has checked `reaches_back_to`. Not to be kept."""
        return islice(self._log, revision - (self.revision - len(self._log)), None)

    def reaches_back_to(self, revision: int) -> bool:
        """Whether every event after `revision` is still in the log."""
        return self.revision - len(self._log) <= revision <= self.revision

    def token(self, revision: int | None = None, names: frozenset[str] = frozenset()) -> str:
        """Return the token of someone who knows everything of `names` up to `revision` (default: the present)."""
        return f"{self.log_id}-{self.revision if revision is None else revision}-{_fingerprint(names)}"

    def watch(self, names: Iterable[str], token: str, wake: Callable[[], None]) -> "Watcher":
        """Begin to watch `names` (all, when empty), from `token` when it can be continued, else with a snapshot.

        `wake` is called, once, when `Watcher.take` has something after it had nothing. The watcher is to be closed.
        """
        wanted = frozenset(names)
        foreign = bool(token) and not self._is_own(token)
        watcher = Watcher(self, wanted, self._continued(wanted, token), wake, foreign=foreign)
        self._watchers[watcher] = None
        for name in wanted:
            self._of_name.setdefault(name, {})[watcher] = None
        if not wanted:
            self._of_all[watcher] = None
        return watcher

    def forget(self, watcher: "Watcher", names: frozenset[str]) -> None:
        """Stop telling a watcher; a second call does nothing."""
        self._watchers.pop(watcher, None)
        self._of_all.pop(watcher, None)
        for name in names:
            group = self._of_name.get(name, {})
            group.pop(watcher, None)
            if not group:
                self._of_name.pop(name, None)

    def present(self, names: frozenset[str]) -> Iterator[Event]:
        """Yield the present state as events."""
        return self._snapshot(names)

    def _is_own(self, token: str) -> bool:
        return token.split("-", 1)[0] == self.log_id

    def _continued(self, names: frozenset[str], token: str) -> int | None:
        """Return the revision at which `token` lets a watcher of `names` go on, or None when only a snapshot will do."""
        log_id, _, rest = token.partition("-")
        revision, _, fingerprint = rest.partition("-")
        if log_id != self.log_id or not _REVISION.fullmatch(revision):
            return None
        # Whoever knew all services knew these; whoever knew other names did not.
        if fingerprint not in {_fingerprint(names), _fingerprint(frozenset())}:
            return None
        return int(revision) if self.reaches_back_to(int(revision)) else None


def _fingerprint(names: frozenset[str]) -> str:
    return blake2b(repr(sorted(names)).encode(), digest_size=8).hexdigest() if names else "all"


class Watcher:
    """One reader of the feed. Not shared between tasks."""

    def __init__(self, feed: Feed, names: frozenset[str], revision: int | None, wake: Callable[[], None], *, foreign: bool) -> None:
        self._feed = feed
        self._names = names
        self._foreign = foreign
        self._wake = wake
        self._waiting = False  # whether take() came back empty-handed, so that wake() is owed
        self._synced = False
        self._reset = False
        self._remind = False
        self._queue: dict[tuple[str, str], Event] = {}
        self._present: Iterator[Event] = iter(())
        self._revision = feed.revision
        self._phase = _Phase.CATCHING_UP
        if revision is None:
            self._start_over()
        else:
            self._revision = revision

    def start_over(self, *, foreign: bool) -> None:
        """Forget what was told; `foreign`: that was of an earlier life of the registry (called by the feed)."""
        self._foreign = self._foreign or foreign
        self._queue.clear()
        self._start_over()
        self._notify()

    def close(self) -> None:
        """Stop watching; a second call does nothing."""
        self._feed.forget(self, self._names)
        self._queue.clear()

    @property
    def behind(self) -> bool:
        """Whether more is to be told than the latest changes."""
        return self._phase is not _Phase.LIVE

    @property
    def backlog(self) -> int:
        """How many events wait in the watcher's own queue."""
        return len(self._queue)

    def offer(self, event: Event) -> None:
        """Take note of a change (called by the feed)."""
        if self._phase is _Phase.LIVE:
            queue = self._queue
            queue.pop(event.key, None)  # so that the queue stays in the order of revisions
            queue[event.key] = event
            if len(queue) > QUEUE_CAPACITY:
                queue.clear()
                self._phase = _Phase.CATCHING_UP
                self._feed.sent_back_to_log += 1
        self._notify()

    def remind(self) -> None:
        """Ask for a batch even without events: the token is old, or the feed has warmed up (called by the feed)."""
        self._remind = True
        self._notify()

    def take(self) -> Batch | None:
        """Return what to tell next; None when there is nothing, and `wake` will be called once there is."""
        if self._phase is _Phase.LIVE:
            batch = self._take_live()
        else:
            batch = self._take_snapshot() if self._phase is _Phase.SNAPSHOT else self._catch_up()
        self._waiting = batch is None
        return batch

    def _notify(self) -> None:
        if self._waiting:
            self._waiting = False
            self._wake()

    def _start_over(self) -> None:
        self._phase = _Phase.SNAPSHOT
        self._revision = self._feed.revision
        self._present = self._feed.present(self._names)
        self._reset = True
        self._synced = False

    def _take_snapshot(self) -> Batch | None:
        events = list(islice(self._present, BATCH))
        if len(events) < BATCH:
            self._phase = _Phase.CATCHING_UP
            if not events and not self._reset:
                return self._catch_up()
        return self._batch(events)

    def _catch_up(self) -> Batch | None:
        feed = self._feed
        if not feed.reaches_back_to(self._revision):
            feed.sent_back_to_snapshot += 1
            self._start_over()
            return self._take_snapshot()
        missed: dict[tuple[str, str], Event] = {}
        for event in feed.since(self._revision):
            if not self._names or event.instance.info.name in self._names:
                missed.pop(event.key, None)
                missed[event.key] = event
            self._revision = event.revision
            if len(missed) >= BATCH:
                break
        complete = self._revision == feed.revision
        if complete and not (self._foreign and feed.warming):
            newly = not self._synced
            self._synced = True
            self._phase = _Phase.LIVE
            if newly or missed:
                return self._batch(list(missed.values()), synced=newly)
            return self._take_live()
        return self._batch(list(missed.values())) if missed else None

    def _take_live(self) -> Batch | None:
        queue = self._queue
        if not queue and not self._remind:
            return None
        self._remind = False
        events = list(islice(queue.values(), BATCH))
        for event in events:
            del queue[event.key]
        # Events wait in the order of their revisions: what is left is newer than those.
        self._revision = events[-1].revision if queue else self._feed.revision
        return self._batch(events)

    def _batch(self, events: list[Event], *, synced: bool = False) -> Batch:
        reset, self._reset = self._reset, False
        return Batch(events, reset, synced, self._feed.token(self._revision, self._names) if self._synced else "")
