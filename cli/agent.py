"""``raftsman node run``: everything that one node needs, in one process.

The kubelet joins first: it turns its bootstrap token into a certificate. With that identity the agent asks for those of
the proxy and of the pod network, each with rights of its own and no more, and starts them beside the kubelet.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

import net.announce.server
import net.cni.server
import net.dns.server
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
from lab.processes import COMPONENT_MARK
from net.announce.config import AnnounceConfig
from net.cni.config import CniConfig
from net.dns.config import NODE_LOCAL_ADDRESSES, DnsConfig
from net.policy.config import PolicyConfig
from net.proxy.config import ProxyConfig
from net.routes.command import BACKEND_HELP
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


@dataclass(frozen=True)
class Network:
    """The settings of a node's network parts."""

    cni: CniConfig
    proxy: ProxyConfig
    routes: RoutesConfig
    announce: AnnounceConfig
    dns: DnsConfig | None
    """None where another server answers the cluster's names."""


async def run_network(own: Kubeconfig, directory: Path, network: Network) -> None:
    """Run pod network, policies, proxy, routes, DNS and announcer of a node that has joined."""
    cni_path, proxy_path = await asyncio.gather(
        component_kubeconfig(own, "cni", directory), component_kubeconfig(own, "proxy", directory)
    )
    policies = net.policy.server.make(PolicyConfig(cni_path, network.cni.hostname_override))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(policies.serve(), name="policy")
        tasks.create_task(net.cni.server.run(replace(network.cni, kubeconfig=cni_path), gate=policies), name="cni")
        tasks.create_task(net.proxy.server.run(replace(network.proxy, kubeconfig=proxy_path)), name="proxy")
        tasks.create_task(net.routes.server.run(replace(network.routes, kubeconfig=cni_path)), name="routes")
        tasks.create_task(net.announce.server.run(replace(network.announce, kubeconfig=cni_path)), name="announce")
        if network.dns is not None:
            tasks.create_task(net.dns.server.run(replace(network.dns, kubeconfig=cni_path)), name="dns")


async def run_agent(kubelet: KubeletConfig, network: Network) -> None:
    """Join, then run a node until cancelled; one part's failure ends all, and whoever keeps the process restarts it."""
    own = await node.bootstrap.join(kubelet)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(node.kubelet.run(kubelet), name="kubelet")
        tasks.create_task(run_network(own, kubelet.cert_dir, network), name="network")


def _labels(pairs: tuple[str, ...]) -> dict[str, str]:
    named = [pair.partition("=") for text in pairs for pair in text.split(",") if pair]
    return {key: value for key, _, value in named}


@click.command(context_settings={"show_default": True})
@click.option("--hostname-override", required=True, help="The Node's name.")
@click.option(
    "--node-ip",
    required=True,
    help="The node's address on the network of all nodes; IPV4,IPV6 where it has one of each family.",
)
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
@click.option("--cni-mode", type=click.Choice(["ptp", "bridge"]), default="ptp", help="Cables to pods, or a bridge.")
@click.option("--backend", type=click.Choice(["auto", "host-gw", "vxlan"]), default="auto", help=BACKEND_HELP)
@click.option("--vxlan-id", type=click.IntRange(1, 2**24 - 1), default=82, help="The VNI of tunnels to peers.")
@click.option("--vxlan-port", type=click.IntRange(1, 65535), default=4789, help="The UDP port of tunnels to peers.")
@click.option("--vxlan-checksum-offload/--no-vxlan-checksum-offload", default=True, help="For drivers that err.")
@click.option("--cni-conf-dir", type=click.Path(path_type=Path), default="/etc/cni/net.d")
@click.option("--cni-bin-dir", type=click.Path(path_type=Path), default="/opt/cni/bin")
@click.option("--cni-state-dir", type=click.Path(path_type=Path), default="/var/lib/raftsman/cni")
@click.option("--cni-socket", type=click.Path(path_type=Path), default="/run/raftsman/cni.sock")
@click.option("--pod-logs-dir", type=click.Path(path_type=Path), default="/var/log/pods")
@click.option("--node-labels", multiple=True, help="KEY=VALUE, …: labels that the Node registers with.")
@click.option("--cluster-dns", multiple=True, default=NODE_LOCAL_ADDRESSES[:1], help="Name servers written into pods.")
@click.option("--cluster-domain", default="cluster.local", help="The zone of all Services and pods.")
@click.option("--dns/--no-dns", default=True, help="Whether this node answers the cluster's names.")
@click.option("--dns-upstream", default="", help="ADDRESS[:PORT],…: who is asked for other names.")
@click.option(
    "--resolv-conf", type=click.Path(path_type=Path), default="/etc/resolv.conf", help="The node's own resolver file."
)
@click.option("--node-lease-duration", type=DURATION, default="40s", help="How long a silent node counts as alive.")
@click.option("--node-status-update-frequency", type=DURATION, default="10s", help="How often the Node is reported.")
@click.option("--announce-lease-duration", type=DURATION, default="15s", help="How long a silent node keeps addresses.")
@click.option("-v", "--v", "verbosity", type=int, default=0, help="Log more from 4 on.")
def run(verbosity: int, **flags: Any) -> None:
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
    run_until_signalled(run_agent(kubelet_config(flags), network_config(flags)))


def kubelet_config(flags: Mapping[str, Any]) -> KubeletConfig:
    """Return the kubelet's settings."""
    return KubeletConfig(
        node_name=flags["hostname_override"],
        kubeconfig=flags["kubeconfig_path"],
        bootstrap_kubeconfig=flags["bootstrap_kubeconfig"],
        node_ips=tuple(flags["node_ip"].split(",")),
        container_runtime_endpoint=flags["container_runtime_endpoint"],
        root_dir=flags["root_dir"],
        cert_dir=flags["cert_dir"],
        pod_logs_dir=flags["pod_logs_dir"],
        client_ca_file=flags["client_ca_file"],
        cgroup_root=flags["cgroup_root"],
        cluster_dns=flags["cluster_dns"],
        cluster_domain=flags["cluster_domain"],
        resolv_conf=flags["resolv_conf"],
        node_labels=_labels(flags["node_labels"]),
        node_lease_duration_s=int(flags["node_lease_duration"]),
        node_status_update_frequency_s=flags["node_status_update_frequency"],
    )


def network_config(flags: Mapping[str, Any]) -> Network:
    """Return the settings of the network's parts."""
    name, cluster_cidr, services = flags["hostname_override"], flags["cluster_cidr"], flags["service_cluster_ip_range"]
    mark = f"{os.environ.get(COMPONENT_MARK, '').partition('/')[0]}/dns"
    return Network(
        cni=CniConfig(
            hostname_override=name,
            cni_mode=flags["cni_mode"],
            cni_conf_dir=flags["cni_conf_dir"],
            cni_bin_dir=flags["cni_bin_dir"],
            socket=flags["cni_socket"],
            state_dir=flags["cni_state_dir"],
        ),
        proxy=ProxyConfig(hostname_override=name, cluster_cidr=cluster_cidr, proxy_mode=flags["proxy_mode"]),
        routes=RoutesConfig(
            hostname_override=name,
            service_cluster_ip_range=services,
            cluster_cidr=cluster_cidr,
            backend=flags["backend"],
            vxlan_id=flags["vxlan_id"],
            vxlan_port=flags["vxlan_port"],
            vxlan_checksum_offload=flags["vxlan_checksum_offload"],
        ),
        announce=AnnounceConfig(hostname_override=name, lease_duration_s=flags["announce_lease_duration"]),
        dns=DnsConfig(
            cluster_domain=flags["cluster_domain"],
            upstream=tuple(filter(None, flags["dns_upstream"].split(","))),
            resolv_conf=flags["resolv_conf"],
            reverse_cidrs=tuple(filter(None, f"{cluster_cidr},{services}".split(","))),
            environment=((COMPONENT_MARK, mark),) if COMPONENT_MARK in os.environ else (),
        )
        if flags["dns"]
        else None,
    )
