"""Pod addresses of one node."""
