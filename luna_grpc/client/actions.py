"""What the rules want done. A connection is a number: whoever carries actions out opens it at its first use."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from luna_grpc.client.errors import ClientError
from luna_grpc.v1 import registry_pb2 as pb


class State(StrEnum):
    """How a registration is doing."""

    STARTING = "STARTING"
    """It was never registered yet."""
    REGISTERED = "REGISTERED"
    """The registry has it, as far as is known."""
    AWAY = "AWAY"
    """The registry is silent or has forgotten it. Nothing is to be done: it is being registered again."""
    LOST = "LOST"
    """It has ended for good; the error says why."""
    STOPPED = "STOPPED"
    """The program has stopped it, or not started it."""


@dataclass(frozen=True)
class Register:
    """Ask for a registration; the outcome is told within `timeout` seconds."""

    connection: int
    request: pb.RegisterRequest
    timeout: float


@dataclass(frozen=True)
class Deregister:
    """Take a registration back; the outcome is told within `timeout` seconds."""

    connection: int
    request: pb.DeregisterRequest
    timeout: float


@dataclass(frozen=True)
class Send:
    """Send a message on the connection's heartbeat stream, which begins with its first."""

    connection: int
    message: pb.StreamHeartbeatsRequest


@dataclass(frozen=True)
class Finish:
    """Half-close the connection's stream; its end is told."""

    connection: int


@dataclass(frozen=True)
class Drop:
    """Close the connection. Nothing that it still says counts."""

    connection: int


@dataclass(frozen=True)
class Tell:
    """Tell the program how a registration is doing."""

    instance_id: str
    state: State
    error: ClientError | None = None


Action: TypeAlias = Register | Deregister | Send | Finish | Drop | Tell
