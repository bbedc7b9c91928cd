"""Flags, environment and configuration of a member."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from store import command as command_module
from store.api.compactor import Compactor, Retention
from store.command import command, config_of
from store.config import ConfigError, StoreConfig

THREE = "a=http://127.0.0.1:12380,b=http://127.0.0.1:12381,c=http://127.0.0.1:12382"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[StoreConfig]:
    """Every configuration that the command would have run with."""
    configs: list[StoreConfig] = []

    def remember(flags: dict[str, Any]) -> StoreConfig:
        configs.append(config_of(flags))
        raise ConfigError("parsed")

    monkeypatch.setattr(command_module, "config_of", remember)
    return configs


def test_ids_are_those_of_etcd() -> None:
    config = StoreConfig(
        name="a",
        initial_cluster=THREE,
        initial_cluster_token="tok",
        initial_advertise_peer_urls=("http://127.0.0.1:12380",),
    )
    ids = {member.name: f"{member.member_id:x}" for member in config.members()}
    assert ids == {"a": "d622127685879b3c", "b": "6f53dcab74102002", "c": "19ee3db6a247cc80"}
    assert f"{config.cluster_id():x}" == "a176c1f62dfca771"
    assert config.member().name == "a"


@pytest.mark.parametrize(
    ("flags", "environment", "field", "value"),
    [
        ([], {}, "data_dir", Path("default.etcd")),
        (["--name", "n"], {"ETCD_INITIAL_CLUSTER": "n=http://h:1"}, "data_dir", Path("n.etcd")),
        ([], {"ETCD_DATA_DIR": "/d"}, "data_dir", Path("/d")),
        (["--data-dir", "/f"], {"ETCD_DATA_DIR": "/d"}, "data_dir", Path("/f")),
        ([], {"ETCD_HEARTBEAT_INTERVAL": "20"}, "heartbeat_interval_ms", 20),
        (["--election-timeout", "5000"], {}, "election_timeout_ms", 5000),
        (["--listen-client-urls", "http://a:1,https://b:2"], {}, "listen_client_urls", ("http://a:1", "https://b:2")),
        ([], {"ETCD_CLIENT_CERT_AUTH": "true"}, "client_cert_auth", True),
        (["--grpc-keepalive-interval", "30s"], {}, "grpc_keepalive_interval_s", 30.0),
        ([], {"ETCD_MAX_CONCURRENT_STREAMS": "7"}, "max_concurrent_streams", 7),
        (["--experimental-watch-progress-notify-interval", "5s"], {}, "watch_progress_notify_interval_s", 5.0),
        (["--experimental-watch-progress-notify-interval", "1m30s"], {}, "watch_progress_notify_interval_s", 90.0),
        (["--auto-compaction-retention", "2"], {}, "auto_compaction", Retention("periodic", 7200.0)),
        (["--auto-compaction-retention", "30m"], {}, "auto_compaction", Retention("periodic", 1800.0)),
        (
            ["--auto-compaction-mode", "revision", "--auto-compaction-retention", "1000"],
            {},
            "auto_compaction",
            Retention("revision", 1000.0),
        ),
        ([], {}, "quota_backend_bytes", 2 * 1024**3),
        (["--quota-backend-bytes", "-1"], {}, "quota_backend_bytes", sys.maxsize),
        (["--client-cert-auth=true"], {}, "client_cert_auth", True),
        (["--client-cert-auth=false"], {}, "client_cert_auth", False),
        (["-client-cert-auth", "-name=n"], {"ETCD_INITIAL_CLUSTER": "n=http://h:1"}, "client_cert_auth", True),
        (["-name", "n"], {"ETCD_INITIAL_CLUSTER": "n=http://h:1"}, "name", "n"),
        (["--cipher-suites", "TLS_RSA_WITH_AES_128_CBC_SHA"], {}, "cipher_suites", ("TLS_RSA_WITH_AES_128_CBC_SHA",)),
        (["--log-level", "warn", "--logger", "zap"], {}, "name", "default"),
        ([], {"ETCD_MAX_SNAPSHOTS": "3", "ETCD_UNSAFE_NO_FSYNC": "true"}, "unsafe_no_fsync", True),
    ],
)
def test_flags_and_environment(
    parsed: list[StoreConfig], flags: list[str], environment: dict[str, str], field: str, value: object
) -> None:
    result = CliRunner().invoke(command, flags, env=environment)
    assert "parsed" in result.output
    assert getattr(parsed[0], field) == value


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--name", "x", "--initial-cluster", THREE], "does not name this member"),
        (["--initial-cluster", "default"], "wants NAME=URL"),
        (["--listen-client-urls", "tcp://h:1"], "is no URL of the form"),
        (["--listen-peer-urls", "http://h"], "names no port"),
        (["--listen-client-urls", "https://127.0.0.1:0"], "--cert-file and --key-file"),
        (["--listen-peer-urls", "https://127.0.0.1:0"], "--peer-trusted-ca-file"),
        (["--election-timeout", "200"], "at least as 5 times"),
        (["--cert-file", "/absent", "--key-file", "/absent"], "/absent is not there"),
        (["--listen-metrics-urls", "https://h:1"], "--cert-file and --key-file"),
        (["--auto-compaction-retention", "soon"], "is no duration"),
        (["--enable-pprof"], "--enable-pprof is not supported: there is no Go"),
        (["--pre-vote=false"], "--pre-vote is not supported: a member always asks"),
        (["--peer-auto-tls"], "give --peer-cert-file, --peer-key-file and a CA"),
        (["--auth-token", "jwt,pub-key=x"], "--auth-token is not supported"),
        (["--wal-dir", "/x"], "--wal-dir is not supported"),
        (["--cipher-suites", "RC4"], "--cipher-suites names RC4; known are"),
        (["--tls-min-version", "TLS1.3", "--tls-max-version", "TLS1.2"], "is below --tls-min-version"),
        (["--log-outputs", "systemd/journal"], "knows no journal"),
        (["--config-file", "/absent"], "/absent cannot be read: No such file"),
        (["--experimental-watch-progress-notify-interval", "5x"], "is no duration"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(flags: list[str], complaint: str) -> None:
    result = CliRunner().invoke(command, flags)
    assert result.exit_code == 2
    assert complaint in " ".join(result.output.split())


CONFIG_FILE = """
name: b
data-dir: /var/lib/store
heartbeat-interval: 50
election-timeout: 500
initial-cluster: a=http://h:1,b=http://h:2
auto-compaction-mode: revision
auto-compaction-retention: "1000"
strict-reconfig-check: false
enable-pprof: false
wal-dir:
log-outputs: [stderr]
client-transport-security:
  client-cert-auth: true
  trusted-ca-file: ca.crt
peer-transport-security:
  cert-file: peer.crt
"""


def test_a_configuration_file_stands_for_flags_and_environment(parsed: list[StoreConfig], tmp_path: Path) -> None:
    (tmp_path / "etcd.conf.yml").write_text(CONFIG_FILE)
    flags = ["--name", "ignored", "--config-file", str(tmp_path / "etcd.conf.yml")]
    result = CliRunner().invoke(command, flags, env={"ETCD_SNAPSHOT_COUNT": "7", "ETCD_MAX_TXN_OPS": "7"})
    assert "parsed" in result.output
    config = parsed[0]
    assert (config.name, config.data_dir, config.heartbeat_interval_ms) == ("b", Path("/var/lib/store"), 50)
    assert config.auto_compaction == Retention("revision", 1000.0)
    assert (config.client_cert_auth, config.trusted_ca_file) == (True, Path("ca.crt"))
    assert (config.peer_cert_file, config.strict_reconfig_check) == (Path("peer.crt"), False)
    assert (config.snapshot_count, config.max_txn_ops) == (10_000, 128)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("name: [", "is no YAML"),
        ("just words", "must hold names and values"),
        ("client-transport-security: 5", "must hold names and values"),
        ("client-transport-security: {secret: 5}", "knows no secret"),
        ("no-such-flag: 5", "No such option '--no-such-flag'"),
        ("force-new-cluster: true", "--force-new-cluster is not supported"),
        ("heartbeat-interval: soon", "is not a valid integer"),
    ],
)
def test_a_bad_configuration_file_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "etcd.conf.yml").write_text(content)
    result = CliRunner().invoke(command, ["--config-file", str(tmp_path / "etcd.conf.yml")])
    assert result.exit_code == 2
    assert complaint in " ".join(result.output.split())


@pytest.mark.root
def test_every_flag_of_etcd_is_known(etcds: dict[str, Path]) -> None:
    known = {name for param in command.params for name in param.opts}
    for program in etcds.values():
        done = subprocess.run([program, "--help"], capture_output=True, text=True, check=False, timeout=30)
        names = set(re.findall(r"^ {2}(--[a-z0-9-]+)", done.stdout + done.stderr, re.MULTILINE))
        assert len(names) > 70
        assert names - known == set()


def test_leases_are_not_shorter_than_elections() -> None:
    assert StoreConfig().lease_ttl_min_s() == 2
    assert StoreConfig(election_timeout_ms=5000, heartbeat_interval_ms=500).lease_ttl_min_s() == 8


def test_compaction_by_revisions_keeps_the_last_ones() -> None:
    compactor = Compactor(Retention("revision", 100))
    assert [compactor.look(0.0, revision) for revision in (50, 100, 101, 250)] == [None, None, 1, 150]


def test_compaction_by_time_keeps_a_period() -> None:
    compactor = Compactor(Retention("periodic", 60.0))
    looks = [compactor.look(float(now_s), 100 + now_s) for now_s in range(0, 130, 10)]
    assert looks[:6] == [None] * 6
    assert looks[6:] == [100, 110, 120, 130, 140, 150, 160]
