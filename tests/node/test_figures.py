"""What the kubelet tells of its containers: each once, also when it was restarted."""

from __future__ import annotations

from node.runtime import ContainerUsage
from node.server import figures


def usage(id_: str, name: str, cpu: int, memory: int, pod: str = "web") -> ContainerUsage:
    return ContainerUsage(id_, f"uid-{pod}", pod, "default", name, 7, cpu, memory, memory, memory, 0)


USAGES = [usage("1", "c", 2_000_000_000, 0), usage("2", "c", 1_000_000_000, 50), usage("3", "d", 5, 7)]


def test_no_series_is_told_twice() -> None:
    told = figures.metrics(pods=1, containers=2, usages=USAGES)
    series = [line.rpartition(" ")[0] for line in told.splitlines() if not line.startswith("#")]
    assert len(series) == len(set(series))
    labels = '{container="c",namespace="default",pod="web"}'
    assert f"container_cpu_usage_seconds_total{labels} 3.000000" in told
    assert f"container_memory_working_set_bytes{labels} 50" in told


def test_the_summary_names_each_container_once() -> None:
    pods = figures.summary("n1", [*USAGES, usage("4", "c", 1, 1, pod="other")], 0.0)["pods"]
    assert [[container["name"] for container in pod["containers"]] for pod in pods] == [["c"], ["c", "d"]]
    assert pods[1]["memory"]["workingSetBytes"] == 57
