"""TLS of both doors: the files, what they hold, and how new ones come into use while the server runs.

Certificates are renewed by others, who put new files where the old ones were. So the files are looked at every few seconds, and at
once when someone asks. Both doors get what was read at one moment; what cannot be used is logged, and what was there before stays.
"""

import asyncio
import ssl
import stat
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog

LOOK_EVERY: Final = 4.0
"""Seconds between two looks at the files."""
DAY: Final = 86_400.0
WARN_BEFORE: Final = 14 * DAY
"""Seconds before its end from which on a certificate is warned of, once a day."""
_ROUNDS: Final = 3
"""A handshake is over after so many; one that is not will never be."""
_NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL, for which ssl has no name
_NAMES: Final = ("DNS", "URI", "email")
"""The kinds of alternative names that can be a user's."""

log = structlog.get_logger("luna.tls")


class TlsError(Exception):
    """The files cannot be used; the message says why and what to do."""


class Contents(NamedTuple):
    """What is in the files, in PEM."""

    cert: bytes
    """The certificate, and those between it and its CA."""
    key: bytes
    client_ca: bytes | None
    """Those whose certificates clients must have; None: clients need none."""


@dataclass(frozen=True, slots=True)
class Files:
    """The paths; an empty `client_ca`: clients need no certificate."""

    cert: str
    key: str
    client_ca: str = ""

    def contents(self) -> Contents:
        """Read them.

        Raises:
            TlsError: one cannot be read.

        """
        return Contents(_bytes(self.cert), _bytes(self.key), _bytes(self.client_ca) if self.client_ca else None)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a door shows in a handshake, and what it asks for."""

    contents: Contents = field(repr=False)
    context: ssl.SSLContext
    """The same, ready for use by HTTP."""
    expires: float
    """Seconds since the epoch."""


def read(files: Files) -> Identity:
    """Read the files and try them out. Takes some milliseconds.

    Raises:
        TlsError: one cannot be read, or they do not fit each other.

    """
    contents = files.contents()
    context = _context(files)
    expires = ssl.cert_time_to_seconds(str(_seen_by_a_client(files, context)["notAfter"]))
    if files.client_ca:
        _require_clients_of(files.client_ca, context)
    if files.contents() != contents:  # or the context would be of other files than the rest
        raise TlsError(f"the TLS files ({files.cert} and so on) are being written just now: start again in a moment")
    return Identity(contents, context, expires)


def names(certificate: Mapping[str, Any] | None) -> list[str]:
    """Return the names of a client certificate that can be a user's: the common name, then DNS names, URIs and email addresses.

    `certificate` is as `ssl.SSLSocket.getpeercert` returns it; None: there is none.
    """
    if not certificate:
        return []
    subject = [value for part in certificate.get("subject", ()) for kind, value in part if kind == "commonName"]
    others = certificate.get("subjectAltName", ())
    return [*subject[:1], *(value for wanted in _NAMES for kind, value in others if kind == wanted)]


class Certificates:
    """The identity in use, and the looks at the files."""

    def __init__(self, files: Files, now: Callable[[], float] = time.time) -> None:
        """Read the files; `now` gives seconds since the epoch.

        Raises:
            TlsError: see `read`.

        """
        self.identity = read(files)
        self._files = files
        self._now = now
        self._asked = asyncio.Event()
        self._trouble = ""  # what was wrong with the files at the last look
        self._told = False  # whether that is in the log
        self._warned_at: float | None = None
        if Path(files.key).stat().st_mode & stat.S_IROTH:  # that a group can read it may be on purpose
            log.warning("TLS key can be read by everyone", path=files.key, step=f"chmod o= {files.key}")
        self._warn()

    def look_now(self) -> None:
        """Look at the files at once, and say what came of it."""
        self._asked.set()

    async def renew(self, use: Callable[[Identity], Awaitable[None]]) -> None:
        """Look again and again, for ever, and let `use` bring a new identity into use. It may raise TlsError and OSError."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), LOOK_EVERY)
            asked = self._asked.is_set()
            self._asked.clear()
            await self.look(use, asked=asked)

    async def look(self, use: Callable[[Identity], Awaitable[None]], *, asked: bool = False) -> None:
        """Look once; `asked`: somebody waits for what comes of it."""
        try:
            identity = await asyncio.to_thread(self._changed)
            if identity is not None:
                await use(identity)
        except (TlsError, OSError) as error:
            self._complain(str(error), asked=asked)
            return
        self._trouble, self._told = "", False
        if identity is not None:
            self.identity, self._warned_at = identity, None
            log.info("certificate renewed", path=self._files.cert, expires=_date(identity.expires))
        elif asked:
            log.info("certificate not renewed", reason="the files are still the same")
        self._warn()

    def _changed(self) -> Identity | None:
        return None if self._files.contents() == self.identity.contents else read(self._files)

    def _complain(self, trouble: str, *, asked: bool) -> None:
        """Log what is wrong, once. A pair that is just being written does not fit, and does at the next look."""
        again = trouble == self._trouble
        if asked or (again and not self._told):
            log.error("certificate not renewed", reason=trouble, effect="the one from before stays in use")
        self._told = asked or again
        self._trouble = trouble

    def _warn(self) -> None:
        """Say once a day, and for each new certificate, that it has expired or is about to."""
        now, expires = self._now(), self.identity.expires
        if expires - now > WARN_BEFORE or (self._warned_at is not None and now - self._warned_at < DAY):
            return
        self._warned_at = now
        log.warning(
            "certificate has expired" if expires <= now else "certificate expires soon",
            path=self._files.cert,
            expires=_date(expires),
            step="put a new one in its place; it is noticed within seconds",
        )


def _bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except IsADirectoryError:
        raise TlsError(f"the TLS file {path} is a directory: name a file in it") from None
    except FileNotFoundError:
        raise TlsError(f"the TLS file {path} does not exist: check the path, which counts from where luna was started") from None
    except OSError as error:
        raise TlsError(f"the TLS file {path} cannot be read ({error.strerror}): let the user that runs luna read it") from None


def _context(files: Files) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_password)
    except _EncryptedError:
        raise TlsError(
            f"the key in {files.key} is encrypted: write it without a password, openssl pkey -in {files.key} -out NEW_FILE"
        ) from None
    except ssl.SSLError as error:
        raise TlsError(_misfit(files, error)) from None
    return context


class _EncryptedError(Exception):
    """A key has a password."""


def _no_password() -> str:
    raise _EncryptedError


def _misfit(files: Files, error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return (
            f"the key in {files.key} is not that of the first certificate in {files.cert}: name the key that it was made for, "
            "and put the server's own certificate first"
        )
    why = f" ({_words(error)})" if error.reason else ""
    return (
        f"{files.cert} and {files.key} are no certificate and its key, both in PEM{why}: such files begin with "
        "-----BEGIN CERTIFICATE----- and -----BEGIN PRIVATE KEY-----, and openssl makes them of other kinds"
    )


def _seen_by_a_client(files: Files, context: ssl.SSLContext) -> Mapping[str, Any]:
    """Return what a client sees of the certificate, whether it has expired or not.

    By a handshake in memory: that is how ssl tells of a certificate, and it shows that clients take it.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        client.load_verify_locations(files.cert)
        ends = [client.wrap_bio(to_client, to_server), context.wrap_bio(to_server, to_client, server_side=True)]
        for end in ends * _ROUNDS:
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    except ssl.SSLError as error:
        raise TlsError(
            f"clients would refuse the certificate in {files.cert} ({_words(error)}): it must be one for servers, with an RSA key "
            "or with an ECDSA key on the curve P-256 or P-384"
        ) from None
    return ends[0].getpeercert() or {}


def _require_clients_of(path: str, context: ssl.SSLContext) -> None:
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        raise TlsError(f"the client CA {path} holds no certificates in PEM: each begins with -----BEGIN CERTIFICATE-----") from None
    # A CA need not be a root: whoever trusts one in the middle trusts that one only. The gRPC port does the same.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_mode = ssl.CERT_REQUIRED


def _words(error: ssl.SSLError) -> str:
    said = getattr(error, "verify_message", "") or error.reason or "no reason given"
    return str(said).lower().replace("_", " ")


def _date(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%SZ}"
