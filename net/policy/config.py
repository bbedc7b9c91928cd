"""The settings of NetworkPolicy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PolicyConfig:
    """Settings of what enforces NetworkPolicy on one node."""

    kubeconfig: Path | None = None
    """How to reach the API server."""
    hostname_override: str = ""
    """The Node's name; the machine's name where empty."""
    metrics_bind_address: str = "127.0.0.1:10246"
    """Where /metrics is answered; empty for nowhere."""
    min_sync_period_s: float = 0.05
    """The least time between two syncs, in seconds, but for those that a new pod waits for."""
    sync_period_s: float = 300.0
    """How often the whole table is read and compared, in seconds; events tell of changes at once."""
    pod_wait_s: float = 6.0
    """How long a new pod waits until the hub's watch brings it, in seconds."""
    settle_s: float = 60.0
    """How long after a start addresses stay isolated that no pod is known to have, in seconds."""
