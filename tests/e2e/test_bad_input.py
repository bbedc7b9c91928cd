"""Broken manifests and wrong certificates: clear refusals, and nothing is stored."""

import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from lab import pki
from tests.e2e.conftest import Lab

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(420)]


def deployment(**changes: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "selector": {"matchLabels": {"app": "broken"}},
        "template": {
            "metadata": {"labels": {"app": "broken"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        },
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "broken"}, "spec": {**spec, **changes}}


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        pytest.param(
            deployment(template={"metadata": {"labels": {"app": "other"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
            "`selector` does not match template `labels`", id="selector",
        ),
        pytest.param(deployment(replicas=-1), "spec.replicas: Invalid value: -1: must be greater than or equal to 0", id="replicas"),
        pytest.param(deployment(replicas="three"), "cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32", id="type"),
        pytest.param(deployment(colour="red"), 'unknown field "spec.colour"', id="unknown field"),
        pytest.param(
            deployment(template={"metadata": {"labels": {"app": "broken"}}, "spec": {"containers": [{"name": "C!", "image": "i"}]}}),
            'spec.template.spec.containers[0].name: Invalid value: "C!"', id="container name",
        ),
        pytest.param(
            deployment(template={"metadata": {"labels": {"app": "broken"}}, "spec": {"containers": []}}),
            "spec.template.spec.containers: Required value", id="no containers",
        ),
    ],
)  # fmt: skip
def test_broken_manifest_is_refused_by_field(lab: Lab, manifest: dict[str, Any], expected: str) -> None:
    done = lab.run_kubectl("create", "-f", "-", text=json.dumps(manifest))
    assert done.returncode == 1
    assert expected in done.stderr
    missing = lab.run_kubectl("get", "deployment", "broken")
    assert 'deployments.apps "broken" not found' in missing.stderr


def test_wrong_certificate_is_refused(lab: Lab, tmp_path: Path) -> None:
    stranger = pki.make_authority(tmp_path, "ca", "kubernetes")
    pki.issue(stranger, tmp_path, "admin", "kubernetes-admin", organizations=["system:masters"])
    context = ssl.create_default_context(cafile=str(lab.cluster.pki / "ca.crt"))
    context.load_cert_chain(tmp_path / "admin.crt", tmp_path / "admin.key")
    url = f"https://127.0.0.1:{lab.cluster.api_port}/api/v1/secrets"
    with pytest.raises((urllib.error.HTTPError, urllib.error.URLError, ssl.SSLError, ConnectionError)) as caught:
        urllib.request.urlopen(url, context=context, timeout=10)
    if isinstance(caught.value, urllib.error.HTTPError):
        assert caught.value.code == 401


def test_anonymous_reads_nothing(lab: Lab) -> None:
    context = ssl.create_default_context(cafile=str(lab.cluster.pki / "ca.crt"))
    url = f"https://127.0.0.1:{lab.cluster.api_port}/api/v1/secrets"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url, context=context, timeout=10)
    assert caught.value.code in (401, 403)
    assert json.loads(caught.value.read())["kind"] == "Status"
