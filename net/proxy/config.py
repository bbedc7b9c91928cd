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
    proxy_mode: Literal["iptables"] = "iptables"
    """How rules are written."""
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
    """The least time between two syncs, in seconds; the first change after a quiet time goes at once."""
    sync_period_s: float = 30.0
    """How often the standing rules are read and compared, in seconds; rarer where that takes long."""
    canary_interval_s: float = 5.0
    """How often to look whether somebody flushed the rules, in seconds."""
    bind_address: str = "0.0.0.0"
    """Where the health checks of Services are answered."""
    healthz_bind_address: str = "0.0.0.0:10256"
    """Where the proxy's own health is answered; empty for nowhere."""
