"""Luna, a service registry: the domain and its gRPC edge. See docs/architecture.md for the way data flows."""

from importlib.metadata import version

__version__ = version("luna-grpc")
