"""Lists as JSON and as CSV, written in slices: everything that a page of the panel would show, on all its pages.

CSV is that of RFC 4180. A cell that a spreadsheet would take for a formula gets an apostrophe in front.
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Final, TypeVar

import orjson
from aiohttp import hdrs, web
from multidict import CIMultiDict

from gateway import views
from gateway.answers import JSON, SAFE
from gateway.found import Found, pieces
from gateway.lists import Body, sent
from gateway.search import Texts, Wanted
from luna_grpc.journal import Entry
from luna_grpc.registry import Registry
from luna_grpc.store import Registration

T = TypeVar("T")
CSV: Final = CIMultiDict({hdrs.CONTENT_TYPE: "text/csv; charset=utf-8; header=present", **SAFE})
_TOGETHER: Final = 50_000
"""Bytes that are written before others get their turn."""
_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r")
_SERVICE_COLUMNS: Final = ("name", "status", "instancesUp", "instances", "instancesDrained", "description")
_INSTANCE_COLUMNS: Final = (
    "instanceId", "name", "status", "statusReason", "version", "url", "weight", "lastHeartbeat", "registeredAt", "drainedUntil",
    "metadata",
)  # fmt: skip
_ENTRY_COLUMNS: Final = ("number", "at", "kind", "instanceId", "service", "status", "statusReason", "instancesUp", "user", "door")


def answer(request: web.Request, body: Body, form: str, name: str) -> web.Response:
    """Answer with a list; as CSV, browsers keep it as a file of this name."""
    response = sent(request, body, JSON if form == "json" else CSV)
    if form == "csv":
        response.headers[hdrs.CONTENT_DISPOSITION] = f'attachment; filename="{name}.csv"'
    return response


def services_as_json(registry: Registry, found: Iterable[Found], wanted: Wanted) -> Iterator[bytes]:
    """Write services in the shape of `/services/json`, with the instances that are wanted."""
    texts, before = Texts(), b"["
    for row in found:
        service = registry.store.service(row.name)
        if service is None:
            continue
        pick = wanted.picks(wanted.left(row.name), texts) or _all
        opening, noted = views.opening(service), list(service.registrations)
        yield before + opening
        before = b""
        for piece in pieces(noted):
            part = b",".join(map(_as_json, pick(piece)))
            yield before + part
            before = b"," if part else before
        yield views.CLOSING
        before = b","
    yield b"]\n" if before == b"," else b"[]\n"


def instances_as_json(opening: bytes, instances: Iterable[Registration]) -> Iterator[bytes]:
    """Write one service with these instances."""
    yield opening
    yield from _joined(instances, _as_json)
    yield views.CLOSING + b"\n"


def entries_as_json(entries: Iterable[Entry]) -> Iterator[bytes]:
    """Write entries of the journal."""
    yield b"["
    yield from _joined(entries, _entry_as_json)
    yield b"]\n"


def services_as_csv(found: Iterable[Found]) -> Iterator[bytes]:
    """Write a row for each service."""
    return _csv(
        _SERVICE_COLUMNS,
        ((row.name, "UP" if row.up else "DOWN", row.up, row.total, row.drained, row.description) for row in found),
    )


def instances_as_csv(instances: Iterable[Registration]) -> Iterator[bytes]:
    """Write a row for each instance."""
    return _csv(_INSTANCE_COLUMNS, map(_instance_cells, instances))


def entries_as_csv(entries: Iterable[Entry]) -> Iterator[bytes]:
    """Write a row for each entry of the journal."""
    return _csv(
        _ENTRY_COLUMNS,
        (
            (
                entry.number, _iso(entry.at), entry.kind.value, entry.instance_id, entry.service, entry.status.value,
                entry.reason.value, entry.up, entry.user, entry.door,
            )
            for entry in entries
        ),
    )  # fmt: skip


def gathered(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Join small parts, but not so many that it takes long."""
    together, size = list[bytes](), 0
    for part in parts:
        together.append(part)
        size += len(part)
        if size >= _TOGETHER:
            yield b"".join(together)
            together, size = [], 0
    yield b"".join(together)


def _all(registrations: Iterable[Registration]) -> list[Registration]:
    return list(registrations)


def _as_json(registration: Registration) -> bytes:
    return views.instance(registration.instance, registration.last_heartbeat)


def _entry_as_json(entry: Entry) -> bytes:
    return orjson.dumps(
        {
            "number": entry.number,
            "at": entry.at,
            "kind": entry.kind,
            "instanceId": entry.instance_id,
            "service": entry.service,
            "status": entry.status,
            "statusReason": entry.reason,
            "instancesUp": entry.up,
            "user": entry.user,
            "door": entry.door,
        }
    )


def _instance_cells(registration: Registration) -> tuple[object, ...]:
    instance = registration.instance
    said = instance.info
    return (
        said.instance_id, said.name, instance.status.value, instance.reason.value, said.version, said.url, said.weight or "",
        _iso(registration.last_heartbeat), _iso(instance.registered_at), _iso(instance.drained_until),
        orjson.dumps(dict(said.metadata)).decode() if said.metadata else "",
    )  # fmt: skip


def _iso(milliseconds: int | None) -> str:
    if milliseconds is None:
        return ""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _joined(items: Iterable[T], write: Callable[[T], bytes]) -> Iterator[bytes]:
    before = b""
    for item in items:
        yield before + write(item)
        before = b","


def _csv(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> Iterator[bytes]:
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(value) for value in row])
        if written.tell() >= _TOGETHER:
            yield written.getvalue().encode()
            written.seek(0)
            written.truncate()
    yield written.getvalue().encode()


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value
