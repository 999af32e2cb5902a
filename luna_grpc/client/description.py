"""What a program says of its instance."""

from collections.abc import Mapping

from luna_grpc.client.errors import ConfigurationError
from luna_grpc.v1 import registry_pb2 as pb


def described(
    before: pb.Instance,
    *,
    url: str | None = None,
    name: str | None = None,
    version: str | None = None,
    description: str | None = None,
    weight: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> pb.Instance:
    """Return another description; what is None stays as it was. Descriptions are never changed: threads hand them on."""
    instance = pb.Instance()
    instance.CopyFrom(before)
    for field, text in {"url": url, "name": name, "version": version, "description": description}.items():
        if text is not None:
            setattr(instance, field, text)
    if weight is not None:
        instance.balancer_options.weight = weight
    if metadata is not None:
        wrong = [key for key, value in metadata.items() if not (isinstance(key, str) and isinstance(value, str))]
        if wrong:
            raise ConfigurationError(f"metadata is texts by texts, and {wrong[0]!r} is not: say str(...) of its key and its value")
        instance.metadata.clear()
        instance.metadata.update(metadata)
    return instance
