"""One door to the nodes for commands that look into them: the lab's namespaces, or the machine that this runs on.

    lab            /proc/PID-1-of-the-node/ns/net, and its own root for the namespaces of pods
    --node-local   /proc/self/ns/net: the command runs on the node

The flags of a node's agent are read from its running process, so that what is explained is what it does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cli.agent import network_config
from cli.agent import run as agent_command
from lab import nodes, processes
from lab.state import Cluster
from net.cni.keeper import STATE_FILE
from net.explain import reader
from net.explain.steps import NodeSettings
from net.ipam import files
from net.ipam.allocator import Allocator, Claim
from net.netlink import read_sysctl
from net.nftables.door import is_supported


@dataclass(frozen=True)
class NodeDoor:
    """The way into one node."""

    name: str
    pid: int = 0
    """A process that stands in the node's namespaces; 0 for this one."""
    flags: dict[str, Any] = field(default_factory=dict)
    """The agent's flags, by click's names; empty where it does not run."""

    @property
    def network(self) -> Path:
        """The node's network namespace."""
        return Path("/proc", str(self.pid) if self.pid else "self", "ns", "net")

    def path(self, text: str) -> Path:
        """Return a path of the node's own files as this process reaches it."""
        if not self.pid:
            return Path(text)
        # /var/run is a link from the root on, which would lead into our own root.
        inner = text.replace("/var/run/", "/run/", 1) if text.startswith("/var/run/") else text
        return Path(f"/proc/{self.pid}/root{inner}")

    def claims(self) -> tuple[Claim, ...]:
        """Return what the node's pods hold, as its agent keeps it on disk."""
        directory = self.flags.get("cni_state_dir")
        state = files.load(self.path(str(directory)) / STATE_FILE) if directory is not None else None
        return tuple(Allocator.from_state(state, 0.0).claims.values()) if state is not None else ()

    def pod_networks(self) -> dict[str, Path]:
        """Return the network namespaces of the node's pods, by namespace/name."""
        return {claim.pod: self.path(claim.namespace_path) for claim in self.claims() if claim.pod}

    @property
    def settings(self) -> NodeSettings:
        """What shapes the way of packets on this node."""
        if not self.flags:
            return NodeSettings()
        network = network_config(self.flags)
        # The proxy takes iptables where the kernel has no nf_tables, whatever it was told.
        proxy = network.proxy if is_supported() else replace(network.proxy, proxy_mode="iptables")
        with reader.namespace(self.network):
            is_liberal = read_sysctl("net/netfilter/nf_conntrack_tcp_be_liberal") == "1"
        domain = str(self.flags.get("cluster_domain") or NodeSettings().cluster_domain)
        return NodeSettings(proxy, network.routes, network.cni.cni_mode, domain, is_liberal)


def agent_flags(arguments: Iterable[str]) -> dict[str, Any]:
    """Read an agent's command line as the agent itself does; empty where it is none's."""
    words = list(arguments)
    for position in range(len(words) - 1):
        if words[position : position + 2] == ["node", "run"]:
            rest = words[position + 2 :]
            return dict(agent_command.make_context("run", rest, resilient_parsing=True).params)
    return {}


def command_line(pid: int) -> list[str]:
    """Return a process's arguments; none where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def of_lab(cluster: Cluster) -> dict[str, NodeDoor]:
    """Return the doors of a lab cluster's running nodes."""
    found = {}
    for node in cluster.nodes:
        if not nodes.is_running(cluster, node):
            continue
        agent = processes.main_process(cluster, f"{node.name}/node")
        flags = agent_flags(command_line(agent.pid)) if agent is not None else {}
        found[node.name] = NodeDoor(node.name, cluster.init_pids[node.name], flags)
    return found


def of_this_machine() -> dict[str, NodeDoor]:
    """Return the door of the node that this machine is; none where no agent runs here."""
    mine = os.readlink("/proc/self/ns/net")
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if os.readlink(entry / "ns" / "net") != mine:
                continue
        except OSError:
            continue  # it ended, or belongs to somebody else
        flags = agent_flags(command_line(int(entry.name)))
        if name := str(flags.get("hostname_override") or ""):
            return {name: NodeDoor(name, 0, flags)}
    return {}
