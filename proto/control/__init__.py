"""The hub's gRPC API."""
