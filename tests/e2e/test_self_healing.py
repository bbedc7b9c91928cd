"""What breaks comes back: containers, pods, nodes."""

import os
import signal
from typing import Any

import pytest

from tests.e2e.conftest import Lab, poll

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(420)]


def container_pid(lab: Lab, pod: dict[str, Any]) -> int:
    """Return the pid, as this machine counts, of the first container's PID 1, found by its control group."""
    container = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/cgroup") as file:
                if container in file.read():
                    return int(entry)
        except OSError:
            continue
    return 0


def restarts(lab: Lab, name: str) -> int:
    return int(lab.get("pod", name)["status"]["containerStatuses"][0]["restartCount"])


def is_ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def test_killed_container_restarts(lab: Lab) -> None:
    pod = poll("a ready pod", lambda: next(filter(is_ready, lab.pods("tier=web")), None))
    name = pod["metadata"]["name"]
    before = restarts(lab, name)
    os.kill(poll("its process", lambda: container_pid(lab, pod)), signal.SIGKILL)
    poll("a restart", lambda: restarts(lab, name) == before + 1)
    poll("readiness", lambda: is_ready(lab.get("pod", name)))
    assert lab.get("pod", name)["metadata"]["uid"] == pod["metadata"]["uid"]


def test_deleted_pod_is_replaced(lab: Lab) -> None:
    name = lab.pods("tier=web")[0]["metadata"]["name"]
    lab.kubectl("delete", "pod", name, "--wait=false")

    def replaced() -> bool:
        pods = lab.pods("tier=web")
        return len(pods) == 3 and all(map(is_ready, pods)) and name not in {p["metadata"]["name"] for p in pods}

    poll("a replacement", replaced)


def test_killed_node_loses_its_pods_and_returns_clean(lab: Lab) -> None:
    node = "n3"
    poll("pods on the node", lambda: [p for p in lab.pods("tier=web") if p["spec"].get("nodeName") == node] or None)
    lab.raftsman("node", "kill", node)
    try:

        def node_ready() -> str:
            conditions = lab.get("node", node)["status"]["conditions"]
            return str(next(c["status"] for c in conditions if c["type"] == "Ready"))

        poll("NotReady", lambda: node_ready() != "True", timeout_s=60)

        def moved() -> bool:
            pods = [p for p in lab.pods("tier=web") if p["spec"].get("nodeName", node) != node]
            return len(pods) == 3 and all(map(is_ready, pods))

        poll("three pods elsewhere", moved, timeout_s=120)
    finally:
        lab.raftsman("node", "start", node)
    poll("Ready again", lambda: node_ready() == "True", timeout_s=90)

    def clean() -> bool:
        """No container is left of pods that the API does not place there, and no pod is stuck."""
        listed = lab.on_node(
            node,
            "ctr",
            "-a",
            str(lab.cluster.node_directory(lab.cluster.node(node)) / "containerd.sock"),
            "-n",
            "k8s.io",
            "tasks",
            "list",
            "-q",
        )
        wanted = [p for p in lab.get("pods", "-A")["items"] if p["spec"].get("nodeName") == node]
        stuck = [p for p in wanted if p["metadata"].get("deletionTimestamp")]
        containers = sum(1 + len(p["spec"]["containers"]) for p in wanted)
        return listed.returncode == 0 and not stuck and len(listed.stdout.split()) == containers

    poll("a clean node", clean, timeout_s=90)


def test_killed_components_of_a_node_resume(lab: Lab) -> None:
    before = lab.pid("n2/node")
    os.kill(before, signal.SIGKILL)
    poll("a new agent", lambda: lab.pid("n2/node") != before)
    os.kill(lab.pid("n2/containerd"), signal.SIGKILL)
    name = "after-restart"
    overrides = '{"spec":{"nodeName":"n2","terminationGracePeriodSeconds":0}}'
    lab.kubectl(
        "run",
        name,
        "--image=lab.raftsman.dev/busybox:1",
        f"--overrides={overrides}",
        "--command",
        "--",
        "sleep",
        "1000",
    )
    try:
        poll("a running pod", lambda: is_ready(lab.get("pod", name)), timeout_s=90)
    finally:
        lab.kubectl("delete", "pod", name)
