"""Single calls to a registry, for the command line: each either answers or says in one line why not."""

import base64
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc

DEADLINE: Final = 10.0
"""Seconds in which a call has to be answered."""
PAGE_SIZE: Final = 500
NEEDS_CREDENTIALS: Final = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})
NOT_THERE: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


class CallError(Exception):
    """The registry refused a call, for example because there is no such instance."""


class NotAllowedError(CallError):
    """The credentials are missing or wrong, or the user's role does not allow this."""


class NotThereError(CallError):
    """There is no registry at that address, or it does not answer."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a registry is, and who asks."""

    address: str
    """host:port of its gRPC door."""
    username: str = "admin"
    password: str = ""
    tls: bool = False
    """Whether it has TLS; a CA or a certificate means that too."""
    tls_ca: str = ""
    """File with CAs, in PEM; empty: those of the system."""
    tls_cert: str = ""
    """File with a certificate of the client, in PEM."""
    tls_key: str = ""
    """File with its key."""

    @property
    def secure(self) -> bool:
        """Whether to speak TLS."""
        return bool(self.tls or self.tls_ca or self.tls_cert)

    def channel(self) -> grpc.Channel:
        """Return a connection, which is made when it is used.

        Raises:
            OSError: a file cannot be read.

        """
        options = [("grpc.keepalive_time_ms", 30_000)]
        if not self.secure:
            return grpc.insecure_channel(self.address, options)
        credentials = grpc.ssl_channel_credentials(_read(self.tls_ca), _read(self.tls_key), _read(self.tls_cert))
        return grpc.secure_channel(self.address, credentials, options)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What is sent with each call; with a client certificate and no password, the certificate says who asks."""
        if self.tls_cert and not self.password:
            return ()
        return (("authorization", "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()),)


class Calls:
    """A connection to a registry; to be used as a context. Every method raises `CallError`, in words for people."""

    def __init__(self, target: Target) -> None:
        self._target = target
        try:
            self._channel = target.channel()
        except OSError as error:
            raise CallError(f"cannot read {error.filename}: {os.strerror(error.errno or 0)}") from None
        self._stub = registry_pb2_grpc.RegistryStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def services(self, prefix: str = "") -> Iterator[pb.Service]:
        """Yield all services whose name begins with `prefix`, sorted by name, each with all its instances."""
        whole: pb.Service | None = None
        for part in self._parts(prefix):
            if whole is not None and whole.name == part.name:  # a large service goes on in the next page
                whole.instances.extend(part.instances)
                continue
            if whole is not None:
                yield whole
            whole = part
        if whole is not None:
            yield whole

    def service(self, name: str) -> pb.Service:
        """Return one service."""
        for service in self.services(name):
            if service.name == name:
                return service
            break  # those with the prefix are sorted, so it would have come first
        raise CallError(f"there is no service {name!a}; luna services lists those that there are")

    def instance(self, instance_id: str) -> pb.Instance:
        """Return one instance."""
        with self._in_words():
            return self._stub.GetInstance(pb.GetInstanceRequest(instance_id=instance_id), **self._options()).instance

    def deregister(self, instance_id: str) -> None:
        """Remove an instance."""
        with self._in_words():
            self._stub.Deregister(pb.DeregisterRequest(instance_id=instance_id), **self._options())

    def watch(self, names: tuple[str, ...], token: str) -> Iterator[pb.WatchServicesResponse]:
        """Yield what is told of services, from `token` on; ends when the registry asks to connect anew."""
        request = pb.WatchServicesRequest(names=names, resume_token=token)
        with self._in_words():
            yield from self._stub.WatchServices(request, metadata=self._target.metadata)

    def serving(self) -> bool:
        """Whether the registry says that it serves."""
        with self._in_words():
            answer = health_pb2_grpc.HealthStub(self._channel).Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def _parts(self, prefix: str) -> Iterator[pb.Service]:
        request = pb.ListServicesRequest(page_size=PAGE_SIZE, name_prefix=prefix)
        while True:
            with self._in_words():
                page = self._stub.ListServices(request, **self._options())
            yield from page.services
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def _options(self) -> dict[str, Any]:
        return {"metadata": self._target.metadata, "timeout": DEADLINE}

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise self._said(error) from None

    def _said(self, error: grpc.RpcError) -> CallError:
        code, details = error.code(), error.details() or ""
        if code in NOT_THERE:
            return NotThereError(
                f"no registry answers at {self._target.address}{'' if self._target.secure else ', without TLS'}: start one with "
                f"luna serve, or name another one with --address or LUNA_ADDRESS ({_cause(details) or code.name})"
            )
        return NotAllowedError(details) if code in NEEDS_CREDENTIALS else CallError(details or code.name)


def _cause(details: str) -> str:
    return details.partition("\n")[0].rpartition("last error: ")[2]


def as_json(message: Message) -> Mapping[str, Any]:
    """Return the JSON form of a message that every gRPC tool writes, with all its fields."""
    written: Mapping[str, Any] = MessageToDict(message, always_print_fields_with_no_presence=True)
    return written


def _read(path: str) -> bytes | None:
    return Path(path).read_bytes() if path else None
