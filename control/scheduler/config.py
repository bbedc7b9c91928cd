"""What the scheduler needs to know."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from control.client.election import ElectionConfig


@dataclass(frozen=True)
class SchedulerConfig:
    """Flags of kube-scheduler, under their own names."""

    kubeconfig: Path
    election: ElectionConfig | None = None
    """None works without a Lease, for a single instance."""
    scheduler_name: str = "default-scheduler"
    """Pods with this spec.schedulerName are ours."""
    binds_max: int = 32
    """Bindings under way at once."""
