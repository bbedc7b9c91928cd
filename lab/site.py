"""Where the components of one node find addresses, files and timers: in the lab, or on a machine of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.state import Cluster, NodeSpec

CLIENT_PORT = 2379
PEER_PORT = 2380


@dataclass(frozen=True)
class Timers:
    """When silence means death; by default the lab's, shorter than Kubernetes' so that people see what happens."""

    node_monitor_grace_period_s: int = 10
    node_monitor_period_s: int = 1
    default_toleration_s: int = 5
    node_lease_duration_s: int = 10
    node_status_update_frequency_s: int = 5
    leader_lease_duration_s: int = 15
    heartbeat_interval_ms: int = 100
    election_timeout_ms: int = 1000
    announce_lease_duration_s: int = 4


PROFILES = {
    "kubernetes": Timers(50, 5, 300, 40, 10, announce_lease_duration_s=15),
    "lab": Timers(),
    "emulation": Timers(180, 10, 120, 180, 30, 600, 1000, 10_000, 60),
}
"""Timers by name; emulation is for machines of which each second holds but a twentieth of one."""


@dataclass(frozen=True)
class Site:
    """One node of one cluster, as its components' command lines need it."""

    cluster_name: str
    node_name: str
    address: str
    """The node's own, on the network of all nodes."""
    pod_range: str
    service_range: str
    pki: Path
    """The cluster's authorities and the control plane's certificates."""
    store_pki: Path
    """server.* and peer.* of this node's store member."""
    kubeconfigs: Path
    """Folder of the control plane's kubeconfigs and of bootstrap.kubeconfig."""
    store_data: Path
    store_members: Mapping[str, str]
    """Address by name, of all members as this one starts."""
    store_clients: tuple[str, ...]
    """Addresses of the members that this node's API server asks."""
    socket: Path
    """containerd's."""
    node_kubeconfig: Path
    node_pki: Path
    kubelet_data: Path
    cni_conf: Path
    cni_bin: Path
    cni_state: Path
    pod_logs: Path
    cgroup: str
    timers: Timers
    load_balancer_range: str = ""
    """Addresses of the nodes' network that Services of type LoadBalancer get."""
    elects: bool = True
    """Whether there are other control planes to agree with."""
    second_address: str = ""
    """The node's own of the other IP family; empty where there is none."""
    store_is_new: bool = True
    """Whether the store begins with these members; else this one joins it."""

    @property
    def node_addresses(self) -> tuple[str, ...]:
        """The node's own addresses, the first one its name for others."""
        return tuple(filter(None, (self.address, self.second_address)))


def of_lab(cluster: Cluster, node: NodeSpec, socket: Path, timers: Timers) -> Site:
    """Return a node of the lab."""
    directory = cluster.node_directory(node)
    members = {member.name: cluster.address(member) for member in cluster.store_nodes()}
    return Site(
        cluster_name=cluster.name,
        node_name=node.name,
        address=cluster.address(node),
        second_address=cluster.second_address(node),
        pod_range=",".join(cluster.pod_ranges),
        service_range=",".join(cluster.service_ranges),
        pki=cluster.pki,
        store_pki=cluster.pki / "etcd" / node.name,
        kubeconfigs=cluster.directory,
        store_data=directory / "store",
        store_members=members,
        store_clients=tuple(members.values()),
        socket=socket,
        node_kubeconfig=directory / "kubelet.kubeconfig",
        node_pki=directory / "pki",
        kubelet_data=directory / "kubelet",
        cni_conf=directory / "cni" / "net.d",
        cni_bin=directory / "cni" / "bin",
        cni_state=directory / "cni" / "state",
        pod_logs=directory / "pods",
        cgroup=f"/{cluster.cgroup}/{node.name}",
        timers=timers,
        load_balancer_range=cluster.load_balancer_range,
        elects=len(cluster.control_plane_nodes()) > 1,
    )
