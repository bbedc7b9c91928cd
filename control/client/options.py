"""Command line options that all components with a kubeconfig and a leader share: upstream's names and texts."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click
import uvloop

from control.client.election import ElectionConfig
from control.client.flags import DURATION

log = logging.getLogger(__name__)

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def leader_election_options(lease_name: str) -> Callable[[Decorated], Decorated]:
    """Add upstream's --leader-elect… flags to a command."""

    def decorate(function: Decorated) -> Decorated:
        options = [
            click.option("--leader-elect", type=bool, default=True, is_flag=False, flag_value=True, show_default=True,
                         help="Work only while holding the Lease, so that several may be started."),
            click.option("--leader-elect-lease-duration", type=DURATION, default="15s", show_default=True,
                         help="How long others wait after the last renewal."),
            click.option("--leader-elect-renew-deadline", type=DURATION, default="10s", show_default=True,
                         help="How long the leader tries to renew."),
            click.option("--leader-elect-retry-period", type=DURATION, default="2s", show_default=True,
                         help="How long everyone waits between two tries."),
            click.option("--leader-elect-resource-name", default=lease_name, show_default=True,
                         help="Name of the Lease."),
            click.option("--leader-elect-resource-namespace", default="kube-system", show_default=True,
                         help="Namespace of the Lease."),
        ]  # fmt: skip
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def take_election(flags: dict[str, Any]) -> ElectionConfig | None:
    """Take the leader election flags out of a command's flags; None where it is switched off."""
    wanted = flags.pop("leader_elect")
    config = ElectionConfig(
        name=flags.pop("leader_elect_resource_name"),
        namespace=flags.pop("leader_elect_resource_namespace"),
        identity=f"{os.uname().nodename}_{secrets.token_hex(8)}",
        lease_duration_s=flags.pop("leader_elect_lease_duration"),
        renew_deadline_s=flags.pop("leader_elect_renew_deadline"),
        retry_period_s=flags.pop("leader_elect_retry_period"),
    )
    return config if wanted else None


def run_until_signalled(main: Coroutine[Any, Any, None]) -> None:
    """Run a component on uvloop until it ends or SIGTERM or SIGINT comes."""

    async def guarded() -> None:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
        try:
            await main
        except asyncio.CancelledError:
            log.info("stopped")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(guarded())
