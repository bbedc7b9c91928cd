"""Which components run on a node, and with which command lines: the same in the lab and on machines."""

from __future__ import annotations

import sys
from pathlib import Path

from lab import site as sites
from lab.cluster_pki import API_PORT, HUB_PORT
from lab.site import CLIENT_PORT, PEER_PORT, Site, Timers
from lab.state import Cluster, NodeSpec

CLUSTER_DNS = "169.254.20.10"
"""Where each node answers its pods' questions."""


def raftsman(*arguments: str) -> list[str]:
    """Return a command line that runs this very raftsman."""
    return [sys.executable, "-m", "cli.main", *arguments]


def store_command(site: Site) -> list[str]:
    """Return a store member's command line."""
    address, authority, own = site.address, site.pki / "etcd" / "ca.crt", site.store_pki
    members = ",".join(f"{name}=https://{member}:{PEER_PORT}" for name, member in site.store_members.items())
    return raftsman(
        "store", "--name", site.node_name, "--data-dir", str(site.store_data),
        "--listen-client-urls", f"https://{address}:{CLIENT_PORT},https://127.0.0.1:{CLIENT_PORT}",
        "--advertise-client-urls", f"https://{address}:{CLIENT_PORT}",
        "--listen-peer-urls", f"https://{address}:{PEER_PORT}",
        "--initial-advertise-peer-urls", f"https://{address}:{PEER_PORT}",
        "--initial-cluster", members, "--initial-cluster-token", site.cluster_name,
        "--initial-cluster-state", "new" if site.store_is_new else "existing",
        "--client-cert-auth", "--trusted-ca-file", str(authority),
        "--cert-file", str(own / "server.crt"), "--key-file", str(own / "server.key"),
        "--peer-client-cert-auth", "--peer-trusted-ca-file", str(authority),
        "--peer-cert-file", str(own / "peer.crt"), "--peer-key-file", str(own / "peer.key"),
        "--heartbeat-interval", str(site.timers.heartbeat_interval_ms),
        "--election-timeout", str(site.timers.election_timeout_ms),
    )  # fmt: skip


def apiserver_flags(site: Site) -> list[str]:
    """Return the flags of an API server."""
    pki, toleration = site.pki, str(site.timers.default_toleration_s)
    stores = ",".join(f"https://{address}:{CLIENT_PORT}" for address in site.store_clients)
    return [
        "--etcd-servers", stores, "--etcd-cafile", str(pki / "etcd" / "ca.crt"),
        "--etcd-certfile", str(pki / "apiserver-etcd-client.crt"),
        "--etcd-keyfile", str(pki / "apiserver-etcd-client.key"),
        "--secure-port", str(API_PORT), "--grpc-port", str(HUB_PORT), "--advertise-address", site.address,
        "--tls-cert-file", str(pki / "apiserver.crt"), "--tls-private-key-file", str(pki / "apiserver.key"),
        "--client-ca-file", str(pki / "ca.crt"),
        "--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
        "--service-account-key-file", str(pki / "sa.pub"),
        "--service-account-signing-key-file", str(pki / "sa.key"),
        "--service-cluster-ip-range", site.service_range,
        "--kubelet-client-certificate", str(pki / "apiserver-kubelet-client.crt"),
        "--kubelet-client-key", str(pki / "apiserver-kubelet-client.key"),
        "--kubelet-certificate-authority", str(pki / "ca.crt"),
        "--kubelet-preferred-address-types", "InternalIP",
        "--requestheader-client-ca-file", str(pki / "front-proxy-ca.crt"),
        "--requestheader-allowed-names", "front-proxy-client",
        "--proxy-client-cert-file", str(pki / "front-proxy-client.crt"),
        "--proxy-client-key-file", str(pki / "front-proxy-client.key"),
        "--authorization-mode", "Node,RBAC", "--enable-bootstrap-token-auth",
        "--default-not-ready-toleration-seconds", toleration,
        "--default-unreachable-toleration-seconds", toleration,
    ]  # fmt: skip


def controlplane_command(site: Site) -> list[str]:
    """Return the command line of API server, scheduler and controllers in one process."""
    pki, directory, timers = site.pki, site.kubeconfigs, site.timers
    return raftsman(
        "controlplane", *apiserver_flags(site),
        "--scheduler-kubeconfig", str(directory / "scheduler.kubeconfig"),
        "--controller-manager-kubeconfig", str(directory / "controller-manager.kubeconfig"),
        "--cloud-controller-manager-kubeconfig", str(directory / "cloud-controller-manager.kubeconfig"),
        "--cluster-cidr", site.pod_range, "--allocate-node-cidrs",
        "--cluster-signing-cert-file", str(pki / "ca.crt"), "--cluster-signing-key-file", str(pki / "ca.key"),
        "--root-ca-file", str(pki / "ca.crt"),
        "--node-monitor-grace-period", f"{timers.node_monitor_grace_period_s}s",
        "--node-monitor-period", f"{timers.node_monitor_period_s}s",
        # One control plane has nobody to agree with: three renewals every two seconds would be for nothing.
        "--leader-elect", str(site.elects).lower(),
        "--leader-elect-lease-duration", f"{timers.leader_lease_duration_s}s",
        *(["--load-balancer-pool", site.load_balancer_range] if site.load_balancer_range else []),
    )  # fmt: skip


def node_command(site: Site) -> list[str]:
    """Return the command line of a node's agent: kubelet, proxy, pod network."""
    flags = [
        "--hostname-override", site.node_name, "--node-ip", ",".join(site.node_addresses),
        "--bootstrap-kubeconfig", str(site.kubeconfigs / "bootstrap.kubeconfig"),
        "--kubeconfig", str(site.node_kubeconfig), "--cert-dir", str(site.node_pki),
        "--root-dir", str(site.kubelet_data), "--container-runtime-endpoint", f"unix://{site.socket}",
        "--client-ca-file", str(site.pki / "ca.crt"), "--cgroup-root", site.cgroup,
        "--cluster-cidr", site.pod_range, "--service-cluster-ip-range", site.service_range,
        "--cluster-dns", CLUSTER_DNS, "--cluster-domain", "cluster.local",
        "--cni-conf-dir", str(site.cni_conf), "--cni-bin-dir", str(site.cni_bin),
        "--cni-state-dir", str(site.cni_state), "--pod-logs-dir", str(site.pod_logs),
        "--node-lease-duration", f"{site.timers.node_lease_duration_s}s",
        "--node-status-update-frequency", f"{site.timers.node_status_update_frequency_s}s",
        "--announce-lease-duration", f"{site.timers.announce_lease_duration_s}s",
    ]  # fmt: skip
    return raftsman("node", "run", *flags)


def commands(cluster: Cluster, node: NodeSpec, socket: Path, timers: Timers) -> dict[str, list[str]]:
    """Return every component of a node of the lab by name, in the order of starting."""
    site = sites.of_lab(cluster, node, socket, timers)
    found = {"containerd": ["containerd", "--config", str(cluster.node_directory(node) / "containerd.toml")]}
    if node.store:
        found["store"] = store_command(site)
    if node.control_plane:
        found["controlplane"] = controlplane_command(site)
    found["node"] = node_command(site)
    return found
