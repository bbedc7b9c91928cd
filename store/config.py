"""What one member of the store is told when it starts; names and defaults are etcd's."""

from __future__ import annotations

import math
import ssl
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from store import self_signed
from store.api.compactor import Retention
from store.ciphers import VERSIONS, of_openssl
from store.frontdoor.abuse import Limits as DoorLimits
from store.frontdoor.door import DoorKind
from store.frontdoor.frames import STREAM_ID_MAX
from store.frontdoor.tls import ServerTLS
from store.raft.contract import TLSFiles
from store.raft.members import cluster_id, member_id

QUOTA_BYTES = 2 * 1024**3
"""What etcd takes for a quota where none is given."""

KEEP_ALL = Retention("periodic", 0)


class ConfigError(ValueError):
    """The configuration contradicts itself; the text says how to put it right."""


@dataclass(frozen=True)
class Address:
    """Where to listen or dial."""

    host: str
    port: int
    is_tls: bool


@dataclass(frozen=True)
class InitialMember:
    """A member as --initial-cluster names it."""

    name: str
    peer_urls: tuple[str, ...]
    member_id: int


@dataclass(frozen=True)
class StoreConfig:
    """One member of the store."""

    name: str = "default"
    data_dir: Path = Path("default.etcd")
    listen_client_urls: tuple[str, ...] = ("http://localhost:2379",)
    advertise_client_urls: tuple[str, ...] = ("http://localhost:2379",)
    listen_peer_urls: tuple[str, ...] = ("http://localhost:2380",)
    initial_advertise_peer_urls: tuple[str, ...] = ("http://localhost:2380",)
    initial_cluster: str = ""
    """NAME=URL,…; empty for this member alone."""
    initial_cluster_token: str = "etcd-cluster"
    initial_cluster_state: str = "new"
    strict_reconfig_check: bool = True
    """Refuse changes of membership while members are not started or not connected."""
    listen_metrics_urls: tuple[str, ...] = ()
    cert_file: Path | None = None
    key_file: Path | None = None
    trusted_ca_file: Path | None = None
    client_cert_auth: bool = False
    client_crl_file: Path | None = None
    auto_tls: bool = False
    self_signed_cert_validity: int = 1
    """Years."""
    cipher_suites: tuple[str, ...] = ()
    tls_min_version: str = "TLS1.2"
    tls_max_version: str = ""
    listen_client_http_urls: tuple[str, ...] = ()
    """Pages for probes and monitoring; they are served at the clients' URLs as well."""
    auth_token_ttl: int = 300
    """Seconds."""
    unsafe_no_fsync: bool = False
    peer_cert_file: Path | None = None
    peer_key_file: Path | None = None
    peer_trusted_ca_file: Path | None = None
    peer_client_cert_auth: bool = False
    heartbeat_interval_ms: int = 100
    election_timeout_ms: int = 1000
    snapshot_count: int = 10_000
    """Log entries between two snapshots."""
    max_txn_ops: int = 128
    max_request_bytes: int = 1_572_864
    quota_backend_bytes: int = QUOTA_BYTES
    watch_progress_notify_interval_s: float = 600.0
    auto_compaction: Retention = KEEP_ALL
    max_concurrent_streams: int = 10_000
    grpc_keepalive_min_time_s: float = 5.0
    grpc_keepalive_interval_s: float = 7200.0
    """0 for never."""
    grpc_keepalive_timeout_s: float = 20.0
    front_door: DoorKind = "native"
    """Which server carries the calls; not a flag of etcd's."""

    def __post_init__(self) -> None:
        for url in (*self.listen_client_urls, *self.listen_peer_urls, *self.initial_advertise_peer_urls):
            address_of(url)
        for url in self.page_urls():
            address_of(url)
        if self.tls_max_version and self.tls_max_version < self.tls_min_version:
            raise ConfigError("--tls-max-version is below --tls-min-version")
        try:
            of_openssl(self.cipher_suites)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if self.cipher_suites and self.tls_min_version == "TLS1.3":
            raise ConfigError("--cipher-suites cannot be chosen for TLS 1.3, which --tls-min-version demands")
        is_default = (self.tls_min_version, self.tls_max_version) == ("TLS1.2", "")
        if self.front_door == "reference" and (self.client_crl_file or self.cipher_suites or not is_default):
            raise ConfigError("certificate revocation, cipher suites and TLS versions need --front-door native")
        if self.election_timeout_ms < 5 * self.heartbeat_interval_ms:
            raise ConfigError(
                f"--election-timeout[{self.election_timeout_ms}ms] should be at least as 5 times as "
                f"--heartbeat-interval[{self.heartbeat_interval_ms}ms]"
            )
        if self.name not in {member.name for member in self.members()}:
            raise ConfigError(f"--initial-cluster does not name this member: add {self.name}=<its peer URL>")

    def page_urls(self) -> tuple[str, ...]:
        """Where pages alone are served."""
        return (*self.listen_metrics_urls, *self.listen_client_http_urls)

    def with_own_certificate(self) -> StoreConfig:
        """The same with a certificate that the member signs itself, where --auto-tls asks for one."""
        if not self.auto_tls or self.cert_file is not None or self.key_file is not None:
            return self
        urls = (*self.listen_client_urls, *self.advertise_client_urls, *self.page_urls())
        hosts = sorted({address_of(url).host for url in urls})
        cert_file, key_file = self_signed.ensure(self.data_dir, hosts, self.self_signed_cert_validity)
        return replace(self, cert_file=cert_file, key_file=key_file)

    def members(self) -> tuple[InitialMember, ...]:
        """The members of the first hour, this one among them."""
        if not self.initial_cluster:
            urls = tuple(sorted(self.initial_advertise_peer_urls))
            return (InitialMember(self.name, urls, member_id(urls, self.initial_cluster_token)),)
        peer_urls: dict[str, list[str]] = {}
        for part in self.initial_cluster.split(","):
            name, separator, url = part.strip().partition("=")
            if not separator or not name:
                raise ConfigError(f"--initial-cluster wants NAME=URL,… and not {part!r}")
            address_of(url)
            peer_urls.setdefault(name, []).append(url)
        members = (
            InitialMember(name, tuple(sorted(urls)), member_id(urls, self.initial_cluster_token))
            for name, urls in peer_urls.items()
        )
        return tuple(sorted(members, key=lambda member: member.member_id))

    def member(self) -> InitialMember:
        """This member."""
        return next(member for member in self.members() if member.name == self.name)

    def cluster_id(self) -> int:
        """The cluster's id."""
        return cluster_id(member.member_id for member in self.members())

    def door_limits(self) -> DoorLimits:
        """What one client's connection may do."""
        return DoorLimits(
            streams_max=min(self.max_concurrent_streams, STREAM_ID_MAX),
            ping_interval_s=self.grpc_keepalive_min_time_s,
            keepalive_interval_s=self.grpc_keepalive_interval_s,
            keepalive_timeout_s=self.grpc_keepalive_timeout_s,
        )

    def lease_ttl_min_s(self) -> int:
        """The shortest lease: one and a half election timeouts in whole seconds."""
        ticks = self.election_timeout_ms // self.heartbeat_interval_ms
        return math.ceil(3 * ticks // 2 * self.heartbeat_interval_ms / 1000)

    def request_timeout_s(self) -> float:
        """How long a request waits for consensus: time for the disk and for one election."""
        return 5.0 + 2 * self.election_timeout_ms / 1000

    def server_tls(self) -> ServerTLS | None:
        """The client side's certificate files; needed as soon as one client URL is https."""
        if self.cert_file is None or self.key_file is None:
            if any(address_of(url).is_tls for url in (*self.listen_client_urls, *self.page_urls())):
                raise ConfigError("an https client URL needs --cert-file and --key-file, or --auto-tls")
            return None
        if self.client_cert_auth and self.trusted_ca_file is None:
            raise ConfigError("--client-cert-auth needs --trusted-ca-file")
        if self.client_crl_file is not None and not self.client_cert_auth:
            raise ConfigError("--client-crl-file needs --client-cert-auth")
        return ServerTLS(
            self.cert_file,
            self.key_file,
            self.trusted_ca_file,
            self.client_cert_auth,
            self.client_crl_file,
            VERSIONS[self.tls_min_version] or ssl.TLSVersion.TLSv1_2,
            VERSIONS[self.tls_max_version] or ssl.TLSVersion.MAXIMUM_SUPPORTED,
            of_openssl(self.cipher_suites),
        )

    def peer_tls(self) -> TLSFiles | None:
        """The peers' side certificate files."""
        if not any(address_of(url).is_tls for url in self.listen_peer_urls):
            return None
        if self.peer_cert_file is None or self.peer_key_file is None or self.peer_trusted_ca_file is None:
            raise ConfigError("an https peer URL needs --peer-cert-file, --peer-key-file and --peer-trusted-ca-file")
        return TLSFiles(self.peer_cert_file, self.peer_key_file, self.peer_trusted_ca_file)

    def check_files(self) -> None:
        """Refuse certificate files that are not there, before anything is started."""
        named = (
            *(self.cert_file, self.key_file, self.trusted_ca_file, self.client_crl_file),
            *(self.peer_cert_file, self.peer_key_file, self.peer_trusted_ca_file),
        )
        for file in named:
            if file is not None and not file.is_file():
                raise ConfigError(f"{file} is not there")


def address_of(url: str) -> Address:
    """The host and port of a URL as etcd's flags take it."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or parts.hostname is None or parts.path not in ("", "/"):
        raise ConfigError(f"{url!r} is no URL of the form http[s]://HOST:PORT")
    try:
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{url!r} has no usable port") from error
    if port is None:
        raise ConfigError(f"{url!r} names no port")
    return Address(parts.hostname, port, parts.scheme == "https")
