"""Three control planes: any of them may die, and its work goes on elsewhere."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Lab, poll, raftsman

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def planes(state_root: Path, kubectl: Path) -> Iterator[Lab]:
    """A cluster of three control planes, without the demo."""
    name = "planes"
    try:
        done = raftsman(state_root, "up", "--name", name, "--control-planes", "3", "--no-demo", timeout_s=400)
        assert done.returncode == 0, done.stdout + done.stderr
        yield Lab(name, state_root, kubectl)
    finally:
        done = raftsman(state_root, "down", "--name", name, timeout_s=120)
        assert done.returncode == 0, done.stdout + done.stderr


def holder(lab: Lab, lease: str) -> str:
    return str(lab.get("lease", lease, "-n", "kube-system")["spec"].get("holderIdentity") or "")


def test_work_goes_on_when_the_leading_control_plane_dies(planes: Lab) -> None:
    poll("all three", lambda: len(planes.get("endpoints", "kubernetes")["subsets"][0]["addresses"]) == 3)
    leading = poll("a leader", lambda: holder(planes, "kube-controller-manager"))
    planes.raftsman("node", "kill", leading)
    poll("an API server", lambda: planes.run_kubectl("get", "--raw", "/readyz").returncode == 0)
    poll("another leader", lambda: holder(planes, "kube-controller-manager") not in ("", leading), timeout_s=90)
    planes.kubectl(
        "create", "deployment", "later", "--image=lab.raftsman.dev/busybox:1", "--replicas=2", "--", "sleep", "1000"
    )

    def runs() -> bool:
        return bool(planes.get("deployment", "later")["status"].get("availableReplicas", 0) == 2)

    poll("its pods", runs, timeout_s=150)
    planes.raftsman("node", "start", leading)
    poll("all three again", lambda: len(planes.get("endpoints", "kubernetes")["subsets"][0]["addresses"]) == 3)


def test_a_killed_process_is_started_again(planes: Lab) -> None:
    before = planes.pid("n2/controlplane")
    os.kill(before, signal.SIGKILL)
    poll("a new process", lambda: planes.pid("n2/controlplane") != before)
