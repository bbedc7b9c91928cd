"""Store members and API servers die; nothing acknowledged is lost and everything resumes."""

import os
import signal
import subprocess
import time

import pytest

from lab.site import CLIENT_PORT
from tests.e2e.conftest import Lab, poll

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(420)]


def etcdctl(lab: Lab, *arguments: str, node: str = "n1") -> subprocess.CompletedProcess[str]:
    """Run an unmodified etcdctl inside a node."""
    pki = lab.cluster.pki
    flags = [
        "--cacert", str(pki / "etcd" / "ca.crt"), "--cert", str(pki / "apiserver-etcd-client.crt"),
        "--key", str(pki / "apiserver-etcd-client.key"),
        "--endpoints", ",".join(f"https://{lab.cluster.address(n)}:{CLIENT_PORT}" for n in lab.cluster.store_nodes()),
    ]  # fmt: skip
    return lab.on_node(node, "env", "ETCDCTL_API=3", "etcdctl", *flags, *arguments)


def leader(lab: Lab) -> str:
    """Return the node whose member leads."""
    import json

    for node in lab.cluster.store_nodes():
        done = etcdctl(lab, "endpoint", "status", "-w", "json", node=node.name)
        if done.returncode and not done.stdout:
            continue
        for entry in json.loads(done.stdout or "[]"):
            status = entry["Status"]
            if status["leader"] == status["header"]["member_id"]:
                address = entry["Endpoint"].removeprefix("https://").rpartition(":")[0]
                return next(n.name for n in lab.cluster.nodes if lab.cluster.address(n) == address)
    return ""


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_killed_store_member_loses_nothing(lab: Lab, etcdctl_present: None, role: str) -> None:
    leading = poll("a leader", lambda: leader(lab))
    victim = leading if role == "leader" else next(n.name for n in lab.cluster.store_nodes() if n.name != leading)
    acknowledged: list[str] = []

    def write(count: int) -> None:
        for _ in range(count):
            name = f"kept-{role}-{len(acknowledged)}"
            done = lab.run_kubectl("create", "configmap", name, "--from-literal=k=v")
            if done.returncode == 0 or "already exists" in done.stderr:
                acknowledged.append(name)

    write(5)
    before = lab.pid(f"{victim}/store")
    os.kill(before, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while len(acknowledged) < 15 and time.monotonic() < deadline:
        write(1)
    assert len(acknowledged) >= 15, "writes did not go on"
    try:
        names = {item["metadata"]["name"] for item in lab.get("configmaps")["items"]}
        assert set(acknowledged) <= names
        poll("the member's return", lambda: lab.pid(f"{victim}/store") != before)
        poll("all members healthy", lambda: etcdctl(lab, "endpoint", "health").returncode == 0)
        names = {item["metadata"]["name"] for item in lab.get("configmaps")["items"]}
        assert set(acknowledged) <= names
    finally:
        lab.kubectl("delete", "configmap", *acknowledged)


@pytest.fixture(scope="session")
def etcdctl_present(etcdctl: object) -> None:
    """Fail with the name of the package where etcdctl is missing."""


def test_api_server_restarts_empty_and_all_resume(lab: Lab) -> None:
    uids = {item["metadata"]["uid"] for item in lab.get("deployments", "-A")["items"]}
    before = lab.pid("n1/controlplane")
    os.kill(before, signal.SIGKILL)
    poll("a new control plane", lambda: lab.pid("n1/controlplane") != before)
    poll("an answer", lambda: lab.run_kubectl("get", "--raw", "/readyz").returncode == 0)
    assert {item["metadata"]["uid"] for item in lab.get("deployments", "-A")["items"]} == uids
    name = "after-hub"
    lab.kubectl(
        "create", "deployment", name, "--image=lab.raftsman.dev/busybox:1", "--replicas=2", "--", "sleep", "1000"
    )
    try:
        done = lab.run_kubectl("rollout", "status", f"deployment/{name}", "--timeout=90s", timeout_s=120)
        assert "successfully rolled out" in done.stdout, done.stderr
    finally:
        lab.kubectl("delete", "deployment", name)
