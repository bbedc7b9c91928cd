"""Flags, environment and configuration of a member."""

from __future__ import annotations

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
        (["--listen-metrics-urls", "https://h:1"], "plain http alone"),
        (["--auto-compaction-retention", "soon"], "is no duration"),
        (["--experimental-watch-progress-notify-interval", "5x"], "is no duration"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(flags: list[str], complaint: str) -> None:
    result = CliRunner().invoke(command, flags)
    assert result.exit_code == 2
    assert complaint in " ".join(result.output.split())


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
