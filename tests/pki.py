"""Certificates for tests: those of a server in files, and clients that have some of their own."""

import ssl
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import grpc
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448

SERVER = ("localhost", "127.0.0.1")
Key: TypeAlias = ec.EllipticCurvePrivateKey | ed448.Ed448PrivateKey


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in PEM."""

    cert: bytes
    key: bytes

    @classmethod
    def of(cls, leaf: trustme.LeafCert) -> "Pair":
        return cls(b"".join(pem.bytes() for pem in leaf.cert_chain_pems), leaf.private_key_pem.bytes())


class Pki:
    """A CA for servers and one for clients, and the files of a server."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.client_ca = trustme.CA()
        self.cert, self.key, self.client_ca_file = (folder / name for name in ("luna.pem", "luna.key", "clients.pem"))
        self.install(self.server())
        self.trust(self.client_ca)

    def server(self, *, ca: trustme.CA | None = None, days: float = 90) -> Pair:
        """Return a new certificate of the server, which is good for so many days from now on, or was until so many days ago."""
        end = datetime.now(UTC) + timedelta(days=days)
        return Pair.of((ca or self.ca).issue_cert(*SERVER, not_before=end - timedelta(days=365), not_after=end))

    def install(self, pair: Pair) -> None:
        """Put a pair where the server looks for it; nobody can see one half of it."""
        for path, content in ((self.key, pair.key), (self.cert, pair.cert)):
            self.write(path, content)

    def trust(self, *cas: trustme.CA) -> None:
        """Let the server trust clients of these CAs."""
        self.write(self.client_ca_file, b"".join(ca.cert_pem.bytes() for ca in cas))

    @staticmethod
    def write(path: Path, content: bytes) -> None:
        """Replace a file, as careful tools do."""
        new = path.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_bytes(content)
        new.replace(path)

    def flags(self, *, clients: bool = False) -> dict[str, str]:
        """Return the settings of a server; `clients`: that asks for certificates."""
        flags = {"tls_cert": str(self.cert), "tls_key": str(self.key)}
        return flags | ({"tls_client_ca": str(self.client_ca_file)} if clients else {})

    def arguments(self, *, clients: bool = False) -> list[str]:
        """Return the same for the command line."""
        return [part for name, value in self.flags(clients=clients).items() for part in (f"--{name.replace('_', '-')}", value)]

    def client(self, *names: str, common_name: str | None = None, ca: trustme.CA | None = None) -> "Client":
        """Return a client with a certificate."""
        leaf = (ca or self.client_ca).issue_cert(*(names or ("client.example",)), common_name=common_name)
        return Client((self.ca,), Pair.of(leaf))

    def anonymous(self, *cas: trustme.CA) -> "Client":
        """Return a client without a certificate, which trusts servers of some CAs, or of the one there is."""
        return Client(cas or (self.ca,), None)


@dataclass
class Client:
    """What a client trusts, and what it shows."""

    cas: tuple[trustme.CA, ...]
    pair: Pair | None

    @cached_property
    def context(self) -> ssl.SSLContext:
        """For REST."""
        context = ssl.create_default_context()
        for ca in self.cas:
            ca.configure_trust(context)
        if self.pair is not None:
            with trustme.Blob(self.pair.key + self.pair.cert).tempfile() as path:
                context.load_cert_chain(path)
        return context

    @property
    def credentials(self) -> grpc.ChannelCredentials:
        """For gRPC."""
        key, cert = (None, None) if self.pair is None else (self.pair.key, self.pair.cert)
        return grpc.ssl_channel_credentials(b"".join(ca.cert_pem.bytes() for ca in self.cas), key, cert)


def only(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    """Let a client speak one version of TLS only, even an old one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # old versions are the point
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
    return context


def issued(
    ca: trustme.CA,
    *names: x509.GeneralName,
    common_name: str = "",
    key: Key | None = None,
    usages: Sequence[x509.ObjectIdentifier] = (),
    password: bytes = b"",
) -> Pair:
    """Return a certificate of a kind that trustme does not make; `password` is that of the key."""
    issuer = x509.load_pem_x509_certificate(ca.cert_pem.bytes())
    key = key or ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    subject = [x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)] if common_name else []
    builder = (
        x509.CertificateBuilder(issuer.subject, x509.Name(subject), key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=90))
        .add_extension(x509.SubjectAlternativeName(names or [x509.DNSName("localhost")]), critical=not subject)
    )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    signer = serialization.load_pem_private_key(ca.private_key_pem.bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return Pair(
        builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption),
    )
