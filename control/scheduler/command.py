"""``raftsman scheduler``."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

import click
import uvloop

from control.client.flags import DURATION
from control.scheduler.config import SchedulerConfig
from control.scheduler.scheduler import run


@click.command(context_settings={"show_default": True})
@click.option("--kubeconfig", type=click.Path(path_type=Path), required=True, help="How to reach the API server.")
@click.option("--scheduler-name", default="default-scheduler", help="Pods with this spec.schedulerName are placed.")
@click.option("--leader-elect/--no-leader-elect", default=True, help="Work only while holding the Lease.")
@click.option("--leader-elect-lease-duration", type=DURATION, default="15s", help="Others wait this long.")
@click.option("--leader-elect-renew-deadline", type=DURATION, default="10s", help="The leader gives up after this.")
@click.option("--leader-elect-retry-period", type=DURATION, default="2s", help="Time between tries.")
@click.option("-v", "--v", "verbosity", type=int, default=0, help="Log more from 4 on.")
def command(
    kubeconfig: Path,
    scheduler_name: str,
    leader_elect: bool,
    leader_elect_lease_duration: float,
    leader_elect_renew_deadline: float,
    leader_elect_retry_period: float,
    verbosity: int,
) -> None:
    """Give each waiting pod a node.

    \b
    Examples:
      raftsman scheduler --kubeconfig scheduler.kubeconfig
      raftsman scheduler --kubeconfig scheduler.kubeconfig --no-leader-elect -v 4
    """
    logging.basicConfig(
        level=logging.DEBUG if verbosity >= 4 else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    config = SchedulerConfig(
        kubeconfig=kubeconfig,
        identity=f"{socket.gethostname()}_{os.getpid()}",
        scheduler_name=scheduler_name,
        leader_elect=leader_elect,
        leader_elect_lease_duration_s=leader_elect_lease_duration,
        leader_elect_renew_deadline_s=leader_elect_renew_deadline,
        leader_elect_retry_period_s=leader_elect_retry_period,
    )
    try:
        uvloop.run(run(config))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
