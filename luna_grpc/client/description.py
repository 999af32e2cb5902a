"""What a program says of its instance."""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from luna_grpc.client.errors import ConfigurationError
from luna_grpc.v1 import registry_pb2 as pb

W = TypeVar("W", bound=StrEnum)


def described(
    before: pb.Instance, *, weight: int | None = None, metadata: Mapping[str, str] | None = None, **texts: str | None
) -> pb.Instance:
    """Return another description; what is None stays as it was. Descriptions are never changed: threads hand them on.

    Raises:
        ConfigurationError: something is not of its type.

    """
    instance = pb.Instance()
    instance.CopyFrom(before)
    for field, text in texts.items():
        if text is not None:
            _set(instance, field, text, "a text")
    if weight is not None:
        _set(instance.balancer_options, "weight", weight, "a whole number, 0 or more")
    if metadata is not None:
        wrong = [key for key, value in metadata.items() if not (isinstance(key, str) and isinstance(value, str))]
        if wrong:
            raise ConfigurationError(f"metadata is texts by texts, and {wrong[0]!r} is not: say str(...) of its key and its value")
        instance.metadata.clear()
        instance.metadata.update(metadata)
    return instance


def _set(message: pb.Instance | pb.BalancerOptions, field: str, value: object, kind: str) -> None:
    try:
        setattr(message, field, value)
    except (TypeError, ValueError):
        raise ConfigurationError(f"{field} must be {kind}, and {value!r} is not") from None


def chosen(words: type[W], said: str) -> W:
    """Return the word that a program means.

    Raises:
        ConfigurationError: it is none of them.

    """
    try:
        return words(said)
    except ValueError:
        raise ConfigurationError(f"there is no {words.__name__} {said!r}: say one of {', '.join(map(str, words))}") from None
