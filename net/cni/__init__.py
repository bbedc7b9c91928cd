"""Pod wiring: the CNI shim and the daemon behind it."""
