"""The network between the nodes: a bridge in a network namespace of its own, and a cable to each node."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab.state import Cluster, LabError, NodeSpec

BRIDGE = "br0"
BRIDGE_MAC = "02:00:00:00:00:01"
"""Of its own: else it is a port's, and changes under the nodes' feet with every cable."""
NAMESPACES = Path("/run/netns")


def run_ip(lines: list[str], namespace: str | None = None) -> None:
    """Carry out commands of ip(8) in one batch; raises LabError with what it said."""
    command = ["ip", *(["-n", namespace] if namespace else []), "-batch", "-"]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise LabError(f"ip failed: {done.stderr.strip()} (commands: {'; '.join(lines)})")


def exists(cluster: Cluster) -> bool:
    """Tell whether the fabric's namespace is there."""
    return (NAMESPACES / cluster.namespace).exists()


def make(cluster: Cluster) -> None:
    """Make the namespace and its bridge."""
    run_ip([f"netns add {cluster.namespace}"])
    run_ip(
        [
            "link set lo up",
            f"link add {BRIDGE} address {BRIDGE_MAC} type bridge",
            f"address add {cluster.gateway}/{cluster.fabric.prefixlen} dev {BRIDGE}",
            *([f"address add {cluster.second_fabric[1]}/64 dev {BRIDGE} nodad"] if cluster.dual_stack else []),
            f"link set {BRIDGE} up",
        ],
        cluster.namespace,
    )


def cable(cluster: Cluster, node: NodeSpec, init_pid: int) -> None:
    """Lay a cable from the bridge to eth0 of a node.

    The kernel takes a dead namespace's end of a cable away in its own time, so what is left of the last one goes first.
    """
    removal = ["ip", "-n", cluster.namespace, "link", "delete", node.name]
    subprocess.run(removal, capture_output=True, timeout=20, check=False)  # most often there is none
    run_ip(
        [
            f"link add {node.name} type veth peer name eth0 netns {init_pid}",
            f"link set {node.name} master {BRIDGE} up",
        ],
        cluster.namespace,
    )


def remove(cluster: Cluster) -> None:
    """Remove the namespace with all that is in it."""
    if exists(cluster):
        run_ip([f"netns delete {cluster.namespace}"])
