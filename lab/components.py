"""Which components run on a node of the lab, and with which command lines."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from lab.cluster_pki import API_PORT, HUB_PORT
from lab.state import Cluster, NodeSpec

CLIENT_PORT = 2379
PEER_PORT = 2380
NODE_MONITOR_GRACE_PERIOD_S = 10
DEFAULT_TOLERATION_S = 5


@dataclass(frozen=True)
class Timers:
    """The lab's timers, shorter than Kubernetes' own so that people see what happens."""

    node_monitor_grace_period_s: int = NODE_MONITOR_GRACE_PERIOD_S
    default_toleration_s: int = DEFAULT_TOLERATION_S
    node_lease_duration_s: int = 10


def raftsman(*arguments: str) -> list[str]:
    """Return a command line that runs this very raftsman."""
    return [sys.executable, "-m", "cli.main", *arguments]


def store_command(cluster: Cluster, node: NodeSpec) -> list[str]:
    """Return a store member's command line."""
    address, pki = cluster.address(node), cluster.pki / "etcd"
    members = ",".join(f"{m.name}=https://{cluster.address(m)}:{PEER_PORT}" for m in cluster.store_nodes())
    own = pki / node.name
    return raftsman(
        "store", "--name", node.name, "--data-dir", str(cluster.node_directory(node) / "store"),
        "--listen-client-urls", f"https://{address}:{CLIENT_PORT},https://127.0.0.1:{CLIENT_PORT}",
        "--advertise-client-urls", f"https://{address}:{CLIENT_PORT}",
        "--listen-peer-urls", f"https://{address}:{PEER_PORT}",
        "--initial-advertise-peer-urls", f"https://{address}:{PEER_PORT}",
        "--initial-cluster", members, "--initial-cluster-token", cluster.name,
        "--client-cert-auth", "--trusted-ca-file", str(pki / "ca.crt"),
        "--cert-file", str(own / "server.crt"), "--key-file", str(own / "server.key"),
        "--peer-client-cert-auth", "--peer-trusted-ca-file", str(pki / "ca.crt"),
        "--peer-cert-file", str(own / "peer.crt"), "--peer-key-file", str(own / "peer.key"),
    )  # fmt: skip


def apiserver_flags(cluster: Cluster, node: NodeSpec, timers: Timers) -> list[str]:
    """Return the flags of an API server."""
    pki, toleration = cluster.pki, str(timers.default_toleration_s)
    stores = ",".join(f"https://{cluster.address(member)}:{CLIENT_PORT}" for member in cluster.store_nodes())
    return [
        "--etcd-servers", stores, "--etcd-cafile", str(pki / "etcd" / "ca.crt"),
        "--etcd-certfile", str(pki / "apiserver-etcd-client.crt"),
        "--etcd-keyfile", str(pki / "apiserver-etcd-client.key"),
        "--secure-port", str(API_PORT), "--grpc-port", str(HUB_PORT), "--advertise-address", cluster.address(node),
        "--tls-cert-file", str(pki / "apiserver.crt"), "--tls-private-key-file", str(pki / "apiserver.key"),
        "--client-ca-file", str(pki / "ca.crt"),
        "--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
        "--service-account-key-file", str(pki / "sa.pub"),
        "--service-account-signing-key-file", str(pki / "sa.key"),
        "--service-cluster-ip-range", cluster.service_range,
        "--kubelet-client-certificate", str(pki / "apiserver-kubelet-client.crt"),
        "--kubelet-client-key", str(pki / "apiserver-kubelet-client.key"),
        "--kubelet-certificate-authority", str(pki / "ca.crt"),
        "--kubelet-preferred-address-types", "InternalIP",
        "--requestheader-client-ca-file", str(pki / "front-proxy-ca.crt"),
        "--authorization-mode", "Node,RBAC", "--enable-bootstrap-token-auth",
        "--default-not-ready-toleration-seconds", toleration,
        "--default-unreachable-toleration-seconds", toleration,
    ]  # fmt: skip


def controlplane_command(cluster: Cluster, node: NodeSpec, timers: Timers) -> list[str]:
    """Return the command line of API server, scheduler and controllers in one process."""
    pki, directory = cluster.pki, cluster.directory
    return raftsman(
        "controlplane", *apiserver_flags(cluster, node, timers),
        "--scheduler-kubeconfig", str(directory / "scheduler.kubeconfig"),
        "--controller-manager-kubeconfig", str(directory / "controller-manager.kubeconfig"),
        "--cloud-controller-manager-kubeconfig", str(directory / "cloud-controller-manager.kubeconfig"),
        "--cluster-cidr", cluster.pod_range, "--node-cidr-mask-size", "24", "--allocate-node-cidrs",
        "--cluster-signing-cert-file", str(pki / "ca.crt"), "--cluster-signing-key-file", str(pki / "ca.key"),
        "--root-ca-file", str(pki / "ca.crt"),
        "--node-monitor-grace-period", f"{timers.node_monitor_grace_period_s}s", "--node-monitor-period", "1s",
        # One control plane has nobody to agree with: three renewals every two seconds would be for nothing.
        "--leader-elect", str(len(cluster.control_plane_nodes()) > 1).lower(),
    )  # fmt: skip


def node_command(cluster: Cluster, node: NodeSpec, socket: Path, timers: Timers) -> list[str]:
    """Return the command line of a node's agent: kubelet, proxy, pod network."""
    directory = cluster.node_directory(node)
    flags = [
        "--hostname-override", node.name, "--node-ip", cluster.address(node),
        "--bootstrap-kubeconfig", str(cluster.directory / "bootstrap.kubeconfig"),
        "--kubeconfig", str(directory / "kubelet.kubeconfig"), "--cert-dir", str(directory / "pki"),
        "--root-dir", str(directory / "kubelet"), "--container-runtime-endpoint", f"unix://{socket}",
        "--client-ca-file", str(cluster.pki / "ca.crt"), "--cgroup-root", f"/{cluster.cgroup}/{node.name}",
        "--cluster-cidr", cluster.pod_range, "--service-cluster-ip-range", cluster.service_range,
        "--cni-conf-dir", str(directory / "cni" / "net.d"), "--cni-bin-dir", str(directory / "cni" / "bin"),
        "--cni-state-dir", str(directory / "cni" / "state"), "--pod-logs-dir", str(directory / "pods"),
        "--node-lease-duration", f"{timers.node_lease_duration_s}s", "--node-status-update-frequency", "5s",
    ]  # fmt: skip
    return raftsman("node", "run", *flags)


def commands(cluster: Cluster, node: NodeSpec, socket: Path, timers: Timers) -> dict[str, list[str]]:
    """Return every component of a node by name, in the order of starting."""
    found = {"containerd": ["containerd", "--config", str(cluster.node_directory(node) / "containerd.toml")]}
    if node.store:
        found["store"] = store_command(cluster, node)
    if node.control_plane:
        found["controlplane"] = controlplane_command(cluster, node, timers)
    found["node"] = node_command(cluster, node, socket, timers)
    return found
