"""What audit needs to know, and the flags that say it, under kube-apiserver's names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from control.apiserver.config import AuditConfig, BatchConfig, TruncateConfig
from control.client.flags import DURATION

MODES = ("batch", "blocking", "blocking-strict")
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class _Defaults:
    """What differs between the two places where events go."""

    mode: str
    batch_events: int
    wait_s: float
    throttled: bool


_PLACES = {"log": _Defaults("blocking", 1, 0.0, False), "webhook": _Defaults("batch", 400, 30.0, True)}


def audit_flags(command: Command) -> Command:
    """Give a command audit's flags."""
    options = [
        click.option("--audit-policy-file", type=FILE, help="Policy that says what is audited."),
        click.option("--audit-log-path", default="", help="File that audit events go to; - for standard output."),
        click.option("--audit-log-maxage", default=0, type=click.IntRange(0), help="Days that old files are kept."),
        click.option("--audit-log-maxbackup", default=0, type=click.IntRange(0), help="Old files that are kept."),
        click.option(
            "--audit-log-maxsize",
            default=0,
            type=click.IntRange(0),
            help="Megabytes of a file before the next one begins; 0 is 100.",
        ),
        click.option(
            "--audit-log-format", default="json", type=click.Choice(["json", "legacy"]), help="Format of the file."
        ),
        click.option("--audit-webhook-config-file", type=FILE, help="Kubeconfig of the webhook that events go to."),
        click.option(
            "--audit-webhook-initial-backoff",
            default=10.0,
            type=DURATION,
            help="Wait before the first failed request is tried again.",
        ),
    ]
    for place, defaults in _PLACES.items():
        options += _place_options(place, defaults)
    for option in reversed(options):
        command = option(command)
    return command


def _place_options(place: str, defaults: _Defaults) -> list[Callable[[Any], Any]]:
    start, count = f"--audit-{place}", click.IntRange(1)
    return [
        click.option(
            f"{start}-mode",
            default=defaults.mode,
            show_default=True,
            type=click.Choice(MODES),
            help="Whether requests wait until events are written, and fail where that fails (strict).",
        ),
        click.option(f"{start}-batch-buffer-size", default=10000, type=count, help="Events that may wait."),
        click.option(f"{start}-batch-max-size", default=defaults.batch_events, type=count, help="Events of a batch."),
        click.option(
            f"{start}-batch-max-wait", default=defaults.wait_s, type=DURATION, help="Wait for a batch to be full."
        ),
        click.option(
            f"{start}-batch-throttle-enable", type=bool, default=defaults.throttled, help="Bound the batches."
        ),
        click.option(f"{start}-batch-throttle-qps", default=10.0, help="Batches a second."),
        click.option(f"{start}-batch-throttle-burst", default=15, type=count, help="Batches at once."),
        click.option(f"{start}-truncate-enabled", type=bool, default=False, help="Cut events that are too large."),
        click.option(f"{start}-truncate-max-event-size", default=100 << 10, type=count, help="Bytes of an event."),
        click.option(f"{start}-truncate-max-batch-size", default=10 << 20, type=count, help="Bytes of a batch."),
    ]


def audit_config(flags: dict[str, Any]) -> AuditConfig | None:
    """Take audit's flags out of all flags; None where nothing is to be audited."""
    found = {name: flags.pop(name) for name in list(flags) if name.startswith("audit_")}
    policy: Path | None = found["audit_policy_file"]
    if policy is None or not (found["audit_log_path"] or found["audit_webhook_config_file"]):
        return None
    return AuditConfig(
        policy_file=policy,
        log_path=found["audit_log_path"],
        log_format=found["audit_log_format"],
        log_age_days_max=found["audit_log_maxage"],
        log_backups_max=found["audit_log_maxbackup"],
        log_megabytes_max=found["audit_log_maxsize"],
        log_batch=_batch(found, "log"),
        log_truncate=_truncate(found, "log"),
        webhook_config_file=found["audit_webhook_config_file"],
        webhook_backoff_s=found["audit_webhook_initial_backoff"],
        webhook_batch=_batch(found, "webhook"),
        webhook_truncate=_truncate(found, "webhook"),
    )


def _batch(found: dict[str, Any], place: str) -> BatchConfig:
    start = f"audit_{place}"
    return BatchConfig(
        found[f"{start}_mode"],
        found[f"{start}_batch_buffer_size"],
        found[f"{start}_batch_max_size"],
        found[f"{start}_batch_max_wait"],
        found[f"{start}_batch_throttle_qps"] if found[f"{start}_batch_throttle_enable"] else 0.0,
        found[f"{start}_batch_throttle_burst"],
    )


def _truncate(found: dict[str, Any], place: str) -> TruncateConfig | None:
    start = f"audit_{place}_truncate"
    if not found[f"{start}_enabled"]:
        return None
    made = TruncateConfig(found[f"{start}_max_event_size"], found[f"{start}_max_batch_size"])
    if made.batch_bytes_max < made.event_bytes_max:
        raise click.BadParameter(
            f"{made.batch_bytes_max} is less than the largest event has, {made.event_bytes_max}",
            param_hint=f"--audit-{place}-truncate-max-batch-size",
        )
    return made
