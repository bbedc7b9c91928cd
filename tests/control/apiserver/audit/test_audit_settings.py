"""Audit's flags: their defaults are kube-apiserver's, and a policy alone audits nothing."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from control.apiserver.audit import setup
from control.apiserver.audit.buffer import Batching, Blocking
from control.apiserver.command import command, config_of
from control.apiserver.config import ApiServerConfig, BatchConfig, ConfigurationError, TruncateConfig
from control.apiserver.metrics import Metrics

POLICY = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n"


def configured(*flags: str) -> ApiServerConfig:
    context = command.make_context("apiserver", ["--etcd-servers", "http://127.0.0.1:1", *flags])
    return config_of({name: value for name, value in context.params.items() if name != "log_level"})


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


def test_nothing_is_audited_without_a_policy_and_a_place(policy: Path) -> None:
    assert configured().audit is None
    assert configured("--audit-log-path", "-").audit is None
    assert configured("--audit-policy-file", str(policy)).audit is None


def test_defaults_are_those_of_kube_apiserver(policy: Path) -> None:
    found = configured("--audit-policy-file", str(policy), "--audit-log-path", "/x").audit
    assert found is not None
    assert found.log_batch == BatchConfig("blocking", 10_000, 1, 0.0, 0.0, 15)
    assert found.webhook_batch == BatchConfig("batch", 10_000, 400, 30.0, 10.0, 15)
    assert found.log_truncate is found.webhook_truncate is None
    assert (found.webhook_backoff_s, found.log_megabytes_max) == (10.0, 0)


async def test_flags_make_places(policy: Path, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        "{apiVersion: v1, kind: Config, current-context: a, clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}],"
        " contexts: [{name: a, context: {cluster: a}}]}"
    )
    found = configured(
        "--audit-policy-file", str(policy), "--audit-log-path", str(tmp_path / "log"), "--audit-log-mode",
        "blocking-strict", "--audit-log-truncate-enabled", "true", "--audit-webhook-config-file", str(kubeconfig),
        "--audit-webhook-batch-max-wait", "1m30s", "--audit-webhook-batch-throttle-enable", "false",
    ).audit  # fmt: skip
    assert found is not None
    assert found.webhook_batch.wait_s == 90.0
    assert found.webhook_batch.batches_per_s == 0.0
    auditor = setup.make(found, Metrics())
    log, webhook = auditor.places
    assert isinstance(log.sink, Blocking)
    assert log.truncate == TruncateConfig(100 << 10, 10 << 20)
    assert isinstance(webhook.sink, Batching)


def test_limits_that_contradict_each_other_are_refused(policy: Path) -> None:
    with pytest.raises(click.BadParameter, match="is less than the largest event has"):
        configured(
            "--audit-policy-file", str(policy), "--audit-log-path", "-", "--audit-log-truncate-enabled", "true",
            "--audit-log-truncate-max-batch-size", "10",
        )  # fmt: skip


def test_a_policy_that_is_none_is_named(policy: Path) -> None:
    policy.write_text("rules: 1")
    found = configured("--audit-policy-file", str(policy), "--audit-log-path", "-").audit
    assert found is not None
    with pytest.raises(ConfigurationError, match=f"loading audit policy file {policy}"):
        setup.make(found, Metrics())
