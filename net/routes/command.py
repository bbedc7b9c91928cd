"""`raftsman routes`: the loop that keeps routes to other nodes' pods."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Literal

import click
import uvloop

from net.routes.config import RoutesConfig
from net.routes.mtu import Backend
from net.routes.server import run

DEFAULT = RoutesConfig()
BACKEND_HELP = (
    "How peers are reached: by their own addresses (host-gw), tunnelled (vxlan), or as each one's place asks."
)


@click.command(
    epilog="Example: raftsman routes --kubeconfig /etc/raftsman/cni.kubeconfig --service-cluster-ip-range 10.96.0.0/16",
    context_settings={"show_default": True},
)
@click.option("--kubeconfig", type=click.Path(path_type=Path), required=True, help="How to reach the API server.")
@click.option("--hostname-override", default="", help="The Node's name, if it is not the machine's.")
@click.option("--service-cluster-ip-range", default="", help="The Services' addresses.")
@click.option("--cluster-cidr", default="", help="All pods' addresses, where they share one network.")
@click.option("--backend", type=click.Choice(["auto", "host-gw", "vxlan"]), default="auto", help=BACKEND_HELP)
@click.option("--vxlan-id", type=click.IntRange(1, 2**24 - 1), default=DEFAULT.vxlan_id, help="The tunnels' VNI.")
@click.option(
    "--vxlan-port",
    type=click.IntRange(1, 65535),
    default=DEFAULT.vxlan_port,
    help="The tunnels' UDP port: 4789, or 8472 as Linux had it before.",
)
@click.option(
    "--vxlan-checksum-offload/--no-vxlan-checksum-offload",
    default=True,
    help="Whether tunnels leave checksums to the hardware; some drivers get them wrong.",
)
@click.option("--masquerade/--no-masquerade", default=True, help="Whether pods reach the outside as their node.")
@click.option("--iptables-backend", type=click.Choice(["auto", "legacy", "nft"]), default="auto")
def command(
    kubeconfig: Path,
    hostname_override: str,
    service_cluster_ip_range: str,
    cluster_cidr: str,
    backend: Backend,
    vxlan_id: int,
    vxlan_port: int,
    vxlan_checksum_offload: bool,
    masquerade: bool,
    iptables_backend: Literal["auto", "legacy", "nft"],
) -> None:
    """Keep routes to other nodes' pods, tunnels where a router is between, and pods' way to the outside."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    config = RoutesConfig(
        kubeconfig=kubeconfig,
        hostname_override=hostname_override,
        service_cluster_ip_range=service_cluster_ip_range,
        cluster_cidr=cluster_cidr,
        backend=backend,
        vxlan_id=vxlan_id,
        vxlan_port=vxlan_port,
        vxlan_checksum_offload=vxlan_checksum_offload,
        masquerade=masquerade,
        iptables_backend=iptables_backend,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(config))
