"""Leases as plain data: grant, revoke, keep alive, expire at a given time."""
