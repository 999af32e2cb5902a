"""Why no registry answers, from what gRPC says of a connection that could not be made, and whether waiting can help."""

import contextlib
import socket
import ssl
from typing import Any, Final

import grpc

from luna_grpc.client import errors
from luna_grpc.client.endpoint import Endpoint
from luna_grpc.client.errors import ClientError, LimitError, UnavailableError

_OTHER: Final = (
    "something else does, perhaps its REST door; take the address behind grpc= in the line that luna serve prints: LUNA_ADDRESS, "
    "--address, or address=…"
)
_LASTING: Final = {
    "Expected SETTINGS frame": _OTHER,
    "missing selected ALPN": _OTHER,
    "WRONG_VERSION_NUMBER": "what is there has no TLS; take LUNA_TLS and LUNA_TLS_CA, --tls and --tls-ca, or tls=Tls(…) away",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not trusted; name the file of its CA: LUNA_TLS_CA, --tls-ca, or tls=Tls(ca=…)",
    "Hostname Verification Check failed": "its certificate is for another name; take that: LUNA_ADDRESS, --address, or address=…",
    "Failed to create security handshaker": "a file of TLS does not hold what it should: a CA, a certificate and its key, in PEM",
}
"""What the next try would meet too, by what gRPC says of it."""
_SILENT: Final = "no answer"
_CLOSED: Final = ("Socket closed", "Connection reset")
_NOT_MADE: Final = "failed to connect"
_UNREACHED: Final = (_NOT_MADE, "errors resolving", "Deadline Exceeded", "DEADLINE_EXCEEDED", _SILENT, *_CLOSED)
_WANTS_TLS: Final = "what is there has TLS; name the file of its CA: LUNA_TLS_CA, --tls-ca, or tls=Tls(ca=…)"
_CLOSED_AT_ONCE: Final = "the connection is closed at once, perhaps by a proxy whose registry is away; see that the registry runs"
_WANTS_CERTIFICATE: Final = (
    "the connection is closed at once; it may want a client certificate: LUNA_TLS_CLIENT_CERT, --tls-client-cert, or "
    "tls=Tls(cert=…)"
)
_NOBODY: Final = "start one with luna serve, or name another one: LUNA_ADDRESS, --address, or address=…"
_PROBE_TIMEOUT: Final = 1.0
"""Seconds that whoever closes a connection has to begin with TLS."""


def lasting(endpoint: Endpoint, details: str) -> str | None:
    """Return what is wrong and the next step, when waiting cannot help; `details` are those of UNAVAILABLE.

    It may take a moment: who closes connections at once may want TLS, or may be a proxy whose registry is away.
    """
    step = next((step for sign, step in _LASTING.items() if sign in details), None)
    if step is None and endpoint.tls is None and _is_closed(details) and _has_tls(endpoint):
        step = _WANTS_TLS
    return step and _sentence(endpoint, step, details)


def passing(endpoint: Endpoint, details: str) -> str:
    """Return what is wrong for now, and the next step: no registry is there, or one refuses what it may accept later."""
    if _is_closed(details):
        may_want_one = endpoint.tls is not None and not endpoint.tls.cert
        return _sentence(endpoint, _WANTS_CERTIFICATE if may_want_one else _CLOSED_AT_ONCE, details)
    if any(sign in details for sign in _UNREACHED):
        return _sentence(endpoint, _NOBODY, details)
    return f"the registry at {endpoint.address} refuses it for now: {details}"


def given_up(endpoint: Endpoint, error: ClientError | None, seconds: float) -> UnavailableError:
    """Return the error of a program that has waited for so long, by what went wrong last."""
    if isinstance(error, LimitError):
        return error
    details = str(error or f"{_SILENT} within {seconds:g} s")
    return UnavailableError(f"{passing(endpoint, details)}; with wait=0 it is waited for in the background")


def outcome(call: Any, endpoint: Endpoint) -> tuple[int, str]:  # noqa: ANN401 - the stubs do not know that it is a call
    """Return the google.rpc code and the words with which a call has ended."""
    code, details = call.code(), call.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE and (sentence := lasting(endpoint, details)):
        return errors.NOT_A_LUNA, sentence
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return errors.NOT_A_LUNA, _sentence(endpoint, _OTHER, details)
    return code.value[0], details


def _sentence(endpoint: Endpoint, step: str, details: str) -> str:
    cause = details.partition("\n")[0].rpartition("last error: ")[2]
    return f"no registry answers at {endpoint.address}{'' if endpoint.tls else ', without TLS'}: {step} ({cause})"


def _is_closed(details: str) -> bool:
    """Whether a connection was closed before anything was said; a stream that breaks may have been closed too."""
    return _NOT_MADE in details and any(sign in details for sign in _CLOSED)


def _has_tls(endpoint: Endpoint) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # whether it speaks TLS at all; nothing is sent
    host, _, port = endpoint.address.rpartition(":")
    where = host.strip("[]"), int(port)
    with contextlib.suppress(OSError), socket.create_connection(where, _PROBE_TIMEOUT) as plain, context.wrap_socket(plain):
        return True
    return False
