"""Where a registry is, who asks, and how the connection is made."""

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import grpc

from luna_grpc.client.errors import ConfigurationError
from luna_grpc.model import MAX_PORT, is_domain

ADDRESS: Final = "127.0.0.1:50051"
_PORT: Final = re.compile("[1-9][0-9]{0,4}")
_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    # A connection of its own each time: one that is shared with other parts of a program may be the one that has just gone silent.
    ("grpc.use_local_subchannel_pool", 1),
    # A registry that dies without a word is noticed on a stream on which nothing else is sent. It refuses more pings than these.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)


@dataclass(frozen=True)
class Tls:
    """The files of TLS, in PEM, for a registry that runs with LUNA_TLS_CERT."""

    ca: str = ""
    """The CAs that may have signed the registry's certificate; empty: those of the system."""
    cert: str = ""
    """The client's own certificate, for a registry that asks for one."""
    key: str = ""
    """Its key."""


@dataclass(frozen=True)
class Endpoint:
    """A registry, as one user sees it. Registrations at equal ones share a connection."""

    address: str
    username: str
    password: str = field(repr=False)
    tls: Tls | None = None

    @classmethod
    def of(
        cls, address: str | None, username: str | None, password: str | None, tls: Tls | None, env: Mapping[str, str] = os.environ
    ) -> Self:
        """Return the registry that is meant; what is None is taken from the environment.

        With a certificate and without a user name, the certificate says who asks.

        Raises:
            ConfigurationError: no such address can exist, or TLS has a key without a certificate.

        """
        if tls is not None and not isinstance(tls, Tls):
            raise ConfigurationError("tls is no Tls: from luna_grpc.client import Tls, and say tls=Tls(ca='ca.pem'), or tls=Tls()")
        tls = tls or _tls(env)
        if tls is not None and bool(tls.cert) != bool(tls.key):
            raise ConfigurationError("tls has a certificate without a key, or a key without a certificate: name both files")
        if username is None:
            username = env.get("LUNA_AUTH_USERNAME") or ("" if tls is not None and tls.cert else "admin")
        if password is None:
            password = env.get("LUNA_AUTH_PASSWORD", "")
        return cls(_checked(address or env.get("LUNA_ADDRESS") or ADDRESS), username, password, tls)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What each call carries."""
        if not self.username:
            return ()
        return (("authorization", "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()),)

    def check(self) -> None:
        """Look at the files of TLS before anything is begun.

        Raises:
            ConfigurationError: one of them cannot be read.

        """
        if self.tls is not None:
            self._credentials(self.tls)

    def connect(self) -> grpc.Channel:
        """Begin with a connection of its own.

        Raises:
            ConfigurationError: a file of TLS cannot be read.

        """
        if self.tls is None:
            return grpc.insecure_channel(self.address, options=_OPTIONS)
        return grpc.secure_channel(self.address, self._credentials(self.tls), options=_OPTIONS)

    @staticmethod
    def _credentials(tls: Tls) -> grpc.ChannelCredentials:
        """Read the files of TLS, anew for each connection: they may have been renewed."""
        return grpc.ssl_channel_credentials(_read(tls.ca), _read(tls.key), _read(tls.cert))


def _tls(env: Mapping[str, str]) -> Tls | None:
    found = Tls(*(env.get(f"LUNA_TLS_{name}", "") for name in ("CA", "CLIENT_CERT", "CLIENT_KEY")))
    wanted = found != Tls() or env.get("LUNA_TLS", "").lower() in {"1", "true", "yes", "on"}
    return found if wanted else None


def _checked(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not is_domain(host) or not _PORT.fullmatch(port) or int(port) > MAX_PORT:
        raise ConfigurationError(
            f"the address {address!r} is wrong: it must be host:port, for example {ADDRESS}; an IPv6 address stands in brackets"
        )
    return address


def _read(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes() if path else None
    except OSError as error:
        raise ConfigurationError(f"the file of TLS {path!r} cannot be read: {error.strerror}") from None
