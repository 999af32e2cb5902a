"""The Python SDK: `Registration` keeps an instance registered, `ServiceResolver` finds those of others. See docs/clients.md."""

from luna_grpc.client.actions import State
from luna_grpc.client.catalogue import Instance
from luna_grpc.client.endpoint import Tls
from luna_grpc.client.errors import (
    AlreadyRegisteredError,
    ClientError,
    ConfigurationError,
    CredentialsError,
    ForkedError,
    InternalError,
    InvalidArgumentError,
    LimitError,
    NoInstanceError,
    NotAllowedError,
    NotALunaError,
    StoppedError,
    SupersededError,
    UnavailableError,
)
from luna_grpc.client.registration import Registration
from luna_grpc.client.resolver import ServiceResolver
from luna_grpc.model import OnDisconnect, Status, StatusReason

__all__ = [
    "AlreadyRegisteredError",
    "ClientError",
    "ConfigurationError",
    "CredentialsError",
    "ForkedError",
    "Instance",
    "InternalError",
    "InvalidArgumentError",
    "LimitError",
    "NoInstanceError",
    "NotALunaError",
    "NotAllowedError",
    "OnDisconnect",
    "Registration",
    "ServiceResolver",
    "State",
    "Status",
    "StatusReason",
    "StoppedError",
    "SupersededError",
    "Tls",
    "UnavailableError",
]
