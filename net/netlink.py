"""The only door to pyroute2."""
