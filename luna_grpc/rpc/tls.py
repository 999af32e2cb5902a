"""TLS of the gRPC port: a certificate that can be exchanged while the server runs, and the names in those of clients."""

from collections import deque
from typing import Final

import grpc

from luna_grpc.rpc.errors import Context
from luna_grpc.tls import Identity, TlsError

# What `luna_grpc.tls.names` takes from a certificate, in the same order, as gRPC calls it.
_NAMES: Final = ("x509_common_name", "peer_dns", "peer_uri", "peer_email")


class Renewable:
    """Credentials of a port whose identity can be exchanged."""

    def __init__(self, identity: Identity) -> None:
        self._new: deque[grpc.ServerCertificateConfiguration] = deque(maxlen=1)
        self.credentials = grpc.dynamic_ssl_server_credentials(
            _configuration(identity),
            self._changed,  # type: ignore[arg-type] # it may return None, which the stubs do not know
            require_client_authentication=identity.contents.client_ca is not None,
        )

    def renew(self, identity: Identity) -> None:
        """Use another identity for connections from now on."""
        self._new.append(_configuration(identity))

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the new configuration, once. A thread of gRPC's asks before each handshake, holding a lock."""
        try:
            return self._new.pop()
        except IndexError:
            return None


async def check(identity: Identity, host: str) -> None:
    """Let pass what gRPC can use: its TLS library takes fewer kinds of keys than Python's. `host` is one to listen on.

    gRPC tells nowhere else: it would report a first certificate as a port that cannot be had, and go on with the one from before.

    Raises:
        TlsError: it cannot.

    """
    trial = grpc.aio.server()
    try:
        trial.add_secure_port(f"{host}:0", Renewable(identity).credentials)
    except RuntimeError:
        raise TlsError("gRPC cannot use the certificate: take an RSA key, or an ECDSA key on the curve P-256 or P-384") from None
    finally:
        # What lets go of a server that was never started writes it into the log, where it must not be kept.
        await trial.start()
        await trial.stop(None)


def names(context: Context) -> list[str]:
    """Return the names of a call's client certificate that can be a user's."""
    known = context.auth_context()
    # Where a certificate has no common name, gRPC has an empty one.
    return [name.decode(errors="replace") for kind in _NAMES for name in known.get(kind, ()) if name]


def _configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    contents = identity.contents
    return grpc.ssl_server_certificate_configuration([(contents.key, contents.cert)], contents.client_ca)
