"""The command `raftsman net` as far as it needs no cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.main import raftsman
from cli.node_doors import NodeDoor, agent_flags


@pytest.mark.parametrize(
    "arguments", [["net"], *(["net", name] for name in ("explain", "diff", "check", "services"))], ids=" ".join
)
def test_help_has_examples(arguments: list[str]) -> None:
    done = CliRunner().invoke(raftsman, [*arguments, "--help"])
    assert done.exit_code == 0
    assert "Examples:" in done.output


def test_a_missing_cluster_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAFTSMAN_STATE_DIR", str(tmp_path))
    done = CliRunner().invoke(raftsman, ["net", "explain", "a", "b", "--name", "nothere"])
    assert "there is no cluster 'nothere' here" in str(done.exception)


def test_an_agents_flags_are_read_from_its_command_line() -> None:
    words = "/usr/bin/python3 -m cli.main node run --hostname-override n1 --node-ip 10.77.0.11 --kubeconfig /k"
    flags = agent_flags([*words.split(), "--cluster-cidr", "10.100.0.0/16,fd00::/56"])
    settings = NodeDoor("n1", 0, flags).settings
    assert flags["hostname_override"] == "n1"
    assert settings.cluster_cidrs == ("10.100.0.0/16", "fd00::/56")
    assert agent_flags(["python3", "-m", "cli.main", "controlplane"]) == {}


def test_a_pods_namespace_is_found_through_the_nodes_own_root(tmp_path: Path) -> None:
    door = NodeDoor("n1", 7)
    assert door.path("/var/run/netns/cni-1") == Path("/proc/7/root/run/netns/cni-1")
    assert NodeDoor("n1").path("/var/run/netns/cni-1") == Path("/var/run/netns/cni-1")
