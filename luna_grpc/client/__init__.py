"""The Python SDK: `Registration` keeps an instance registered. See docs/clients.md."""

from luna_grpc.client.actions import State
from luna_grpc.client.endpoint import Tls
from luna_grpc.client.errors import (
    AlreadyRegisteredError,
    ClientError,
    ConfigurationError,
    CredentialsError,
    ForkedError,
    InternalError,
    InvalidArgumentError,
    NoInstanceError,
    NotAllowedError,
    NotALunaError,
    StoppedError,
    SupersededError,
    UnavailableError,
)
from luna_grpc.client.registration import Registration
from luna_grpc.model import OnDisconnect, Status

__all__ = [
    "AlreadyRegisteredError",
    "ClientError",
    "ConfigurationError",
    "CredentialsError",
    "ForkedError",
    "InternalError",
    "InvalidArgumentError",
    "NoInstanceError",
    "NotALunaError",
    "NotAllowedError",
    "OnDisconnect",
    "Registration",
    "State",
    "Status",
    "StoppedError",
    "SupersededError",
    "Tls",
    "UnavailableError",
]
