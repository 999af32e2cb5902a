"""The gRPC edge: converts in, calls a use case, converts out."""
