"""What Prometheus is shown: read, when it asks, from the objects that count it.

Nothing tells this module of anything, so a heartbeat costs no more for it. No metric has a label for an instance, a service, a user
or a peer, for there is no end to those. docs/operations.md has the table of all metrics, word for word; a test compares the two.
"""

import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from itertools import accumulate
from typing import Final, Protocol, TypeVar

from prometheus_client import GCCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from luna_grpc import __version__
from luna_grpc.auth import Authenticator
from luna_grpc.events import EventType
from luna_grpc.histogram import BOUNDS, Histogram
from luna_grpc.model import Door, ServiceStatus, Status
from luna_grpc.registry import Registry
from luna_grpc.statefile import StateFile
from luna_grpc.sweeper import Timings

DOORS: Final = (Door.GRPC, Door.REST)
L = TypeVar("L", bound=tuple[str, ...])


class Limited(Sized, Protocol):
    """Open streams of one kind."""

    limit: int
    """How many may be open at a time."""


class Metrics:
    """Reads and writes all metrics. `refusals` counts requests by door and code; `in_flight` are the requests of the REST door."""

    def __init__(
        self,
        registry: Registry,
        authenticator: Authenticator,
        timings: Timings,
        state_file: StateFile | None,
        *,
        heartbeat_streams: Limited,
        watches: Limited,
        change_streams: Limited,
        refusals: Mapping[Door, Mapping[str, int]],
        in_flight: Sized,
    ) -> None:
        self._registry = registry
        self._authenticator = authenticator
        self._timings = timings
        self._state_file = state_file
        self._heartbeat_streams = heartbeat_streams
        self._watches = watches
        self._change_streams = change_streams
        self._refusals = refusals
        self._in_flight = in_flight
        self._process = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._process)
        GCCollector(registry=self._process)

    def of_process(self) -> list[Metric]:
        """Read what the system knows of this process. Not for the event loop: 10,000 open files take 10 ms."""
        return list(self._process.collect())

    def written(self, of_process: Iterable[Metric], *, open_metrics: bool) -> tuple[bytes, str]:
        """Read all other metrics, and write everything; return that and its content type."""
        # Not by what the client sent: the library fails on versions that are no numbers.
        encode, content_type = choose_encoder("application/openmetrics-text" if open_metrics else "text/plain")
        return encode(_Families([*self._read(), *of_process])), content_type

    def _read(self) -> Iterator[Metric]:
        yield InfoMetricFamily("luna_build", "What runs.", {"version": __version__, "python": platform.python_version()})
        yield from self._held()
        yield from self._asked()
        yield from self._changed()
        yield from self._punctual()
        yield from self._watched()
        yield from self._streamed()
        yield from self._refused()
        if self._state_file is not None:
            yield from _written_down(self._state_file)

    def _held(self) -> Iterator[Metric]:
        totals = self._registry.store.totals()
        yield _labelled(
            Gauge("luna_instances", "Instances registered, by effective status.", labels=["status"]),
            {(Status.OK,): totals.instances_up, (Status.DOWN,): totals.instances - totals.instances_up},
        )
        yield _labelled(
            Gauge("luna_services", "Services; UP while one instance is OK.", labels=["status"]),
            {(ServiceStatus.UP,): totals.services_up, (ServiceStatus.DOWN,): totals.services - totals.services_up},
        )

        yield Gauge(
            "luna_drained", "Ids that an operator took out of service, registered or not.", len(self._registry.store.drains())
        )

    def _asked(self) -> Iterator[Metric]:
        registry = self._registry
        yield _labelled(
            Counter("luna_registrations", "Registrations accepted.", labels=["door"]),
            {(door,): registry.registrations[door] for door in DOORS},
        )
        yield _labelled(
            Counter(
                "luna_heartbeats",
                "Heartbeats accepted; kind is unary (a request each) or stream (of a heartbeat stream).",
                labels=["door", "kind"],
            ),
            {
                (Door.GRPC, "stream"): registry.stream_heartbeats,
                (Door.GRPC, "unary"): registry.grpc_heartbeats,
                (Door.REST, "unary"): registry.rest_heartbeats,
            },
        )
        yield _labelled(
            Counter("luna_deregistrations", "Instances deregistered, also by a stream that broke.", labels=["door"]),
            {(door,): registry.deregistrations[door] for door in DOORS},
        )

    def _changed(self) -> Iterator[Metric]:
        registry = self._registry
        yield _labelled(
            Counter(
                "luna_status_changes",
                "Changes of the effective status of an instance, by what it became and why.",
                labels=["status", "reason"],
            ),
            registry.store.status_changes(),
        )
        yield Counter("luna_expiries", "Leases that ran out.", registry.expired)
        yield Counter("luna_evictions", "Instances removed long after the end of their lease.", registry.evicted)
        feed = registry.store.feed
        yield _labelled(
            Counter("luna_events_published", "Changes that watchers are told of.", labels=["type"]),
            {(EventType.UPSERTED,): feed.revision - feed.removals, (EventType.REMOVED,): feed.removals},
        )
        yield Gauge("luna_revision", "Revision of the latest change, as in resume tokens.", feed.revision)

    def _punctual(self) -> Iterator[Metric]:
        registry, timings = self._registry, self._timings
        yield _histogram(
            "luna_expiry_lateness_seconds",
            "From when a lease could have been declared ended until it was; the largest of each slice of a sweep.",
            registry.lateness,
        )
        yield _histogram("luna_sweep_duration_seconds", "How long a sweep took, others' turns included.", timings.sweeps)
        yield _histogram("luna_event_loop_lag_seconds", "How late the event loop was, sampled 20 times a second.", timings.lag)
        yield Counter(
            "luna_stalls", "Times that the process stood still for so long that clients may not have got through.", registry.stalls
        )
        yield Gauge("luna_held", "1 while nothing expires, after a stall or a start from a state file.", registry.held)
        yield Gauge("luna_warming", "1 while watchers of an earlier run are not yet told who is gone.", registry.warming)

    def _watched(self) -> Iterator[Metric]:
        feed = self._registry.store.feed
        backlogs = [watcher.backlog for watcher in feed.watchers()]
        yield Gauge("luna_watchers", "Watches open.", len(self._watches))
        yield Gauge("luna_watchers_limit", "How many watches may be open (LUNA_MAX_WATCHERS).", self._watches.limit)
        yield Gauge("luna_watch_queue_events", "Events that wait in the queues of all watchers.", sum(backlogs))
        yield Gauge("luna_watch_queue_largest_events", "Events in the longest of these queues.", max(backlogs, default=0))
        yield _labelled(
            Counter("luna_watch_resyncs", "Times that a watcher was too slow for its queue, or for the log.", labels=["to"]),
            {("log",): feed.sent_back_to_log, ("snapshot",): feed.sent_back_to_snapshot},
        )

    def _streamed(self) -> Iterator[Metric]:
        streams, pages = self._heartbeat_streams, self._change_streams
        yield Gauge("luna_heartbeat_streams", "Heartbeat streams open.", len(streams))
        yield Gauge(
            "luna_heartbeat_streams_limit", "How many heartbeat streams may be open (LUNA_MAX_HEARTBEAT_STREAMS).", streams.limit
        )
        yield Counter(
            "luna_heartbeat_streams_broken",
            "Heartbeat streams that broke: ended neither properly by their client nor by the server.",
            self._registry.broken_streams,
        )
        yield Gauge("luna_change_streams", "Pages of the panel, or other readers, that follow changes through REST.", len(pages))
        yield Gauge("luna_change_streams_limit", "How many of these there may be (LUNA_MAX_CHANGE_STREAMS).", pages.limit)

    def _refused(self) -> Iterator[Metric]:
        authenticator = self._authenticator
        yield Gauge(
            "luna_rest_requests_in_flight", "REST requests being handled, the one that reads this included.", len(self._in_flight)
        )
        yield _labelled(
            Counter(
                "luna_requests_refused",
                "Requests refused, and heartbeats of streams, by the code of the answer.",
                labels=["door", "code"],
            ),
            {(door, code): times for door, codes in self._refusals.items() for code, times in codes.items()},
        )
        yield Counter("luna_login_failures", "Logins with wrong credentials.", authenticator.failures)
        yield Counter(
            "luna_logins_throttled",
            "Logins not looked at, because too many wrong ones had come from there.",
            authenticator.throttled,
        )


class _Families(Collector):
    """Metrics that have been read."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Return them."""
        return self._families


def _written_down(file: StateFile) -> Iterator[Metric]:
    since = file.failing_since
    yield Gauge("luna_state_file_waiting_changes", "Changes that wait for the disk.", file.waiting)
    yield Gauge(
        "luna_state_file_failing_seconds",
        "For how long the state file cannot be written; 0 when it can.",
        0.0 if since is None else time.monotonic() - since,
    )
    yield Counter("luna_state_file_transactions", "Transactions that the disk has; many changes share one.", file.transactions)


def _labelled(family: Counter | Gauge, values: Mapping[L, float]) -> Metric:
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _histogram(name: str, meaning: str, histogram: Histogram) -> Metric:
    names = (*map(str, BOUNDS), "+Inf")
    buckets = list(zip(names, map(float, accumulate(histogram.counts)), strict=True))
    return HistogramMetricFamily(name, meaning, buckets, histogram.sum)
