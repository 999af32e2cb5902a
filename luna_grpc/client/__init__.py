"""For programs that use a registry."""
