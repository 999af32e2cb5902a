"""`python -m luna_grpc` is `luna`."""

from luna_grpc.cli import app

app()
