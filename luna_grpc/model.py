"""The words of the domain: instances, services, statuses, and the rules for what a client may say of an instance.

Everything here is immutable. Two facts are kept apart: what an instance reported of itself, and whether its lease is alive. The
effective status follows from both and is never stored.
"""

import ipaddress
import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

from luna_grpc.access import REGISTRY, User
from luna_grpc.enums import Word
from luna_grpc.errors import InvalidArgumentError

MAX_PORT: Final = 65535
MAX_NAME: Final = 128
MAX_DOMAIN: Final = 253
MAX_VERSION: Final = 64
MAX_DESCRIPTION: Final = 1024
MAX_URL: Final = 2048
MAX_WEIGHT: Final = 2**32 - 1
MAX_METADATA: Final = 64
SHORT: Final = 128
"""A text with no more characters than this is one object for all instances that have the same."""
FEW: Final = 8
"""Metadata with no more entries than this, all short, is one object for all instances that have the same."""
MAX_METADATA_KEY: Final = 128
MAX_METADATA_VALUE: Final = 1024
MAX_OWNER: Final = 128
RESERVED_NAMES: Final = frozenset({"json", ".", ".."})
"""`json` is a route of the REST API; the other two cannot be a segment of a URL's path."""

NO_METADATA: Final[Mapping[str, str]] = MappingProxyType({})

ID_PATTERN: Final = r"([A-Za-z0-9_.-]{1,128}):(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]{1,253}):([1-9][0-9]{0,4})"
"""The shape of an instance id; `check_instance_id` looks closer at domain and port."""
_ID = re.compile(ID_PATTERN, re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")
_DIGITS_AND_DOTS = re.compile(r"[0-9.]+", re.ASCII)
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}", re.ASCII)


class Status(Word):
    """Whether an instance may be used."""

    OK = "OK"
    DOWN = "DOWN"


_OK: Final = Status.OK  # on Python 3.11, to name a member of an enum takes as long as to call a function


class ServiceStatus(Word):
    """Whether at least one instance of a service may be used."""

    UP = "UP"
    DOWN = "DOWN"


class StatusReason(Word):
    """Why an instance has its status. When several hold, the first in the order below is the one shown."""

    DRAINED = "DRAINED"
    DISCONNECTED = "DISCONNECTED"
    LEASE_EXPIRED = "LEASE_EXPIRED"
    REPORTED = "REPORTED"


class OnDisconnect(Word):
    """What happens to the instances of a heartbeat stream when it breaks."""

    KEEP = "KEEP"
    MARK_DOWN = "MARK_DOWN"
    DEREGISTER = "DEREGISTER"


class Door(Word):
    """Where a change came in."""

    GRPC = "grpc"
    REST = "rest"
    INTERNAL = "internal"


class Actor(NamedTuple):
    """Who causes a change: for roles, the journal and the log."""

    user: User
    door: Door
    peer: str = ""


ITSELF: Final = Actor(user=REGISTRY, door=Door.INTERNAL)
"""The registry itself, when it declares a lease expired or evicts an instance."""


# What was found good is not checked again, and equal texts become one object: names, versions and labels are the same for many
# instances. Only short texts, so that what is remembered stays small. Not `sys.intern`: on Python 3.12 interned strings are never
# freed.
_remembering: Final = lru_cache(maxsize=4096)


@_remembering
def _same(text: str) -> str:
    return text


def check_instance_id(text: str) -> str:
    """Return `text` when it is a well-formed instance id, `serviceName:domain:port`.

    Raises:
        InvalidArgumentError: says which of the three parts is wrong.

    """
    match = _ID.fullmatch(text)
    if match is None:
        _check_lengths(text)
        raise InvalidArgumentError(
            f"instance id {shown(text)} is not of the form serviceName:domain:port, for example orders:localhost:8080 "
            "(serviceName: letters, digits, '_', '.', '-'; an IPv6 domain stands in brackets; port: 1 to 65535)",
            field="instance_id",
        )
    _, domain, port = match.groups()
    if not is_domain(domain):
        raise InvalidArgumentError(
            f"the domain {shown(domain)} of the instance id is neither a DNS name nor an IPv4 address "
            "nor an IPv6 address in brackets",
            field="instance_id",
        )
    if int(port) > MAX_PORT:
        raise InvalidArgumentError(f"the port {port} of the instance id is above {MAX_PORT}", field="instance_id")
    return text


def _check_lengths(instance_id: str) -> None:
    name, _, rest = instance_id.partition(":")
    for part, value, most in (("serviceName", name, MAX_NAME), ("domain", rest.rpartition(":")[0], MAX_DOMAIN)):
        if len(value) > most:
            raise InvalidArgumentError(
                f"the {part} of the instance id has {len(value)} characters; at most {most} are allowed", field="instance_id"
            )


def service_name_of(instance_id: str) -> str:
    """Return the serviceName of a well-formed instance id."""
    return instance_id.partition(":")[0]


def is_domain(domain: str) -> bool:
    """Whether this is a DNS name, an IPv4 address or an IPv6 address in brackets."""
    if domain.startswith("["):
        return domain.endswith("]") and _is_ipv6(domain[1:-1])
    if _DIGITS_AND_DOTS.fullmatch(domain):
        return _IPV4.fullmatch(domain) is not None
    return all(_LABEL.fullmatch(label) for label in domain.removesuffix(".").split("."))


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def shown(text: str, most: int = 80) -> str:
    """Quote what someone sent for an error message, safely and not at length."""
    quoted = ascii(text[: most + 1])
    return quoted if len(quoted) <= most else quoted[:most].rstrip("\\") + quoted[0] + "..."


class Info(NamedTuple):
    """What a client says of an instance, but for its status. Make one with `Info.of`, which checks everything."""

    instance_id: str
    name: str
    description: str
    version: str
    url: str
    weight: int | None
    """Share of the requests for client-side load balancing, 1 or more; None: not told."""
    metadata: Mapping[str, str]
    size: int
    """How many characters it has: what it takes in memory beyond a fixed amount follows from that."""

    @classmethod
    def of(
        cls,
        instance_id: str,
        *,
        name: str = "",
        description: str = "",
        version: str = "",
        url: str = "",
        weight: int | None = None,
        metadata: Mapping[str, str] = NO_METADATA,
    ) -> Self:
        """Check what a client said and fill in the defaults; empty means not told.

        Raises:
            InvalidArgumentError: `field` is the name of the parameter at fault.

        """
        check_instance_id(instance_id)
        url = _checked_url(url, f"http://{instance_id.partition(':')[2]}/")
        checked, size = _checked_metadata(metadata) if metadata else (NO_METADATA, 0)
        return cls(
            instance_id=instance_id,
            name=_checked_name(name or service_name_of(instance_id)),
            description=(_short_description if len(description) <= SHORT else _checked_description)(description),
            version=_checked_version(version),
            url=url,
            weight=_checked_weight(weight) if weight else None,
            metadata=checked,
            size=size + len(instance_id) + len(url) + len(description),
        )


@_remembering
def _checked_name(name: str) -> str:
    if name in RESERVED_NAMES:
        raise InvalidArgumentError(f"the name {shown(name)} is reserved; choose another", field="name")
    return _printable("name", name, MAX_NAME)


def _is_text(text: str) -> bool:
    """Whether `text` is free of NUL and lone surrogates, which no encoding carries to everyone."""
    return text.isprintable() or _NOT_TEXT.search(text) is None


def _limited(field: str, text: str, most: int) -> str:
    if len(text) > most:
        raise InvalidArgumentError(f"{field} has {len(text)} characters; at most {most} are allowed", field=field)
    if not _is_text(text):
        raise InvalidArgumentError(f"{field} holds a character that is not text", field=field)
    return text


def _printable(field: str, text: str, most: int) -> str:
    _limited(field, text, most)
    if not text.isprintable() or text != text.strip():
        raise InvalidArgumentError(
            f"{field} {shown(text)} holds characters that cannot be shown, or begins or ends with a space", field=field
        )
    return text


def _checked_description(description: str) -> str:
    return _limited("description", description, MAX_DESCRIPTION)


_short_description: Final = _remembering(_checked_description)


@_remembering
def _checked_version(version: str) -> str:
    return _printable("version", version, MAX_VERSION)


def _checked_url(url: str, default: str) -> str:
    if url in ("", default):
        return default
    _printable("url", url, MAX_URL)
    try:
        parts = urlsplit(url)
        well_formed = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is not a number, a bracket that is not closed
        well_formed = False
    if not well_formed or " " in url or "\\" in url:
        raise InvalidArgumentError(f"url {shown(url)} is not an http or https URL, for example http://localhost:8080/", field="url")
    # What is kept has to be short enough to be sent again.
    return url if parts.path else _limited("url", parts._replace(path="/").geturl(), MAX_URL)


def _checked_weight(weight: int) -> int:
    if not 0 < weight <= MAX_WEIGHT:
        raise InvalidArgumentError(f"weight {weight} is not between 1 and {MAX_WEIGHT}", field="weight")
    return weight


def _checked_metadata(metadata: Mapping[str, str]) -> tuple[Mapping[str, str], int]:
    """Return what to keep, and how many characters it has."""
    items = tuple(metadata.items())
    few = len(items) <= FEW and max(map(len, metadata.values())) <= SHORT
    return (_checked_few if few else _checked_items)(items)


def _checked_items(items: tuple[tuple[str, str], ...]) -> tuple[Mapping[str, str], int]:
    if len(items) > MAX_METADATA:
        raise InvalidArgumentError(f"metadata has {len(items)} entries; at most {MAX_METADATA} are allowed", field="metadata")
    for key, value in items:
        if not 0 < len(key) <= MAX_METADATA_KEY or not key.isprintable():
            raise InvalidArgumentError(
                f"the metadata key {shown(key)} is not printable text of 1 to {MAX_METADATA_KEY} characters", field="metadata"
            )
        if len(value) > MAX_METADATA_VALUE or not _is_text(value):
            raise InvalidArgumentError(
                f"the metadata value of {shown(key)} is not text of at most {MAX_METADATA_VALUE} characters", field="metadata"
            )
    kept = MappingProxyType({_same(key): _same(value) if len(value) <= SHORT else value for key, value in items})
    return kept, sum(len(key) + len(value) for key, value in items)


_checked_few: Final = _remembering(_checked_items)


class Instance(NamedTuple):
    """An instance as the registry sees it, at one moment; everything but its last heartbeat."""

    info: Info
    reported: Status
    """What the instance last said of itself."""
    ended: StatusReason | None
    """Why it has no live lease (LEASE_EXPIRED or DISCONNECTED); None while it has one."""
    generation: int
    """Grows with every registration of the id; fences off what came before."""
    registered_at: int
    """Milliseconds since the epoch."""
    drained_until: int | None = None
    """Milliseconds since the epoch; None: not drained."""

    @property
    def status(self) -> Status:
        """The effective status: DOWN without a live lease, else what was reported."""
        return Status.DOWN if self.ended is not None or self.drained_until is not None else self.reported

    @property
    def reason(self) -> StatusReason:
        """Why `status` is what it is."""
        if self.drained_until is not None:
            return StatusReason.DRAINED
        return self.ended or StatusReason.REPORTED

    @property
    def up(self) -> bool:
        """Whether the effective status is OK."""
        return self.ended is None and self.drained_until is None and self.reported is _OK
