"""What the scheduler needs to know."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SchedulerConfig:
    """Flags of kube-scheduler, under their own names."""

    kubeconfig: Path
    identity: str
    """How this instance calls itself in the leader's Lease."""
    scheduler_name: str = "default-scheduler"
    """Pods with this spec.schedulerName are ours."""
    leader_elect: bool = True
    leader_elect_lease_duration_s: float = 15.0
    leader_elect_renew_deadline_s: float = 10.0
    leader_elect_retry_period_s: float = 2.0
    binds_max: int = 32
    """Bindings under way at once."""
