"""PURE: what the node and its pods use, as /stats/summary and /metrics tell it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from node.runtime import ContainerUsage
from node.status import timestamp


def lives_as_one(usages: Iterable[ContainerUsage]) -> list[ContainerUsage]:
    """Return one usage for each name: a restarted container is there twice, until its life before is removed."""
    found: dict[tuple[str, str], ContainerUsage] = {}
    for usage in usages:
        before = found.get((usage.pod_uid, usage.name))
        if before is not None:
            latest = max(before, usage, key=lambda life: life.timestamp_ns)
            usage = replace(
                latest,
                cpu_core_nanoseconds=before.cpu_core_nanoseconds + usage.cpu_core_nanoseconds,
                memory_working_set_bytes=before.memory_working_set_bytes + usage.memory_working_set_bytes,
                memory_usage_bytes=before.memory_usage_bytes + usage.memory_usage_bytes,
                memory_rss_bytes=before.memory_rss_bytes + usage.memory_rss_bytes,
                writable_layer_bytes=before.writable_layer_bytes + usage.writable_layer_bytes,
            )
        found[usage.pod_uid, usage.name] = usage
    return list(found.values())


def summary(node_name: str, usages: Sequence[ContainerUsage], now: float) -> dict[str, Any]:
    """Return the Summary API's answer."""
    usages = lives_as_one(usages)
    pods: dict[str, list[ContainerUsage]] = {}
    for usage in usages:
        pods.setdefault(usage.pod_uid, []).append(usage)
    return {
        "node": {
            "nodeName": node_name,
            "cpu": {"time": timestamp(now), "usageCoreNanoSeconds": sum(u.cpu_core_nanoseconds for u in usages)},
            "memory": {"time": timestamp(now), "workingSetBytes": sum(u.memory_working_set_bytes for u in usages)},
        },
        "pods": [_pod(uid, entries) for uid, entries in sorted(pods.items())],
    }


def _pod(uid: str, usages: Sequence[ContainerUsage]) -> dict[str, Any]:
    first = usages[0]
    return {
        "podRef": {"name": first.pod_name, "namespace": first.pod_namespace, "uid": uid},
        "containers": [_container(usage) for usage in usages],
        "cpu": {"usageCoreNanoSeconds": sum(usage.cpu_core_nanoseconds for usage in usages)},
        "memory": {"workingSetBytes": sum(usage.memory_working_set_bytes for usage in usages)},
    }


def _container(usage: ContainerUsage) -> dict[str, Any]:
    at = timestamp(usage.timestamp_ns / 1e9)
    return {
        "name": usage.name,
        "cpu": {"time": at, "usageCoreNanoSeconds": usage.cpu_core_nanoseconds},
        "memory": {
            "time": at,
            "workingSetBytes": usage.memory_working_set_bytes,
            "usageBytes": usage.memory_usage_bytes,
            "rssBytes": usage.memory_rss_bytes,
        },
        "rootfs": {"time": at, "usedBytes": usage.writable_layer_bytes},
    }


def metrics(*, pods: int, containers: int, usages: Sequence[ContainerUsage]) -> str:
    """Return the figures in Prometheus' text form, no series twice."""
    usages = lives_as_one(usages)
    lines = [
        "# TYPE kubelet_running_pods gauge",
        f"kubelet_running_pods {pods}",
        "# TYPE kubelet_running_containers gauge",
        f'kubelet_running_containers{{container_state="running"}} {containers}',
        "# TYPE container_cpu_usage_seconds_total counter",
    ]
    for usage in usages:
        lines.append(f"container_cpu_usage_seconds_total{_labels(usage)} {usage.cpu_core_nanoseconds / 1e9:.6f}")
    lines.append("# TYPE container_memory_working_set_bytes gauge")
    for usage in usages:
        lines.append(f"container_memory_working_set_bytes{_labels(usage)} {usage.memory_working_set_bytes}")
    return "\n".join(lines) + "\n"


def _labels(usage: ContainerUsage) -> str:
    return f'{{container="{usage.name}",namespace="{usage.pod_namespace}",pod="{usage.pod_name}"}}'
