"""The kubelet's configuration, built once by the command and passed down."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_ROOT = Path("/var/lib/kubelet")
DEFAULT_POD_LOGS = Path("/var/log/pods")


@dataclass(frozen=True)
class KubeletConfig:
    """Everything that a kubelet is told; names are those of upstream's flags, units last."""

    node_name: str
    """--hostname-override: the Node object's name."""
    kubeconfig: Path
    """Where the API server is and who we are; written by the bootstrap where it is missing."""
    bootstrap_kubeconfig: Path | None = None
    """The kubeconfig with a bootstrap token that asks for the first certificate."""
    node_ips: tuple[str, ...] = ()
    """--node-ip: the node's addresses, the main one first."""
    container_runtime_endpoint: str = "unix:///run/containerd/containerd.sock"
    root_dir: Path = DEFAULT_ROOT
    cert_dir: Path = Path("/var/lib/kubelet/pki")
    pod_logs_dir: Path = DEFAULT_POD_LOGS
    cluster_dns: tuple[str, ...] = ()
    cluster_domain: str = "cluster.local"
    resolv_conf: Path = Path("/etc/resolv.conf")
    address: str = "0.0.0.0"
    port: int = 10250
    client_ca_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_private_key_file: Path | None = None
    rotate_server_certificates: bool = True
    """Ask the API server for the serving certificate; else it is self-signed."""
    authentication_token_webhook: bool = True
    """Ask the API server whom a bearer token names."""
    authorization_mode: str = "Webhook"
    """Webhook asks the API server about each caller it does not know; AlwaysAllow asks nobody."""
    cgroup_root: str = "/"
    cgroup_driver: str = "cgroupfs"
    enforce_pod_cgroups: bool = True
    """Size the cgroup of each pod by its requests and limits."""
    node_status_update_frequency_s: float = 10.0
    node_status_report_frequency_s: float = 300.0
    """How long an unchanged Node status may go unreported; the Lease says that the node lives."""
    node_lease_duration_s: int = 40
    max_pods: int = 110
    node_labels: dict[str, str] = field(default_factory=dict)
    register_with_taints: tuple[dict[str, str], ...] = ()
    provider_id: str = ""
    system_reserved: dict[str, str] = field(default_factory=dict)
    sync_frequency_s: float = 60.0
    """How old a ConfigMap or Secret in a volume may be."""
    relist_period_s: float = 1.0
    """How often the runtime is listed where it sends no events."""
    housekeeping_period_s: float = 10.0
    image_pulls_max: int = 3
    container_log_max_bytes: int = 10 * 1024 * 1024
    container_log_files_max: int = 5
    image_gc_high_percent: int = 85
    image_gc_low_percent: int = 80

    @property
    def lease_period_s(self) -> float:
        """How often the Lease is renewed: a quarter of its life, and no slower than the status."""
        return min(self.node_lease_duration_s * 0.25, self.node_status_update_frequency_s)
