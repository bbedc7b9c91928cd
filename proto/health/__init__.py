"""gRPC's own health checking protocol."""
