"""The settings of the CNI daemon."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class CniConfig:
    """Settings of the daemon that wires pods on one node."""

    kubeconfig: Path | None = None
    """How the daemon reaches the API server; None runs it alone, which needs pod_cidr."""
    hostname_override: str = ""
    """The Node's name; the machine's name where empty."""
    cni_conf_dir: Path = Path("/etc/cni/net.d")
    """Where the container runtime looks for network configurations."""
    cni_bin_dir: Path = Path("/opt/cni/bin")
    """Where the container runtime looks for plugins; each node needs a folder of its own."""
    socket: Path = Path("/run/raftsman/cni.sock")
    """The unix socket on which the shims reach the daemon."""
    state_dir: Path = Path("/var/lib/raftsman/cni")
    """Where the addresses in use are remembered."""
    pod_cidr: str = ""
    """The node's pod CIDRs, one a family, where there is no API server to say them."""
    cni_mode: Literal["ptp", "bridge"] = "ptp"
    """How pods are joined to the node: each by a cable of its own, or all by one bridge."""
    mtu: int = 0
    """The pods' MTU in bytes; that of the node's uplink where 0."""
    pod_wait_s: float = 8.0
    """How long ADD waits until the informer knows the pod, and then for the pod's isolation, in seconds."""
    reuse_delay_s: float = 30.0
    """How long a released address rests, in seconds."""
    collect_interval_s: float = 60.0
    """How often the daemon looks for what crashed pods left behind, in seconds."""
    host_ports_interval_s: float = 0.8
    """How often the daemon looks whether the host ports' table is there still, in seconds."""
    wiring_threads: int = 4
    """How many interfaces are made or removed at once; the kernel has one lock for them all."""
    calls_max: int = 256
    """How many calls may wait at once; the next one is told to try again."""
