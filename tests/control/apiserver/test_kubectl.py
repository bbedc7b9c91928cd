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


def test_a_list_of_objects_is_applied_one_by_one(admin: Kubectl) -> None:
    entries = [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}} for name in ("one", "two")]
    told = admin("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": entries}))
    assert told.split() == ["configmap/one", "created", "configmap/two", "created"]


def test_rollout_status_follows_the_status(admin: Kubectl) -> None:
    admin("apply", "-f", "-", text=WEB)
    waiting = admin.start("rollout", "status", "deploy", "web", "--timeout=30s")
    counts = {"replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2}
    for step in ({"updatedReplicas": 1, "replicas": 1}, counts):
        patch = json.dumps({"status": {"observedGeneration": 1, **step}})
        admin("patch", "deploy", "web", "--subresource=status", "--type=merge", "-p", patch)
    assert 'deployment "web" successfully rolled out' in admin.finish(waiting)


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
