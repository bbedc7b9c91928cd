"""Everything that one API server needs to know, built once from its flags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EtcdConfig:
    """Where the store is and how to be believed by it."""

    servers: tuple[str, ...]
    """URLs of the members, tried in turn."""
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    prefix: str = "/registry"
    request_timeout_s: float = 10.0
    """A request is retried on other members until this has passed."""
    attempt_timeout_s: float = 4.0
    """One member has this long to answer."""
    message_bytes_max: int = 64 << 20
    """Largest message that is accepted from a member."""


class ConfigurationError(ValueError):
    """A flag or a file that cannot be used; the text says what is wrong and where."""


@dataclass(frozen=True)
class BatchConfig:
    """How audit events wait for being written."""

    mode: str = "batch"
    """batch lets requests go on; blocking lets them wait; blocking-strict lets them fail where writing fails."""
    events_max: int = 10_000
    """Events that may wait; more are lost, and counted."""
    batch_events_max: int = 400
    wait_s: float = 30.0
    """A batch that is not full goes after this."""
    batches_per_s: float = 10.0
    """0 does not bound them."""
    burst: int = 15


@dataclass(frozen=True)
class TruncateConfig:
    """How large audit events may be."""

    event_bytes_max: int = 100 << 10
    batch_bytes_max: int = 10 << 20


@dataclass(frozen=True)
class AuditConfig:
    """What is audited and where it goes."""

    policy_file: Path
    log_path: str = ""
    """Empty writes no file, "-" to standard output."""
    log_format: str = "json"
    """json, or legacy: a line of text that says less."""
    log_age_days_max: int = 0
    """Old files are removed after this; 0 keeps them."""
    log_backups_max: int = 0
    """Old files kept; 0 keeps all."""
    log_megabytes_max: int = 0
    """A file that has reached this is put aside; 0 means 100."""
    log_batch: BatchConfig = BatchConfig("blocking", batch_events_max=1, wait_s=0.0, batches_per_s=0.0)
    log_truncate: TruncateConfig | None = None
    webhook_config_file: Path | None = None
    webhook_backoff_s: float = 10.0
    """Wait before a request that failed is sent again; it grows."""
    webhook_batch: BatchConfig = BatchConfig()
    webhook_truncate: TruncateConfig | None = None


@dataclass(frozen=True)
class ApiServerConfig:
    """One API server: flags of kube-apiserver, under their own names."""

    etcd: EtcdConfig
    bind_address: str = "127.0.0.1"
    secure_port: int = 6443
    """0 binds a free one."""
    grpc_port: int = 6444
    """Port of the gRPC hub; 0 binds a free one, -1 serves none."""
    advertise_address: str = ""
    """Address under which default/kubernetes finds this instance; empty means bind_address."""
    tls_cert_file: Path | None = None
    tls_private_key_file: Path | None = None
    client_ca_file: Path | None = None
    requestheader_client_ca_file: Path | None = None
    requestheader_allowed_names: tuple[str, ...] = ()
    """Common names of certificates that may act as front proxies; empty for all of their authority."""
    requestheader_username_headers: tuple[str, ...] = ("x-remote-user",)
    requestheader_uid_headers: tuple[str, ...] = ("x-remote-uid",)
    requestheader_group_headers: tuple[str, ...] = ("x-remote-group",)
    requestheader_extra_headers_prefixes: tuple[str, ...] = ("x-remote-extra-",)
    proxy_client_cert_file: Path | None = None
    """Client certificate by which aggregated API servers and webhooks know this server."""
    proxy_client_key_file: Path | None = None
    aggregator_reject_forwarding_redirect: bool = True
    """Whether an aggregated API server's redirects are kept from clients."""
    service_account_issuer: str = "https://kubernetes.default.svc.cluster.local"
    service_account_key_files: tuple[Path, ...] = ()
    """Public or private keys that tokens are checked with."""
    service_account_signing_key_file: Path | None = None
    api_audiences: tuple[str, ...] = ()
    """Audiences that tokens must be for; empty means the issuer."""
    service_cluster_ip_range: str = "10.96.0.0/16"
    """Addresses of Services: one network, or one of each IP family with a comma, the default family's first."""
    service_node_port_range: tuple[int, int] = (30000, 32767)
    """First and last port, both included."""
    kubelet_client_certificate: Path | None = None
    kubelet_client_key: Path | None = None
    kubelet_certificate_authority: Path | None = None
    kubelet_preferred_address_types: tuple[str, ...] = (
        "Hostname",
        "InternalDNS",
        "InternalIP",
        "ExternalDNS",
        "ExternalIP",
    )
    authorization_modes: tuple[str, ...] = ("Node", "RBAC")
    anonymous_auth: bool = True
    enable_bootstrap_token_auth: bool = True
    default_not_ready_toleration_s: int = 300
    default_unreachable_toleration_s: int = 300
    event_ttl_s: int = 3600
    body_bytes_max: int = 3 << 20
    """Largest request body."""
    request_timeout_s: float = 60.0
    """Requests other than watches and streams end after this."""
    min_request_timeout_s: int = 1800
    """Watches without timeoutSeconds end after this or up to twice as long."""
    enable_priority_and_fairness: bool = True
    max_requests_inflight: int = 400
    """Reads served at once, watches and streams apart; with writes' limit the seats of priority and fairness."""
    max_mutating_requests_inflight: int = 200
    """Writes served at once; 0 in either sets no limit where priority and fairness is off."""
    etcd_healthcheck_timeout_s: float = 2.0
    etcd_readycheck_timeout_s: float = 2.0
    livez_grace_period_s: float = 0.0
    """For this long after the start, what has not been started yet does not make livez fail."""
    shutdown_delay_s: float = 0.0
    """Time between the first sign of the end (readyz fails) and the closing of the ports."""
    enable_admission_plugins: tuple[str, ...] = ()
    """Beside those that are in force by themselves."""
    disable_admission_plugins: tuple[str, ...] = ()
    admission_control_config_file: Path | None = None
    """An AdmissionConfiguration: how PodSecurity, ResourceQuota and EventRateLimit judge."""
    audit: AuditConfig | None = None
    encryption_provider_config: Path | None = None
    """An EncryptionConfiguration: what is encrypted in the store, and how."""
    encryption_provider_config_automatic_reload: bool = False
    """Whether changes of that file are taken up."""
