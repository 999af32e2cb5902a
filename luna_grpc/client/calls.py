"""Single calls to a registry, for the command line: each either answers or says in one line why not."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Self

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from luna_grpc.client import errors
from luna_grpc.client.endpoint import Endpoint
from luna_grpc.client.errors import ClientError, LimitError, UnavailableError
from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc

DEADLINE: Final = 10.0
"""Seconds in which a call has to be answered."""
PAGE_SIZE: Final = 500
# By what gRPC says of a connection that could not be made.
_STEPS: Final = {
    "http1": "something else does, perhaps its REST door; take the address behind grpc= in the line that luna serve prints",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not trusted; name the file of its CA with --tls-ca or LUNA_TLS_CA",
    "Socket closed": "the connection was closed at once; it may want TLS (--tls-ca) or a client certificate (--tls-client-cert)",
}
_START: Final = "start one with luna serve, or name another one with --address or LUNA_ADDRESS"
NOT_THERE: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


class RefusedError(ClientError):
    """The registry refused a call, for example because there is no such instance."""


class Calls:
    """A connection to a registry; to be used as a context. Every method raises `ClientError`, in words for people."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._channel = endpoint.connect()
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
        raise RefusedError(f"there is no service {name!a}; luna services lists those that there are")

    def instance(self, instance_id: str) -> pb.Instance:
        """Return one instance."""
        with self._in_words():
            return self._stub.GetInstance(pb.GetInstanceRequest(instance_id=instance_id), **self._options()).instance

    def deregister(self, instance_id: str) -> None:
        """Remove an instance."""
        with self._in_words():
            self._stub.Deregister(pb.DeregisterRequest(instance_id=instance_id), **self._options())

    def drain(self, instance_id: str, seconds: float) -> pb.Instance:
        """Take an instance out of service for so many seconds; return it."""
        request = pb.DrainInstanceRequest(instance_id=instance_id)
        request.duration.FromMicroseconds(round(seconds * 1_000_000))
        with self._in_words():
            return self._stub.DrainInstance(request, **self._options()).instance

    def undrain(self, instance_id: str) -> pb.Instance | None:
        """Put an instance back into service; return it, if it is registered."""
        with self._in_words():
            answer = self._stub.UndrainInstance(pb.UndrainInstanceRequest(instance_id=instance_id), **self._options())
        return answer.instance if answer.HasField("instance") else None

    def watch(self, names: tuple[str, ...], token: str) -> Iterator[pb.WatchServicesResponse]:
        """Yield what is told of services, from `token` on; ends when the registry asks to connect anew."""
        request = pb.WatchServicesRequest(names=names, resume_token=token)
        with self._in_words():
            yield from self._stub.WatchServices(request, metadata=self._endpoint.metadata)

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
        return {"metadata": self._endpoint.metadata, "timeout": DEADLINE}

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise self._said(error) from None

    def _said(self, error: grpc.RpcError) -> ClientError:
        code, details = error.code(), error.details() or ""
        if code in NOT_THERE:
            step = next((step for sign, step in _STEPS.items() if sign in details), _START)
            return UnavailableError(
                f"no registry answers at {self._endpoint.address}{'' if self._endpoint.tls else ', without TLS'}: {step} "
                f"({_cause(details) or code.name})"
            )
        final = errors.final(code.value[0], details)
        if isinstance(final, errors.CredentialsError | errors.NotAllowedError):
            return final
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return LimitError(details)
        return RefusedError(details or code.name)


def _cause(details: str) -> str:
    return details.partition("\n")[0].rpartition("last error: ")[2]


def as_json(message: Message) -> Mapping[str, Any]:
    """Return the JSON form of a message that every gRPC tool writes, with all its fields."""
    written: Mapping[str, Any] = MessageToDict(message, always_print_fields_with_no_presence=True)
    return written
