"""The command line of the cloud controller manager: cloud-controller-manager's flags."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from control.client.flags import DURATION
from control.client.options import leader_election_options, run_until_signalled, take_election
from control.cloud.config import CloudConfig
from control.cloud.machine import ProviderError
from control.cloud.manager import run
from control.cloud.pool import PoolError, parse_pool
from control.cloud.provider import UnknownProviderError, load_provider

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def take_pool(_context: click.Context, _option: click.Parameter, value: str) -> str:
    """Refuse a text that names no addresses."""
    try:
        parse_pool(value)
    except PoolError as error:
        raise click.BadParameter(str(error)) from None
    return value


EXAMPLES = """\b
Examples:
  Machines as they stand in a file:
    raftsman cloud-controller-manager --kubeconfig cloud-controller-manager.conf --cloud-config machines.yaml
  A provider of an installed package:
    raftsman cloud-controller-manager --kubeconfig cloud-controller-manager.conf --cloud-provider mycloud
"""


@click.command(epilog=EXAMPLES, context_settings={"max_content_width": 110})
@click.option("--kubeconfig", type=FILE, required=True, help="How to reach the API server, and as whom.")
@click.option("--cloud-provider", default="inventory", show_default=True, help="Who knows the machines.")
@click.option("--cloud-config", type=FILE, help="The provider's own file.")
@click.option(
    "--node-monitor-period",
    "node_monitor_period_s",
    type=DURATION,
    default="5s",
    show_default=True,
    help="How often nodes in trouble are held against their machines.",
)
@click.option(
    "--node-status-update-frequency",
    "node_status_update_period_s",
    type=DURATION,
    default="5m",
    show_default=True,
    help="How often addresses and labels are brought up to date.",
)
@click.option(
    "--load-balancer-pool",
    default="",
    callback=take_pool,
    help="CIDR or FIRST-LAST,…: addresses that Services of type LoadBalancer get.",
)
@click.option("--log-level", default="info", show_default=True, help="debug, info, warning or error.")
@leader_election_options("cloud-controller-manager")
def command(log_level: str, **flags: Any) -> None:
    """Keep nodes and their machines in step."""
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        load_provider(flags["cloud_provider"], flags["cloud_config"])
    except (UnknownProviderError, ProviderError) as error:
        raise click.UsageError(str(error)) from None
    election = take_election(flags)
    run_until_signalled(run(CloudConfig(election=election, **flags)))
