"""Everything that the controller manager needs to know, built once from its flags."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from control.client.election import ElectionConfig
from control.controllers.nodelifecycle import NodeLifecycleConfig


@dataclass(frozen=True)
class ControllersConfig:
    """One controller manager: flags of kube-controller-manager, under their own names."""

    kubeconfig: Path
    election: ElectionConfig | None = None
    """None works without a Lease, for a single instance."""
    controllers: tuple[str, ...] = ("*",)
    """Names to run: "*" for all that are on by default, "name" and "-name"."""
    allocate_node_cidrs: bool = False
    cluster_cidrs: tuple[str, ...] = ()
    """The pods' address ranges, one of each IP family at most."""
    node_cidr_mask_size_ipv4: int = 24
    node_cidr_mask_size_ipv6: int = 64
    node_lifecycle: NodeLifecycleConfig = field(default_factory=NodeLifecycleConfig)
    cluster_signing_cert_file: Path | None = None
    cluster_signing_key_file: Path | None = None
    cluster_signing_duration: timedelta = timedelta(days=365)
    root_ca_file: Path | None = None
    resource_quota_sync_period_s: float = 300.0
    """How often quotas are counted anew without any news."""
    terminated_pods_max: int = 12500
    """Finished pods kept; 0 keeps all."""

    def wants(self, name: str) -> bool:
        """Tell whether a controller is to run."""
        if f"-{name}" in self.controllers:
            return False
        return name in self.controllers or "*" in self.controllers
