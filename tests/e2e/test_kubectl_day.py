"""A day at kubectl: nodes are drained within budgets, pods are entered, copied to, debugged and forwarded to."""

from __future__ import annotations

import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Lab, poll

pytestmark = pytest.mark.e2e

SPACE = "kubectl-day"
IMAGE = "lab.raftsman.dev/busybox:1"
STAY = 'trap "exit 0" TERM; echo hello; sleep 100000 & wait'


@pytest.fixture(scope="module")
def space(lab: Lab) -> Iterator[str]:
    """A namespace with a deployment of two pods."""
    lab.kubectl("create", "namespace", SPACE)
    try:
        lab.kubectl(
            "create", "deployment", "stay", f"--image={IMAGE}", "--replicas=2", "-n", SPACE, "--", "sh", "-c", STAY
        )
        lab.kubectl("rollout", "status", "deployment/stay", "-n", SPACE, "--timeout=90s", timeout_s=120)
        yield SPACE
    finally:
        lab.kubectl("delete", "namespace", SPACE, "--wait=false")


def drain(lab: Lab, node: str, timeout_s: int) -> subprocess.CompletedProcess[str]:
    # Only this test's pods: the other tests' stay where they are.
    return lab.run_kubectl(
        "drain", node, "--pod-selector=app=stay", "--ignore-daemonsets", "--delete-emptydir-data",
        f"--timeout={timeout_s}s", timeout_s=timeout_s + 60,
    )  # fmt: skip


def test_a_drain_keeps_to_the_budget_and_then_moves_the_pods(lab: Lab, space: str) -> None:
    node = lab.get("pods", "-n", space, "-l", "app=stay")["items"][0]["spec"]["nodeName"]
    try:
        lab.kubectl("create", "pdb", "stay", "--selector=app=stay", "--min-available=2", "-n", space)
        poll("the budget's status", lambda: lab.get("pdb", "stay", "-n", space)["status"].get("currentHealthy") == 2)
        refused = drain(lab, node, 3)
        assert refused.returncode == 1
        assert "Cannot evict pod as it would violate the pod's disruption budget." in refused.stderr
        lab.kubectl("delete", "pdb", "stay", "-n", space)
        moved = drain(lab, node, 60)
        assert moved.returncode == 0, moved.stderr
        assert f"node/{node} drained" in moved.stdout
        lab.kubectl("rollout", "status", "deployment/stay", "-n", space, "--timeout=60s", timeout_s=90)
        assert node not in {pod["spec"]["nodeName"] for pod in lab.get("pods", "-n", space, "-l", "app=stay")["items"]}
    finally:
        assert "uncordoned" in lab.kubectl("uncordon", node)


def test_a_pod_is_copied_to_and_debugged(lab: Lab, space: str, tmp_path: Path) -> None:
    pod = lab.get("pods", "-n", space, "-l", "app=stay")["items"][0]["metadata"]["name"]
    there, back = tmp_path / "there", tmp_path / "back"
    there.write_bytes(bytes(range(256)) * 4000)
    lab.kubectl("cp", str(there), f"{space}/{pod}:/tmp/there")
    lab.kubectl("cp", f"{space}/{pod}:/tmp/there", str(back))
    assert back.read_bytes() == there.read_bytes()
    lab.kubectl(
        "debug", pod, f"--image={IMAGE}", "--target=busybox", "-c", "look", "--profile=general", "-n", space,
        "--", "sh", "-c", "ps; sleep 1000",
    )  # fmt: skip
    # It shares the other container's processes.
    poll("the debugger's view", lambda: "trap" in lab.run_kubectl("logs", pod, "-c", "look", "-n", space).stdout)


def test_the_log_of_the_life_before_is_kept(lab: Lab, space: str) -> None:
    lab.kubectl("run", "brief", f"--image={IMAGE}", "-n", space, "--command", "--", "sh", "-c", "echo dying; exit 1")
    poll("a restart", lambda: lab.run_kubectl("logs", "brief", "--previous", "-n", space).stdout == "dying\n")
    assert "Metrics API not available" in lab.run_kubectl("top", "pods", "-n", space).stderr


def test_a_service_is_forwarded_to(lab: Lab) -> None:
    environment = {"KUBECONFIG": str(lab.cluster.kubeconfig), "HOME": str(lab.state_root)}
    command = [str(lab.kubectl_program), "port-forward", "service/web", ":80"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as forwarding:
        try:
            assert forwarding.stdout is not None
            found = re.search(r"127\.0\.0\.1:(\d+) -> 8080", forwarding.stdout.readline())
            assert found is not None
            with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/", timeout=20) as answer:
                assert "guestbook served by" in answer.read().decode()
        finally:
            forwarding.terminate()
