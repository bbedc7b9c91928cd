"""`raftsman policy`: NetworkPolicy on this node."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import click
import uvloop

from net.policy.config import PolicyConfig
from net.policy.server import run

DEFAULT = PolicyConfig()


@click.command(
    epilog="Example: raftsman policy --kubeconfig /etc/raftsman/cni.kubeconfig --hostname-override n1",
    context_settings={"show_default": True},
)
@click.option("--kubeconfig", type=click.Path(path_type=Path), required=True, help="How to reach the API server.")
@click.option("--hostname-override", default="", help="The Node's name, if it is not the machine's.")
@click.option("--metrics-bind-address", default=DEFAULT.metrics_bind_address, help="Where /metrics is answered.")
def command(kubeconfig: Path, hostname_override: str, metrics_bind_address: str) -> None:
    """Enforce NetworkPolicy for this node's pods, whoever wires them."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    config = PolicyConfig(
        kubeconfig=kubeconfig, hostname_override=hostname_override, metrics_bind_address=metrics_bind_address
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(config))
