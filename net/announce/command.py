"""`raftsman announce`: answer for load balancers' addresses on the nodes' network."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import click
import uvloop

from control.client.flags import DURATION
from net.announce.config import NAMESPACE, AnnounceConfig
from net.announce.server import run


@click.command(
    epilog="Example: raftsman announce --kubeconfig /etc/raftsman/cni.kubeconfig --hostname-override n1",
    context_settings={"show_default": True},
)
@click.option("--kubeconfig", type=click.Path(path_type=Path), required=True, help="How to reach the API server.")
@click.option("--hostname-override", default="", help="The Node's name, if it is not the machine's.")
@click.option("--interface", default="", help="The link to answer on; empty: the one in an address's network.")
@click.option(
    "--lease-duration", "lease_duration_s", type=DURATION, default="15s",
    help="After how long a silent node's addresses are taken over.",
)  # fmt: skip
@click.option("--namespace", default=NAMESPACE, help="Where the Leases stand.")
def command(kubeconfig: Path, hostname_override: str, interface: str, lease_duration_s: float, namespace: str) -> None:
    """Answer ARP and neighbour discovery for the addresses of Services of type LoadBalancer.

    One node answers for each Service: the one that holds its Lease. Another takes over when it dies, is drained, or,
    for Services with externalTrafficPolicy Local, has no ready endpoint any more.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    config = AnnounceConfig(kubeconfig, hostname_override, interface, lease_duration_s, namespace)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(config))
