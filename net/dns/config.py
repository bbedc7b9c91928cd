"""The settings of a node's DNS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NODE_LOCAL_ADDRESSES = ("169.254.20.10", "fd00:90::a")
"""Where pods ask: on each node's loopback, so that a question never leaves the node."""


@dataclass(frozen=True)
class DnsConfig:
    """Settings of the server and its resolver."""

    kubeconfig: Path | None = None
    """How to reach the API server."""
    cluster_domain: str = "cluster.local"
    """The zone of all Services and pods."""
    bind_addresses: tuple[str, ...] = NODE_LOCAL_ADDRESSES
    """Where to answer."""
    port: int = 53
    """At which port."""
    interface: str = "lo"
    """Which link is given the addresses; empty where they stand somewhere already."""
    upstream: tuple[str, ...] = ()
    """Who is asked for all other names; none takes the servers of resolv_conf."""
    resolv_conf: Path = Path("/etc/resolv.conf")
    """Where the node's own servers stand."""
    reverse_cidrs: tuple[str, ...] = ()
    """Addresses of pods and Services, whose reverse names nobody else knows."""
    ttl_s: int = 5
    """How long answers of the zone hold, in seconds."""
    cache_entries_max: int = 10_000
    """How many of other servers' answers are kept."""
    cache_ttl_s: int = 30
    """How long they are kept at most, in seconds."""
    control_socket: Path = Path("/run/raftsman/dns.sock")
    """Where the resolver takes orders."""
    metrics_bind_address: str = "127.0.0.1:9153"
    """Where /metrics, /health and /ready are answered; empty for nowhere."""
    environment: tuple[tuple[str, str], ...] = ()
    """What the resolver's environment has that ours has not."""
    settle_s: float = 0.02
    """How long changes are gathered before the resolver is told, in seconds."""
