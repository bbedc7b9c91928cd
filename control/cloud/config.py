"""Everything that the cloud controller manager needs to know, built once from its flags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from control.client.election import ElectionConfig


@dataclass(frozen=True)
class CloudConfig:
    """One cloud controller manager: flags of cloud-controller-manager, under their own names."""

    kubeconfig: Path
    election: ElectionConfig | None = None
    """None works without a Lease, for a single instance."""
    cloud_provider: str = "inventory"
    cloud_config: Path | None = None
    """The provider's own file."""
    load_balancer_pool: str = ""
    """Networks and ranges FIRST-LAST whose addresses Services of type LoadBalancer get; none leaves them pending."""
    node_monitor_period_s: float = 5.0
    """How often nodes in trouble are held against their machines."""
    node_status_update_period_s: float = 300.0
    """How often addresses and labels are brought up to date."""
