"""The command line of the scheduler: kube-scheduler's flags."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from control.client.options import leader_election_options, run_until_signalled, take_election
from control.scheduler.config import SchedulerConfig
from control.scheduler.scheduler import run

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

EXAMPLES = """\b
Examples:
  raftsman scheduler --kubeconfig scheduler.conf
  raftsman scheduler --kubeconfig scheduler.conf --leader-elect false --scheduler-name mine
"""


@click.command(epilog=EXAMPLES, context_settings={"max_content_width": 110})
@click.option("--kubeconfig", type=FILE, required=True, help="How to reach the API server, and as whom.")
@click.option(
    "--scheduler-name", default="default-scheduler", show_default=True, help="Pods with this spec.schedulerName."
)
@click.option("--log-level", default="info", show_default=True, help="debug, info, warning or error.")
@leader_election_options("kube-scheduler")
def command(kubeconfig: Path, scheduler_name: str, log_level: str, **flags: Any) -> None:
    """Give each waiting pod a node."""
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    config = SchedulerConfig(kubeconfig=kubeconfig, election=take_election(flags), scheduler_name=scheduler_name)
    run_until_signalled(run(config))
