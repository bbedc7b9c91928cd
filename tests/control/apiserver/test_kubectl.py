"""An unmodified kubectl, two versions of it, on the API server over an unmodified etcd."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.control.apiserver.processes import ADVERTISED, Kubectl, Server, api_server, etcd_server

pytestmark = pytest.mark.root

WEB = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: "web:1"}]}
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: web}}
spec: {containers: [{name: c, image: busybox}]}
"""


@pytest.fixture(scope="module")
def server(etcd: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("apiserver")
    with etcd_server(etcd, directory) as store, api_server(store.url, directory) as started:
        yield started


@pytest.fixture(params=["sid", "trixie"])
def admin(request: pytest.FixtureRequest, server: Server, kubectl_versions: dict[str, Path], tmp_path: Path) -> Kubectl:
    asked = Kubectl(kubectl_versions[request.param], server.kubeconfig(), tmp_path)
    space = f"test-{request.param}-{time.monotonic_ns()}"
    asked("create", "namespace", space)
    asked("config", "set-context", "test", "--namespace", space)
    asked("create", "serviceaccount", "default")
    return asked


def items(kubectl: Kubectl, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(kubectl("get", *arguments, "-o", "json"))["items"]
    return found


def test_apply_is_idempotent_and_get_shows_it(admin: Kubectl) -> None:
    assert "deployment.apps/web created" in admin("apply", "-f", "-", text=WEB)
    again = admin("apply", "-f", "-", text=WEB)
    assert "service/web unchanged" in again
    assert "deployment.apps/web unchanged" in again
    rows = admin("get", "deploy,svc", "-o", "wide").splitlines()
    assert rows[0].split() == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR"]
    assert rows[1].split()[:2] == ["deployment.apps/web", "0/2"]
    changed = admin("apply", "-f", "-", text=WEB.replace("web:1", "web:2"))
    assert "deployment.apps/web configured" in changed
    assert items(admin, "deploy")[0]["metadata"]["generation"] == 2


def test_a_list_of_objects_is_applied_one_by_one(admin: Kubectl) -> None:
    entries = [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}} for name in ("one", "two")]
    told = admin("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": entries}))
    assert told.split() == ["configmap/one", "created", "configmap/two", "created"]


def test_diff_tells_what_apply_would_change(admin: Kubectl) -> None:
    admin("apply", "-f", "-", text=WEB)
    assert admin("diff", "-f", "-", text=WEB) == ""
    differs = admin.run("diff", "-f", "-", text=WEB.replace("web:1", "web:2"))
    assert differs.returncode == 1
    assert "+      - image: web:2" in differs.stdout


def test_scale_patch_label_and_describe(admin: Kubectl) -> None:
    admin("apply", "-f", "-", text=WEB)
    admin("scale", "deploy", "web", "--replicas=4")
    admin("scale", "deploy", "web", "--current-replicas=4", "--replicas=3")
    admin("set", "image", "deploy/web", "c=web:3")
    admin("label", "deploy", "web", "tier=front")
    admin("patch", "deploy", "web", "--type=json", "-p", '[{"op":"add","path":"/metadata/annotations/x","value":"y"}]')
    found = items(admin, "deploy", "-l", "tier=front")[0]
    assert (found["spec"]["replicas"], found["metadata"]["annotations"]["x"]) == (3, "y")
    told = admin("describe", "deploy", "web")
    assert "3 desired" in told
    assert "web:3" in told


def test_rollout_status_follows_the_status(admin: Kubectl) -> None:
    admin("apply", "-f", "-", text=WEB)
    waiting = admin.start("rollout", "status", "deploy", "web", "--timeout=30s")
    counts = {"replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2}
    for step in ({"updatedReplicas": 1, "replicas": 1}, counts):
        patch = json.dumps({"status": {"observedGeneration": 1, **step}})
        admin("patch", "deploy", "web", "--subresource=status", "--type=merge", "-p", patch)
    assert 'deployment "web" successfully rolled out' in admin.finish(waiting)


def test_get_watch_prints_changes(admin: Kubectl) -> None:
    admin("apply", "-f", "-", text=WEB)
    watching = admin.start("get", "deploy", "-w", "-o", "name")
    try:
        assert watching.stdout is not None
        assert watching.stdout.readline().strip() == "deployment.apps/web"
        admin("scale", "deploy", "web", "--replicas=7")
        assert watching.stdout.readline().strip() == "deployment.apps/web"
    finally:
        watching.terminate()
        watching.communicate(timeout=10)


def test_a_pod_lives_and_goes(admin: Kubectl) -> None:
    admin("create", "-f", "-", text=POD)
    assert admin("get", "pods").splitlines()[1].split()[:3] == ["p", "0/1", "Pending"]
    found = items(admin, "pods", "--field-selector=status.phase=Pending")[0]
    assert found["status"]["qosClass"] == "BestEffort"
    assert any("serviceAccountToken" in str(volume) for volume in found["spec"]["volumes"])
    assert "kube-api-access" in admin("describe", "pod", "p")
    waiting = admin.start("wait", "--for=delete", "pod/p", "--timeout=30s")
    assert 'pod "p" deleted' in admin("delete", "pod", "p")
    admin.finish(waiting)


@pytest.mark.parametrize(
    "arguments",
    [
        ["configmap", "x", "--from-literal=a=b"],
        ["secret", "generic", "x", "--from-literal=a=b"],
        ["deployment", "x", "--image=web", "--replicas=2", "--port=80"],
        ["service", "clusterip", "x", "--tcp=80:80"],
        ["job", "x", "--image=web"],
        ["cronjob", "x", "--image=web", "--schedule=*/5 * * * *"],
        ["ingress", "x", "--rule=a.b/=svc:80"],
        ["role", "x", "--verb=get", "--resource=pods"],
        ["rolebinding", "x", "--clusterrole=view", "--serviceaccount=default:default"],
        ["quota", "x", "--hard=cpu=1,pods=2"],
        ["poddisruptionbudget", "x", "--selector=app=web", "--min-available=1"],
    ],
    ids=lambda arguments: str(arguments[0]),
)
def test_what_kubectl_creates_by_noun(admin: Kubectl, arguments: list[str]) -> None:
    """These travel as protobuf."""
    kind = arguments[0]
    assert "created" in admin("create", *arguments)
    assert admin("get", kind, "x", "-o", "name").strip().endswith("/x")
    assert admin("get", kind).splitlines()[1].split()[0] == "x"
    admin("delete", kind, "x")
    assert "NotFound" in admin.run("get", kind, "x").stderr


def test_explain_resources_and_version(admin: Kubectl) -> None:
    assert "FIELD: replicas <integer>" in admin("explain", "deploy.spec.replicas")
    resources = admin("api-resources")
    for name in ("pods", "deployments", "endpointslices", "leases"):
        assert name in resources
    assert "apps/v1" in admin("api-versions").split()
    assert "Server Version: v1.36" in admin("version")
    assert admin("get", "--raw", "/readyz") == "ok"
    assert "is running at" in admin("cluster-info")


def test_a_broken_manifest_is_told_field_by_field_and_stores_nothing(admin: Kubectl) -> None:
    broken = (
        WEB.split("---")[1].replace("replicas: 2", "replicas: -1").replace("labels: {app: web}", "labels: {app: x}")
    )
    done = admin.run("create", "-f", "-", text=broken)
    assert done.returncode == 1
    assert "spec.replicas: Invalid value: -1: must be greater than or equal to 0" in done.stderr
    assert "`selector` does not match template `labels`" in done.stderr
    unknown = admin.run("create", "-f", "-", text=WEB.split("---")[1].replace("replicas: 2", "replica: 2"))
    assert 'strict decoding error: unknown field "spec.replica"' in unknown.stderr
    assert items(admin, "deploy") == []


def test_strangers_stay_outside(server: Server, kubectl: Path, tmp_path: Path) -> None:
    nobody = Kubectl(kubectl, server.kubeconfig("nobody"), tmp_path)
    assert nobody.run("get", "pods").returncode == 1
    context = ssl.create_default_context(cafile=str(server.directory / "pki" / "ca.crt"))
    folder = server.directory / "pki"
    context.load_cert_chain(folder / "stranger.crt", folder / "stranger.key")
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=20)
    with pytest.raises((ssl.SSLError, OSError, http.client.HTTPException)):  # noqa: PT012 (either call may meet it)
        connection.request("GET", "/api/v1/pods")
        connection.getresponse()
    connection.close()
    scheduler = Kubectl(kubectl, server.kubeconfig("scheduler"), tmp_path)
    scheduler("get", "pods", "-A")
    assert 'User "system:kube-scheduler" cannot list resource "secrets"' in scheduler.run("get", "secrets").stderr


def test_memory_stays_small(server: Server) -> None:
    rollup = Path(f"/proc/{server.process.pid}/smaps_rollup").read_text()
    pss_kib = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    assert pss_kib < 90 * 1024


def test_default_kubernetes_names_the_living_instances(server: Server, kubectl: Path, tmp_path: Path) -> None:
    admin = Kubectl(kubectl, server.kubeconfig(), tmp_path)
    deadline = time.monotonic() + 20
    while not (slices := items(admin, "endpointslices", "-n", "default")):
        assert time.monotonic() < deadline
    assert slices[0]["endpoints"][0]["addresses"] == [ADVERTISED]
    assert slices[0]["ports"][0]["port"] == server.port
    assert items(admin, "services", "-n", "default")[0]["spec"]["clusterIP"] == "10.96.0.1"


def test_a_new_server_finds_everything_again(etcd: Path, kubectl: Path, tmp_path: Path) -> None:
    with etcd_server(etcd, tmp_path) as store:
        with api_server(store.url, tmp_path) as first:
            admin = Kubectl(kubectl, first.kubeconfig(), tmp_path)
            admin("create", "configmap", "kept", "--from-literal=a=b")
            first.process.kill()
            first.process.wait()
        with api_server(store.url, tmp_path) as second:
            admin = Kubectl(kubectl, second.kubeconfig(), tmp_path)
            assert json.loads(admin("get", "configmap", "kept", "-o", "json"))["data"] == {"a": "b"}
            second.process.terminate()
            assert second.process.wait(timeout=20) == 0


def test_it_outlives_an_absence_of_its_store(etcd: Path, kubectl: Path, tmp_path: Path) -> None:
    with etcd_server(etcd, tmp_path) as store, api_server(store.url, tmp_path) as server:
        admin = Kubectl(kubectl, server.kubeconfig(), tmp_path)
        admin("create", "configmap", "before")
        watching = admin.start("get", "configmap", "-w", "-o", "name")
        assert watching.stdout is not None
        while watching.stdout.readline().strip() != "configmap/before":
            pass
        store.kill()
        store.start()
        admin("create", "configmap", "after")
        while watching.stdout.readline().strip() != "configmap/after":
            pass
        watching.terminate()
        watching.communicate(timeout=10)
