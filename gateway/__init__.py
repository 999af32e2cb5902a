"""The REST and HTML edge: converts in, calls a use case, converts out."""
