"""The settings of the routes between nodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from net.routes.mtu import Backend


@dataclass(frozen=True)
class RoutesConfig:
    """Settings of the loop that keeps one node's routes."""

    kubeconfig: Path | None = None
    """How to reach the API server."""
    hostname_override: str = ""
    """The Node's name; the machine's name where empty."""
    service_cluster_ip_range: str = ""
    """The Services' addresses; a route is made for them where the node has no default route."""
    cluster_cidr: str = ""
    """All pods' addresses, where they share one network; else each Node's own are used."""
    backend: Backend = "auto"
    """How peers' pods are reached: by the peer's own address where it is on one of our links and by VXLAN else (auto),
    or all of them in one of the two ways."""
    vxlan_id: int = 82
    """The network identifier of our tunnels."""
    vxlan_port: int = 4789
    """The UDP port of our tunnels: 4789 is IANA's, 8472 what Linux used before."""
    vxlan_checksum_offload: bool = True
    """Whether the tunnels' devices leave checksums to the hardware; some drivers get them wrong."""
    masquerade: bool = True
    """Whether pods' packets to the outside bear the node's address."""
    iptables_backend: Literal["auto", "legacy", "nft"] = "auto"
    """Which iptables programs to use."""
    resync_interval_s: float = 60.0
    """How often everything is compared anew, in seconds."""
    settle_s: float = 0.05
    """How long changes are gathered before they are acted on, in seconds."""
