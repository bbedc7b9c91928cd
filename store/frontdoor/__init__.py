"""Servers that carry the service table; the services do not know which one serves them."""
