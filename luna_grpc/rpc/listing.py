"""Pages of services: cut by number and by size."""

import base64
import binascii
from collections.abc import Iterator
from heapq import heapify, heappop
from typing import Final

from luna_grpc.errors import InvalidArgumentError
from luna_grpc.registry import Registry
from luna_grpc.rpc import convert
from luna_grpc.store import Registration, Service
from luna_grpc.v1 import registry_pb2 as pb

DEFAULT_PAGE: Final = 100
MAX_BYTES: Final = 2 * 1024 * 1024
"""Half of what a gRPC client takes by default."""


def list_services(registry: Registry, request: pb.ListServicesRequest, max_page: int) -> pb.ListServicesResponse:
    """Answer ListServices with at most `max_page` services: who asks for more gets that many (https://google.aip.dev/158).

    Raises:
        InvalidArgumentError: `page_size` is negative, or `page_token` is not one of ours.

    """
    if request.page_size < 0:
        raise InvalidArgumentError(f"page_size {request.page_size} is negative", field="page_size")
    size = min(request.page_size or DEFAULT_PAGE, max_page)
    name, after = _read_token(request.page_token)
    status = convert.service_status(request.status)
    response = pb.ListServicesResponse(
        total_size=registry.count_services(prefix=request.name_prefix, status=status),
        resume_token="" if request.page_token else registry.store.feed.token(),
    )
    room = MAX_BYTES
    for service in registry.services(after=name, prefix=request.name_prefix, status=status):
        if len(response.services) == size:
            response.next_page_token = _token(service.name, "")
            break
        page = convert.service(service)
        last = after if service.name == name else ""
        for registration in _registrations(registry, service, last):
            written = page.instances.add()
            convert.fill(written, registration.instance, registration.last_heartbeat)
            room -= written.ByteSize()
            if room < 0 and (response.services or len(page.instances) > 1):
                del page.instances[-1]
                response.next_page_token = _token(service.name, last)
                break
            last = written.instance_id
        if page.instances:
            response.services.append(page)
        if response.next_page_token:
            break
    return response


def _registrations(registry: Registry, service: Service, after: str) -> Iterator[Registration]:
    """Yield those whose ids come after `after`, sorted by id. Only those that are taken are put in order, for a page shows few."""
    later = [instance_id for each in service.registrations if (instance_id := each.instance.info.instance_id) > after]
    heapify(later)
    while later:
        registration = registry.store.get(heappop(later))
        if registration is not None:
            yield registration


def _token(name: str, after: str) -> str:
    """Name the service to go on with, and the instance of it that came last; neither can hold a line break."""
    return base64.urlsafe_b64encode(f"{name}\n{after}".encode()).decode()


def _read_token(token: str) -> tuple[str, str]:
    if not token:
        return "", ""
    try:
        name, separator, after = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True).decode().partition("\n")
    except (binascii.Error, UnicodeError):
        separator = ""
    if not separator:
        raise InvalidArgumentError("page_token is not a next_page_token of this registry", field="page_token")
    return name, after
