"""``raftsman node run``: everything that one node needs, in one process.

The kubelet joins first: it turns its bootstrap token into a certificate. With that identity the agent asks for those of
the proxy and of the pod network, each with rights of its own and no more, and starts them beside the kubelet.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal

import click

import net.cni.server
import net.policy.server
import net.proxy.server
import net.routes.server
import node.bootstrap
import node.kubelet
from control.api.status import ApiError
from control.client import kubeconfig
from control.client.certificates import NODE_COMPONENT, USAGES_CLIENT, CertificateError, request_certificate
from control.client.flags import DURATION
from control.client.kubeconfig import Kubeconfig, Material
from control.client.options import run_until_signalled
from net.cni.config import CniConfig
from net.policy.config import PolicyConfig
from net.proxy.config import ProxyConfig
from net.routes.config import RoutesConfig
from node.config import KubeletConfig

log = logging.getLogger(__name__)
RETRY_S = 1.0
COMPONENT_USERS = {"proxy": "system:kube-proxy", "cni": "raftsman:cni"}


async def component_kubeconfig(own: Kubeconfig, component: str, directory: Path) -> Path:
    """Get a component's certificate and write its kubeconfig; tried again until it is granted."""
    client = own.client(f"raftsman-node/{component}")
    try:
        while True:
            try:
                files = await request_certificate(
                    client, NODE_COMPONENT, COMPONENT_USERS[component], (), USAGES_CLIENT,
                    directory=directory, basename=component,
                )  # fmt: skip
                break
            except (ApiError, CertificateError) as error:
                log.warning("no certificate yet component=%s error=%s", component, error)
                await asyncio.sleep(RETRY_S)
    finally:
        await client.close()
    theirs = replace(
        own, client_certificate=Material(path=files.certificate), client_key=Material(path=files.key), token=Material()
    )
    path = directory / f"{component}.kubeconfig"
    kubeconfig.write(path, theirs, user_name=COMPONENT_USERS[component])
    return path


async def run_network(
    own: Kubeconfig, directory: Path, cni: CniConfig, proxy: ProxyConfig, routes: RoutesConfig
) -> None:
    """Run pod network, policies, proxy and routes of a node that has joined."""
    cni_path, proxy_path = await asyncio.gather(
        component_kubeconfig(own, "cni", directory), component_kubeconfig(own, "proxy", directory)
    )
    policies = net.policy.server.make(PolicyConfig(cni_path, cni.hostname_override))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(policies.serve(), name="policy")
        tasks.create_task(net.cni.server.run(replace(cni, kubeconfig=cni_path), gate=policies), name="cni")
        tasks.create_task(net.proxy.server.run(replace(proxy, kubeconfig=proxy_path)), name="proxy")
        tasks.create_task(net.routes.server.run(replace(routes, kubeconfig=cni_path)), name="routes")


async def run_agent(kubelet: KubeletConfig, cni: CniConfig, proxy: ProxyConfig, routes: RoutesConfig) -> None:
    """Join, then run a node until cancelled; one part's failure ends all, and whoever keeps the process restarts it."""
    own = await node.bootstrap.join(kubelet)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(node.kubelet.run(kubelet), name="kubelet")
        tasks.create_task(run_network(own, kubelet.cert_dir, cni, proxy, routes), name="network")


def _labels(pairs: tuple[str, ...]) -> dict[str, str]:
    named = [pair.partition("=") for text in pairs for pair in text.split(",") if pair]
    return {key: value for key, _, value in named}


@click.command(context_settings={"show_default": True})
@click.option("--hostname-override", required=True, help="The Node's name.")
@click.option("--node-ip", required=True, help="The node's address on the network of all nodes.")
@click.option("--bootstrap-kubeconfig", type=click.Path(path_type=Path), help="A kubeconfig with a bootstrap token.")
@click.option("--kubeconfig", "kubeconfig_path", type=click.Path(path_type=Path), required=True, help="The node's own.")
@click.option("--cert-dir", type=click.Path(path_type=Path), default="/var/lib/kubelet/pki", help="Certificates.")
@click.option("--root-dir", type=click.Path(path_type=Path), default="/var/lib/kubelet", help="Volumes of pods.")
@click.option("--container-runtime-endpoint", default="unix:///run/containerd/containerd.sock", help="CRI's socket.")
@click.option("--client-ca-file", type=click.Path(path_type=Path), help="Who may call the kubelet.")
@click.option("--cgroup-root", default="/", help="The control group above all pods.")
@click.option("--cluster-cidr", default="", help="All pods' addresses.")
@click.option("--service-cluster-ip-range", default="", help="All Services' addresses.")
@click.option(
    "--proxy-mode",
    type=click.Choice(["nftables", "iptables"]),
    default="nftables",
    help="How Services' rules are written.",
)
@click.option("--cni-conf-dir", type=click.Path(path_type=Path), default="/etc/cni/net.d")
@click.option("--cni-bin-dir", type=click.Path(path_type=Path), default="/opt/cni/bin")
@click.option("--cni-state-dir", type=click.Path(path_type=Path), default="/var/lib/raftsman/cni")
@click.option("--cni-socket", type=click.Path(path_type=Path), default="/run/raftsman/cni.sock")
@click.option("--pod-logs-dir", type=click.Path(path_type=Path), default="/var/log/pods")
@click.option("--node-labels", multiple=True, help="KEY=VALUE, …: labels that the Node registers with.")
@click.option("--cluster-dns", multiple=True, help="Name servers written into pods.")
@click.option("--node-lease-duration", type=DURATION, default="40s", help="How long a silent node counts as alive.")
@click.option("--node-status-update-frequency", type=DURATION, default="10s", help="How often the Node is reported.")
@click.option("-v", "--v", "verbosity", type=int, default=0, help="Log more from 4 on.")
def run(
    hostname_override: str,
    node_ip: str,
    bootstrap_kubeconfig: Path | None,
    kubeconfig_path: Path,
    cert_dir: Path,
    root_dir: Path,
    container_runtime_endpoint: str,
    client_ca_file: Path | None,
    cgroup_root: str,
    cluster_cidr: str,
    service_cluster_ip_range: str,
    proxy_mode: Literal["nftables", "iptables"],
    cni_conf_dir: Path,
    cni_bin_dir: Path,
    cni_state_dir: Path,
    cni_socket: Path,
    pod_logs_dir: Path,
    node_labels: tuple[str, ...],
    cluster_dns: tuple[str, ...],
    node_lease_duration: float,
    node_status_update_frequency: float,
    verbosity: int,
) -> None:
    """Run a node's agent: kubelet, proxy and pod network in one process.

    \b
    Examples:
      raftsman node run --hostname-override n1 --node-ip 10.77.0.11 \\
        --bootstrap-kubeconfig bootstrap.kubeconfig --kubeconfig /etc/raftsman/kubelet.kubeconfig
    """
    logging.basicConfig(
        level=logging.DEBUG if verbosity >= 4 else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    kubelet = KubeletConfig(
        node_name=hostname_override,
        kubeconfig=kubeconfig_path,
        bootstrap_kubeconfig=bootstrap_kubeconfig,
        node_ips=(node_ip,),
        container_runtime_endpoint=container_runtime_endpoint,
        root_dir=root_dir,
        cert_dir=cert_dir,
        pod_logs_dir=pod_logs_dir,
        client_ca_file=client_ca_file,
        cgroup_root=cgroup_root,
        cluster_dns=cluster_dns,
        node_labels=_labels(node_labels),
        node_lease_duration_s=int(node_lease_duration),
        node_status_update_frequency_s=node_status_update_frequency,
    )
    cni = CniConfig(
        hostname_override=hostname_override,
        cni_conf_dir=cni_conf_dir,
        cni_bin_dir=cni_bin_dir,
        socket=cni_socket,
        state_dir=cni_state_dir,
    )
    proxy = ProxyConfig(hostname_override=hostname_override, cluster_cidr=cluster_cidr, proxy_mode=proxy_mode)
    routes = RoutesConfig(
        hostname_override=hostname_override,
        service_cluster_ip_range=service_cluster_ip_range,
        cluster_cidr=cluster_cidr,
    )
    run_until_signalled(run_agent(kubelet, cni, proxy, routes))
