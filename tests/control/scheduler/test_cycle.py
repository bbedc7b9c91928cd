"""Decisions of the scheduler, as tables of clusters and pods."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.scheduler.cycle import decide
from control.scheduler.framework import Candidate, Decision
from control.scheduler.plugins.registry import default_filters, default_scorers
from control.scheduler.snapshot import Snapshot, pod_info, pod_requests


def node(name: str, cpu: str = "1", memory: str = "1Gi", pods: str = "10", **spec: Any) -> dict[str, Any]:
    labels = {"kubernetes.io/hostname": name, **spec.pop("labels", {})}
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
        "status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": pods}},
    }


def pod(name: str = "p", cpu: str = "100m", memory: str = "64Mi", **spec: Any) -> dict[str, Any]:
    labels = spec.pop("labels", {"app": "a"})
    container = {"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}
    return {
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": {"containers": [container], **spec},
    }


def place(
    nodes: list[dict[str, Any]], candidate: dict[str, Any], bound: dict[str, list[dict[str, Any]]] | None = None
) -> Decision:
    snapshot = Snapshot()
    for entry in nodes:
        snapshot.put_node(entry)
    for name, pods in (bound or {}).items():
        for entry in pods:
            snapshot.put_pod(pod_info(entry), name)
    return decide(Candidate(candidate, pod_info(candidate)), snapshot, default_filters(), default_scorers())


TAINT = {"key": "k", "value": "v", "effect": "NoSchedule"}
SPREAD = {
    "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
    "labelSelector": {"matchLabels": {"app": "a"}},
}  # fmt: skip
HOST_PORT: dict[str, Any] = {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}


@pytest.mark.parametrize(
    ("nodes", "candidate", "bound", "expected"),
    [
        pytest.param([node("a"), node("b")], pod(), {"a": [pod("x")]}, "b", id="the emptier node"),
        pytest.param([node("a", taints=[TAINT]), node("b")], pod(), {"b": [pod("x", cpu="800m")]}, "b", id="no tainted node"),
        pytest.param(
            [node("a", taints=[TAINT])], pod(tolerations=[{"key": "k", "operator": "Exists"}]), {}, "a", id="a tolerated taint"
        ),
        pytest.param([node("a", unschedulable=True), node("b")], pod(), {}, "b", id="no cordoned node"),
        pytest.param([node("a"), node("b", labels={"disk": "ssd"})], pod(nodeSelector={"disk": "ssd"}), {}, "b", id="by label"),
        pytest.param([node("a"), node("b")], pod(topologySpreadConstraints=[SPREAD]), {"a": [pod("x", cpu="1m")], "b": []}, "b", id="spread"),
        pytest.param([node("a"), node("b", pods="0")], pod(), {"a": [pod("x")]}, "a", id="room for pods"),
        pytest.param([node("a"), node("b")], pod(**HOST_PORT), {"a": [pod("x", **HOST_PORT)]}, "b", id="free host port"),
    ],
)  # fmt: skip
def test_chosen_node(nodes: list[Any], candidate: Any, bound: dict[str, Any], expected: str) -> None:
    assert place(nodes, candidate, bound).node_name == expected


def test_message_counts_each_reason_once_a_node() -> None:
    nodes = [node("a", cpu="10m"), node("b", taints=[TAINT]), node("c", unschedulable=True)]
    decision = place(nodes, pod())
    assert decision.node_name is None
    expected = "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {k: v}, 1 node(s) were unschedulable."
    assert decision.message() == expected
    assert decision.reasons["NodeResourcesFit"] == {"Insufficient cpu": ["a"]}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param({"containers": [{"resources": {"limits": {"cpu": "1"}}}]}, {"cpu": 1000}, id="limits stand in"),
        pytest.param(
            {
                "containers": [{"resources": {"requests": {"cpu": "100m"}}}],
                "initContainers": [{"resources": {"requests": {"cpu": "1"}}}],
            },
            {"cpu": 1000},
            id="the largest init step",
        ),
        pytest.param(
            {
                "containers": [{"resources": {"requests": {"cpu": "100m"}}}],
                "initContainers": [
                    {"restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
                    {"resources": {"requests": {"cpu": "60m"}}},
                ],
                "overhead": {"cpu": "5m"},
            },
            {"cpu": 155},
            id="sidecars run beside",
        ),
    ],
)
def test_pod_requests(spec: dict[str, Any], expected: dict[str, int]) -> None:
    assert pod_requests(spec) == expected


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4), st.booleans()), max_size=40))
def test_columns_count_what_is_there(steps: list[tuple[str, int, bool]]) -> None:
    """Whatever comes and goes, in any order, each column is the sum over the pods of the nodes that are there."""
    snapshot, pods = Snapshot(), dict[str, str]()
    nodes: set[str] = set()
    for name, number, add in steps:
        if number == 0 and add:
            snapshot.put_node(node(name))
            nodes.add(name)
        elif number == 0:
            snapshot.remove_node(name)
            nodes.discard(name)
        elif add:
            snapshot.put_pod(pod_info(pod(f"p{number}")), name)
            pods[f"p{number}"] = name
        else:
            snapshot.remove_pod(f"default/p{number}")
            pods.pop(f"p{number}", None)
    for name in nodes:
        slot = snapshot.slot(name)
        assert snapshot.column(snapshot.requested, "pods")[slot] == sum(home == name for home in pods.values())
    assert len(snapshot) == len(nodes)
