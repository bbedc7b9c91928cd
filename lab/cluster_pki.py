"""Which authorities, certificates and kubeconfigs a cluster of the lab has."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import yaml

from lab import pki
from lab.pki import CLIENT, SERVER
from lab.state import Cluster

API_PORT = 6443
HUB_PORT = 6444
SERVICE_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
CONTROL_PLANE_USERS = {
    "scheduler": "system:kube-scheduler",
    "controller-manager": "system:kube-controller-manager",
    "cloud-controller-manager": "system:cloud-controller-manager",
}


AUTHORITIES = ("ca.crt", "ca.key", "etcd/ca.crt", "etcd/ca.key", "front-proxy-ca.crt", "front-proxy-ca.key")
SHARED_FILES = (*AUTHORITIES, "sa.key", "sa.pub")
"""What all control planes of a cluster have in common."""


def make_authorities(directory: Path) -> None:
    """Make what all control planes of a cluster share: three authorities, and the key of ServiceAccount tokens.

    A cluster authority that lies there already, with its key, is used as it is.
    """
    if not (directory / "ca.key").exists():
        pki.make_authority(directory, "ca", "kubernetes")
    pki.make_authority(directory / "etcd", "ca", "etcd-ca")
    pki.make_authority(directory, "front-proxy-ca", "front-proxy-ca")
    pki.make_service_account_key(directory)


def issue_control_plane(directory: Path, addresses: Sequence[str], names: Sequence[str] = ()) -> None:
    """Issue a control plane's certificates; it is reached by loopback, and by these addresses and names."""
    authority = pki.load_authority(directory, "ca")
    front_proxy = pki.load_authority(directory, "front-proxy-ca")
    store_authority = pki.load_authority(directory / "etcd", "ca")
    pki.issue(front_proxy, directory, "front-proxy-client", "front-proxy-client")
    pki.issue(store_authority, directory, "apiserver-etcd-client", "kube-apiserver-etcd-client")
    pki.issue(
        authority, directory, "apiserver-kubelet-client", "kube-apiserver-kubelet-client",
        organizations=["raftsman:kubelet-api-admin"],
    )  # fmt: skip
    pki.issue(authority, directory, "admin", "kubernetes-admin", organizations=["system:masters"])
    for name, user in CONTROL_PLANE_USERS.items():
        pki.issue(authority, directory, name, user)
    pki.issue(
        authority, directory, "apiserver", "kube-apiserver", usages=[SERVER],
        dns_names=[*SERVICE_NAMES, "localhost", *names], addresses=["127.0.0.1", *addresses],
    )  # fmt: skip


def make(cluster: Cluster) -> None:
    """Make everything that exists before the first process starts."""
    make_authorities(cluster.pki)
    addresses = [cluster.address(node) for node in cluster.control_plane_nodes()]
    issue_control_plane(cluster.pki, [cluster.first_service_address, *addresses])
    for node in cluster.store_nodes():
        issue_store_member(cluster.pki / "etcd", node.name, cluster.address(node))


def issue_store_member(authority_directory: Path, name: str, address: str) -> None:
    """Issue a store member's serving and peer certificates, in a folder of its name; the peer's names the member."""
    authority, directory = pki.load_authority(authority_directory, "ca"), authority_directory / name
    names = [name, "localhost"]
    pki.issue(
        authority, directory, "server", name, usages=[SERVER, CLIENT], dns_names=names, addresses=[address, "127.0.0.1"]
    )
    pki.issue(
        authority, directory, "peer", name, usages=[SERVER, CLIENT],
        dns_names=names, addresses=[address], uris=[f"raftsman://member/{name}"],
    )  # fmt: skip


def api_endpoints(cluster: Cluster, port: int) -> list[str]:
    """Return HOST:PORT of every API server, as the nodes reach them."""
    return [f"{cluster.address(node)}:{port}" for node in cluster.control_plane_nodes()]


def kubeconfig(
    cluster: Cluster,
    user: str,
    credentials: dict[str, str],
    *,
    server: str | None = None,
    hub: str | None = None,
) -> str:
    """Return a kubeconfig; ``hub`` adds the gRPC address as a cluster extension that other programs ignore."""
    authority = base64.b64encode((cluster.pki / "ca.crt").read_bytes()).decode()
    entry: dict[str, object] = {
        "server": server or f"https://{api_endpoints(cluster, API_PORT)[0]}",
        "certificate-authority-data": authority,
    }
    if hub:
        entry["extensions"] = [{"name": "raftsman.dev/hub", "extension": {"server": hub}}]
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster.name, "cluster": entry}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": cluster.name, "context": {"cluster": cluster.name, "user": user}}],
        "current-context": cluster.name,
    }
    return str(yaml.safe_dump(document, sort_keys=False))


def certificate_credentials(directory: Path, basename: str) -> dict[str, str]:
    """Return a kubeconfig's user entry with the certificate and key inside."""
    return {
        "client-certificate-data": base64.b64encode((directory / f"{basename}.crt").read_bytes()).decode(),
        "client-key-data": base64.b64encode((directory / f"{basename}.key").read_bytes()).decode(),
    }


def write_kubeconfigs(cluster: Cluster) -> None:
    """Write the kubeconfigs of the control plane's components, of joining nodes and of the administrator."""
    hub = ",".join(api_endpoints(cluster, HUB_PORT))
    for name, user in CONTROL_PLANE_USERS.items():
        credentials = certificate_credentials(cluster.pki, name)
        local = kubeconfig(
            cluster, user, credentials, server=f"https://127.0.0.1:{API_PORT}", hub=f"127.0.0.1:{HUB_PORT}"
        )
        pki.write_private(cluster.directory / f"{name}.kubeconfig", local.encode())
    joining = kubeconfig(cluster, "bootstrap", {"token": cluster.bootstrap_token}, hub=hub)
    pki.write_private(cluster.directory / "bootstrap.kubeconfig", joining.encode())
    administrator = kubeconfig(
        cluster, "kubernetes-admin", certificate_credentials(cluster.pki, "admin"),
        server=f"https://127.0.0.1:{cluster.api_port}",
    )  # fmt: skip
    pki.write_private(cluster.kubeconfig, administrator.encode())
