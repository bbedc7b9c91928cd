"""A three-node cluster of the lab, shared by all tests of this folder."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from lab import processes, state
from lab.state import Cluster

ROOT = Path(__file__).parent.parent.parent
T = TypeVar("T")


def poll(what: str, attempt: Callable[[], T | None], timeout_s: float = 60.0) -> T:
    """Repeat until something true comes back; fails with the last value seen."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = attempt()
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come within {timeout_s:.0f} s; last seen: {found!r}")
        time.sleep(0.1)


@dataclass(frozen=True)
class Lab:
    """A running cluster, as a person at a shell has it."""

    name: str
    state_root: Path
    kubectl_program: Path

    @property
    def cluster(self) -> Cluster:
        """The record as it stands now."""
        found = state.load(self.name)
        assert found is not None
        return found

    def raftsman(self, *arguments: str, timeout_s: float = 240) -> str:
        """Run a raftsman command and return what it printed; a failure fails the test."""
        done = raftsman(self.state_root, *arguments, "--name", self.name, timeout_s=timeout_s)
        assert done.returncode == 0, f"raftsman {arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def run_kubectl(
        self, *arguments: str, program: Path | None = None, text: str | None = None, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run an unmodified kubectl."""
        environment = {
            "PATH": os.environ["PATH"],
            "KUBECONFIG": str(self.cluster.kubeconfig),
            "HOME": str(self.state_root),
        }
        command = [str(program or self.kubectl_program), *arguments]
        return subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=timeout_s, env=environment, check=False
        )

    def kubectl(
        self, *arguments: str, program: Path | None = None, text: str | None = None, timeout_s: float = 60
    ) -> str:
        """Run kubectl; a failure fails the test."""
        done = self.run_kubectl(*arguments, program=program, text=text, timeout_s=timeout_s)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}{done.stdout}"
        return done.stdout

    def get(self, *arguments: str) -> Any:
        """Return what `kubectl get … -o json` says."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def pods(self, selector: str) -> list[dict[str, Any]]:
        """Return the pods of a selector that are not being deleted."""
        found: list[dict[str, Any]] = self.get("pods", "-l", selector)["items"]
        return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]

    def pid(self, component: str) -> int:
        """Return the pid of NODE/COMPONENT."""
        return poll(f"process {component}", lambda: processes.main_process(self.cluster, component)).pid

    def on_node(self, node: str, *command: str, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a command in a node's network and mount namespaces; 124 is returned where it took too long.

        Time runs out inside: were nsenter killed, its child would live on and nobody might ever wait for it, and a
        node ends only once all its processes were waited for.
        """
        pid = self.cluster.init_pids[node]
        inside = ["nsenter", "-t", str(pid), "-m", "-n", "-p", "timeout", str(timeout_s)]
        return subprocess.run([*inside, *command], capture_output=True, text=True, check=False)


def raftsman(state_root: Path, *arguments: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
    """Run a raftsman command with a state folder of its own."""
    environment = {**os.environ, "RAFTSMAN_STATE_DIR": str(state_root), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "cli.main", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_s, env=environment, cwd=ROOT, check=False
    )


@pytest.fixture(scope="session")
def state_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder with a short path: unix sockets must fit into 108 bytes."""
    root = Path(f"/tmp/raftsman-e2e-{os.getpid()}")
    root.mkdir(mode=0o700)
    before = os.environ.get("RAFTSMAN_STATE_DIR")
    os.environ["RAFTSMAN_STATE_DIR"] = str(root)
    try:
        yield root
    finally:
        if before is None:
            del os.environ["RAFTSMAN_STATE_DIR"]
        else:
            os.environ["RAFTSMAN_STATE_DIR"] = before
        shutil.rmtree(root)


def _say_logs(root: Path) -> None:
    """Print the end of every log, so that a failure elsewhere can be understood from its report."""
    for path in sorted(root.glob("clusters/*/nodes/*/log/*.log")):
        print(f"==== {path.relative_to(root)}")
        print("\n".join(path.read_text(errors="replace").splitlines()[-25:]))


@pytest.fixture(scope="session")
def lab(state_root: Path, kubectl: Path) -> Iterator[Lab]:
    """The cluster `e2e` with the demo, up for the whole session and removed after it."""
    name = "e2e"
    try:
        done = raftsman(state_root, "up", "--name", name, timeout_s=300)
        if done.returncode:
            _say_logs(state_root)
        assert done.returncode == 0, f"raftsman up: {done.stdout}\n{done.stderr}"
        yield Lab(name, state_root, kubectl)
    finally:
        done = raftsman(state_root, "down", "--name", name, timeout_s=120)
        assert done.returncode == 0, f"raftsman down: {done.stdout}\n{done.stderr}"
