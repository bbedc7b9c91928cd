"""The settings of the announcer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NAMESPACE = "raftsman-announce"
"""Where the Leases stand: by themselves, so that the right to write them is a right to nothing else."""


@dataclass(frozen=True)
class AnnounceConfig:
    """Settings of one node's announcer."""

    kubeconfig: Path | None = None
    """How to reach the API server."""
    hostname_override: str = ""
    """The Node's name; the machine's name where empty."""
    interface: str = ""
    """The link to answer on; empty for the one whose network an address is of."""
    lease_duration_s: float = 15.0
    """After how long a silent node's addresses are taken over, in seconds."""
    namespace: str = NAMESPACE
    """Where the Leases stand."""
