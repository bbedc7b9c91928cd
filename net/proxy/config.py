"""The settings of the proxy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class ProxyConfig:
    """Settings of the proxy of one node; names and defaults are kube-proxy's where it has them."""

    kubeconfig: Path | None = None
    """How to reach the API server."""
    hostname_override: str = ""
    """The Node's name; the machine's name where empty."""
    proxy_mode: Literal["nftables", "iptables"] = "nftables"
    """How rules are written; iptables is taken, too, where the kernel has no nf_tables."""
    iptables_backend: Literal["auto", "legacy", "nft"] = "auto"
    """Which iptables programs to use."""
    cluster_cidr: str = ""
    """Where pods' addresses come from; the node's own pod CIDR where empty."""
    nodeport_addresses: tuple[str, ...] = ()
    """Networks of the addresses that serve node ports, or "primary"; all local ones where empty."""
    masquerade_all: bool = False
    """Whether all traffic to cluster IPs bears the node's address."""
    masquerade_bit: int = 14
    """The bit of the packet mark that asks for masquerading."""
    min_sync_period_s: float = 1.0
    """The least time between two syncs of iptables, in seconds; the first change after a quiet time goes at once."""
    nftables_min_sync_period_s: float = 0.01
    """The same of nftables, where a sync costs less than a millisecond."""
    sync_period_s: float = 30.0
    """How often the standing rules of iptables are read and compared, in seconds; rarer where that takes long."""
    nftables_sync_period_s: float = 300.0
    """The same of nftables, where events tell of what others change."""
    canary_interval_s: float = 5.0
    """How often to look whether somebody flushed the rules, in seconds."""
    bind_address: str = "0.0.0.0"
    """Where the health checks of Services are answered."""
    healthz_bind_address: str = "0.0.0.0:10256"
    """Where the proxy's own health is answered; empty for nowhere."""
    remove_other_modes: bool = True
    """Whether rules that another mode left are taken away once ours stand."""
    metrics_bind_address: str = "127.0.0.1:10249"
    """Where metrics are served; empty for nowhere."""
    conntrack_full_share: float = 0.9
    """From which share of its room on connection tracking counts as nearly full, and is reported."""
    conntrack_interval_s: float = 10.0
    """How often to look how full it is, in seconds."""

    def sync_period_of(self, mode: str) -> float:
        """Return how often a mode's rules are compared, in seconds."""
        return self.nftables_sync_period_s if mode == "nftables" else self.sync_period_s

    def min_sync_period_of(self, mode: str) -> float:
        """Return the least time between two syncs of a mode, in seconds."""
        return self.nftables_min_sync_period_s if mode == "nftables" else self.min_sync_period_s
