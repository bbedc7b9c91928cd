"""A machine as providers describe it."""

from __future__ import annotations

from dataclasses import dataclass


class ProviderError(Exception):
    """The provider cannot answer now; nothing may be concluded about its machines."""


@dataclass(frozen=True)
class Machine:
    """One machine that a node runs on."""

    provider_id: str
    """Its unchanging name, as provider://path."""
    addresses: tuple[tuple[str, str], ...] = ()
    """Type (InternalIP, ExternalIP, Hostname, …) and address; none leaves what the kubelet says."""
    instance_type: str = ""
    zone: str = ""
    region: str = ""
    is_shut_down: bool = False
