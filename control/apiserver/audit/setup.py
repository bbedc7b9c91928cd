"""Puts audit together from a configuration."""

from __future__ import annotations

from control.apiserver.audit.auditor import AuditMetrics, Auditor, Place, Sink, read_policy
from control.apiserver.audit.buffer import Backend, Batching, Blocking
from control.apiserver.audit.legacy import legacy_line
from control.apiserver.audit.log import LogFile, line
from control.apiserver.audit.webhook import Webhook
from control.apiserver.config import AuditConfig, BatchConfig, TruncateConfig
from control.apiserver.metrics import Metrics


def make(config: AuditConfig, metrics: Metrics) -> Auditor:
    """Return the auditor that a configuration describes; raises ConfigurationError."""
    counted = AuditMetrics(metrics)
    wishes = read_policy(config.policy_file)
    places: list[Place] = []
    if config.log_path:
        log = LogFile(
            config.log_path,
            megabytes_max=config.log_megabytes_max,
            backups_max=config.log_backups_max,
            age_days_max=config.log_age_days_max,
            form=legacy_line if config.log_format == "legacy" else line,
        )
        places.append(_place(log, config.log_batch, config.log_truncate, counted))
    if config.webhook_config_file is not None:
        webhook = Webhook(config.webhook_config_file, config.webhook_backoff_s)
        places.append(_place(webhook, config.webhook_batch, config.webhook_truncate, counted))
    return Auditor(wishes, places, counted)


def _place(backend: Backend, batch: BatchConfig, truncate: TruncateConfig | None, metrics: AuditMetrics) -> Place:
    sink: Sink
    if batch.mode == "batch":
        sink = Batching(backend, metrics, batch, truncate.batch_bytes_max if truncate is not None else 0)
    else:
        sink = Blocking(backend, metrics, strict=batch.mode == "blocking-strict")
    return Place(sink, truncate)
