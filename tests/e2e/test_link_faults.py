"""A person cuts the way between two nodes, and heals it."""

import pytest

from tests.e2e.conftest import Lab, poll

pytestmark = pytest.mark.e2e


def reaches(lab: Lab, source: str, target: str) -> bool:
    """Tell whether one node's kubelet port answers another node."""
    address = lab.cluster.address(lab.cluster.node(target))
    command = f"exec 3<>/dev/tcp/{address}/10250"
    return lab.on_node(source, "bash", "-c", command, timeout_s=2).returncode == 0


def test_a_link_is_cut_and_heals(lab: Lab) -> None:
    assert reaches(lab, "n2", "n3")
    try:
        assert "n2 ↔ n3: cut; by nft" in lab.raftsman("link", "n2", "n3", "--cut")
        assert not reaches(lab, "n2", "n3")
        assert reaches(lab, "n1", "n3")
        assert "cut" in lab.raftsman("link")
        # The node's own way to the API server is open still.
        assert lab.get("node", "n3")["status"]["conditions"]
    finally:
        lab.raftsman("link", "reset")
    poll("the link's health", lambda: reaches(lab, "n2", "n3"))
    assert "All links are well" in lab.raftsman("link")
