"""The metrics of encryption at rest, under kube-apiserver's names."""

from __future__ import annotations

from control.apiserver.metrics import Metrics, exponential

_KINDS = ("resource", "transformation_type", "transformer_prefix")


class KmsMetrics:
    """What plugins are asked and how long they take."""

    def __init__(self, metrics: Metrics) -> None:
        self.latency = metrics.histogram(
            "apiserver_envelope_encryption_kms_operations_latency_seconds",
            "Time of calls to KMS plugins, in seconds.",
            ("provider_name", "method_name", "grpc_status_code"),
            exponential(0.0001, 2, 20),
        )
        self.invalid_key_ids = metrics.counter(
            "apiserver_envelope_encryption_invalid_key_id_from_status_total",
            "Names of keys in plugins' status that cannot be such.",
            ("provider_name", "error"),
        )
        self.fill = metrics.gauge(
            "apiserver_envelope_encryption_dek_cache_fill_percent",
            "How full the cache of decrypted seeds is, 1 for full.",
            ("provider_name",),
        )
        self.misses = metrics.counter(
            "apiserver_storage_envelope_transformation_cache_misses_total",
            "Values whose seed a plugin had to be asked for.",
        )


class EncryptionMetrics:
    """What is encrypted and decrypted, and how the configuration is reloaded."""

    def __init__(self, metrics: Metrics) -> None:
        self.kms = KmsMetrics(metrics)
        self.operations = metrics.counter(
            "apiserver_storage_transformation_operations_total",
            "Values that were encrypted or decrypted.",
            (*_KINDS, "status"),
        )
        self.durations = metrics.histogram(
            "apiserver_storage_transformation_duration_seconds",
            "Time of encrypting or decrypting one value, in seconds.",
            _KINDS,
            exponential(5e-6, 2, 25),
        )
        self.reloads = metrics.counter(
            "apiserver_encryption_config_controller_automatic_reloads_total",
            "Reloads of the encryption configuration.",
            ("apiserver_id_hash", "status"),
        )
        self.reloaded = metrics.gauge(
            "apiserver_encryption_config_controller_automatic_reload_last_timestamp_seconds",
            "When the encryption configuration was last reloaded.",
            ("apiserver_id_hash", "status"),
        )
        self.config = metrics.gauge(
            "apiserver_encryption_config_controller_last_config_info",
            "The hash of the encryption configuration in force.",
            ("apiserver_id_hash", "hash"),
        )
