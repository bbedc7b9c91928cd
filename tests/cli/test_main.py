"""The raftsman command: help without imports, and errors in one line."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.main import CLUSTER, COMPONENTS, raftsman
from cli.status import log_paths
from lab import state
from lab.state import LabError


@pytest.mark.parametrize("name", [*CLUSTER, *COMPONENTS])
def test_every_subcommand_has_help_with_an_example(name: str) -> None:
    if name == "kubectl":
        pytest.skip("hands its help over to kubectl itself")
    done = CliRunner().invoke(raftsman, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert "xample" in done.output


def test_help_imports_no_component() -> None:
    code = "import sys; from cli.main import raftsman; raftsman(['--help'], standalone_mode=False);"
    code += (
        "print([m for m in sys.modules if m.split('.')[0] in ('store', 'node', 'net') or m.startswith('control.api')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


def test_errors_are_one_line(tmp_path: Path) -> None:
    environment = {"RAFTSMAN_STATE_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "cli.main", "status"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == "raftsman: there is no cluster 'raftsman' here; start one with: raftsman up --name raftsman\n"


def test_logs_name_what_there_is(tmp_path: Path) -> None:
    cluster = state.plan("c", 0, tmp_path, 2, 1)
    for node, component in (("n1", "store"), ("n1", "node"), ("n2", "node")):
        path = cluster.node_directory(cluster.node(node)) / "log" / f"{component}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert len(log_paths(cluster, "node")) == 2
    assert len(log_paths(cluster, "n1/node")) == 1
    with pytest.raises(LabError, match="there are forwarder, node, store"):
        log_paths(cluster, "kubelet")
    with pytest.raises(LabError, match="it has n1, n2"):
        log_paths(cluster, "n7/node")
