"""Plans, addresses and records of the lab's clusters."""

import ipaddress
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import state
from lab.state import Cluster, LabError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAFTSMAN_STATE_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("nodes", "control_planes", "stores", "planes"),
    [
        pytest.param(1, 1, ["n1"], ["n1"], id="one"),
        pytest.param(2, 1, ["n1"], ["n1"], id="two have one member, since two cannot lose any"),
        pytest.param(3, 1, ["n1", "n2", "n3"], ["n1"], id="three"),
        pytest.param(5, 3, ["n1", "n2", "n3"], ["n1", "n2", "n3"], id="five with three control planes"),
    ],
)
def test_plan(nodes: int, control_planes: int, stores: list[str], planes: list[str]) -> None:
    cluster = state.plan("c", 0, Path("/c"), nodes, control_planes)
    assert [node.name for node in cluster.store_nodes()] == stores
    assert [node.name for node in cluster.control_plane_nodes()] == planes


@pytest.mark.parametrize(
    ("name", "nodes", "control_planes", "told"),
    [
        ("UPPER", 3, 1, "no cluster name"),
        ("", 3, 1, "no cluster name"),
        ("-a", 3, 1, "no cluster name"),
        ("a" * 21, 3, 1, "no cluster name"),
        ("a", 0, 1, "--nodes must be"),
        ("a", 201, 1, "--nodes must be"),
        ("a", 3, 2, "--control-planes must be"),
        ("a", 1, 3, "--control-planes must be"),
    ],
)
def test_plan_refuses(name: str, nodes: int, control_planes: int, told: str) -> None:
    with pytest.raises(LabError, match=told):
        state.plan(name, 0, Path("/c"), nodes, control_planes)


@given(st.integers(0, state.CLUSTERS_MAX - 1), st.integers(0, state.CLUSTERS_MAX - 1))
def test_ipv6_ranges_lie_in_the_clusters_own(left: int, right: int) -> None:
    def cluster(slot: int) -> Cluster:
        return Cluster("c", slot, Path("/c"), (), dual_stack=True)

    one, other = cluster(left), cluster(right)
    pods = ipaddress.IPv6Network(one.second_pod_range)
    assert one.site_range.supernet_of(one.second_fabric)
    assert one.site_range.supernet_of(pods)
    assert not pods.overlaps(one.second_fabric)
    assert one.site_range.overlaps(other.site_range) == (left == right)
    assert one.pod_ranges == (one.pod_range, one.second_pod_range)
    services = ipaddress.IPv6Network(one.service_ranges[1])
    assert one.site_range.supernet_of(services)
    assert not services.overlaps(pods)
    assert not services.overlaps(one.second_fabric)


def test_one_family_has_no_second_addresses() -> None:
    node = state.NodeSpec("n1", 1)
    single = Cluster("c", 0, Path("/c"), (node,))
    assert (single.second_address(node), single.pod_ranges) == ("", (single.pod_range,))
    assert single.service_ranges == (single.service_range,)
    assert single.with_changes(dual_stack=True).second_address(node) == "fd52:6166:7400:77::b"


@given(st.integers(0, state.CLUSTERS_MAX - 1), st.integers(0, state.CLUSTERS_MAX - 1))
def test_ranges_of_two_clusters_are_apart(left: int, right: int) -> None:
    def ranges(slot: int) -> list[ipaddress.IPv4Network]:
        cluster = Cluster("c", slot, Path("/c"), ())
        return [cluster.fabric, *map(ipaddress.IPv4Network, (cluster.pod_range, cluster.service_range))]

    if left != right:
        assert not any(a.overlaps(b) for a in ranges(left) for b in ranges(right))
    own = ranges(left)
    assert not any(a.overlaps(b) for a in own for b in own if a is not b)


def test_record_comes_back_and_belongs_to_its_owner_alone(root: Path) -> None:
    cluster = state.plan("c", state.free_slot(), root / "clusters" / "c", 3, 1).with_changes(init_pids={"n1": 7})
    state.save(cluster)
    assert state.load("c") == cluster
    assert (cluster.directory / "cluster.json").stat().st_mode & 0o777 == 0o600
    assert state.free_slot() == 1
    assert state.load("other") is None
    with pytest.raises(LabError, match="start one with: raftsman up --name other"):
        state.require("other")


@pytest.mark.parametrize(
    ("text", "told"), [("{", "is damaged"), ('{"version": 99}', "has version 99"), ("{}", "has version 0")]
)
def test_damaged_or_foreign_record_is_refused(root: Path, text: str, told: str) -> None:
    path = root / "clusters" / "c" / "cluster.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(LabError, match=told):
        state.load("c")
    assert state.free_slot() == 0


def test_record_of_version_1_opens(root: Path) -> None:
    record = {
        "name": "c", "slot": 4, "directory": str(root / "clusters" / "c"), "api_port": 1, "demo_port": 2,
        "nodes": [{"name": "n1", "index": 1, "store": True, "control_plane": True}], "bootstrap_token": "a.b",
        "init_pids": {"n1": 3}, "forwarder_pid": 4, "phase": "running", "version": 1,
    }  # fmt: skip
    path = root / "clusters" / "c" / "cluster.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record))
    cluster = state.require("c")
    assert cluster.address(cluster.node("n1")) == "10.77.4.11"
