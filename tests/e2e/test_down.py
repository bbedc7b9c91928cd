"""`raftsman down` leaves nothing, also after an `up` that was killed in the middle."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import processes, state
from lab.state import Cluster
from tests.e2e.conftest import ROOT, Lab, raftsman

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(420)]


def traces(name: str) -> dict[str, set[str]]:
    """Everything on this machine that a cluster could leave behind."""

    def lines(*command: str) -> set[str]:
        return set(subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines())

    cluster = Cluster(name, 0, state.state_root() / "clusters" / name, ())
    groups = {str(path) for path in Path("/sys/fs/cgroup").glob(f"**/{cluster.cgroup}/**") if path.is_dir()}
    marks = (cluster.namespace, str(cluster.directory))  # other programs of this machine may mount what they like

    def ours(found: set[str]) -> set[str]:
        return {line for line in found if any(mark in line for mark in marks)}

    mounts = set(Path("/proc/self/mounts").read_text().splitlines())
    return {
        "links": {line.split(":")[1] for line in lines("ip", "-o", "link")},
        "namespaces": ours(lines("ip", "netns", "list")),
        "addresses": lines("ip", "-o", "address"),
        "routes": lines("ip", "route"),
        "rules": lines("iptables-save") - {line for line in lines("iptables-save") if line.startswith("#")},
        "mounts": ours(mounts),
        "cgroups": groups,
        "processes": {f"{process.pid} {process.command}" for process in processes.find(cluster)},
        "files": {str(path) for path in (state.state_root() / "clusters").glob(f"{name}/**")},
    }


@pytest.fixture
def name(state_root: Path) -> Iterator[str]:
    """A cluster's name of this test's own; whatever happens, the cluster is removed."""
    name = "gone"
    try:
        yield name
    finally:
        raftsman(state_root, "down", "--name", name, timeout_s=120)


def start_up(state_root: Path, name: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "RAFTSMAN_STATE_DIR": str(state_root), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "cli.main", "up", "--nodes", "1", "--no-demo", "--name", name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, cwd=ROOT)


@pytest.mark.parametrize("moment", ["record", "init", "node"])
def test_nothing_is_left_of_an_interrupted_start(lab: Lab, state_root: Path, name: str, moment: str) -> None:
    before = traces(name)
    process = start_up(state_root, name)
    try:
        deadline = time.monotonic() + 60
        while not _has_come(name, moment):
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()
    assert traces(name) != before
    done = raftsman(state_root, "down", "--name", name, timeout_s=60)
    assert done.returncode == 0, done.stderr
    assert traces(name) == before


def _has_come(name: str, moment: str) -> bool:
    cluster = Cluster(name, 0, state.state_root() / "clusters" / name, ())
    if moment == "record":
        return (cluster.directory / "cluster.json").exists()
    return any(process.component == f"n1/{moment}" for process in processes.find(cluster))


def test_second_cluster_lives_beside_the_first_and_goes(lab: Lab, state_root: Path, name: str) -> None:
    before = traces(name)
    done = raftsman(state_root, "up", "--nodes", "1", "--name", name, "--no-demo", timeout_s=240)
    assert done.returncode == 0, done.stdout + done.stderr
    again = raftsman(state_root, "up", "--nodes", "1", "--name", name, "--no-demo")
    assert "runs already" in again.stdout
    assert "n3" in lab.kubectl("get", "nodes")
    second = state.load(name)
    assert second is not None
    assert second.pod_range != lab.cluster.pod_range
    done = raftsman(state_root, "node", "add", "extra", "--name", name, timeout_s=180)
    assert done.returncode == 0, done.stdout + done.stderr
    nodes = raftsman(state_root, "status", "--name", name).stdout
    assert re.search(r"extra +\S+ +Ready", nodes), nodes
    done = raftsman(state_root, "down", "--name", name)
    assert done.returncode == 0, done.stderr
    assert traces(name) == before
    assert "nothing was changed" in raftsman(state_root, "down", "--name", name).stdout
