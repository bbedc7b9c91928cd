"""PURE: turns requests and limits into cgroup values, names and OOM scores."""

from __future__ import annotations

from dataclasses import dataclass

from control.api import quantity
from control.api.meta import Object, uid
from node import pod_spec
from node.pod_spec import ContainerSpec
from node.runtime import LinuxResources

SHARES_LEAST = 2
SHARES_MOST = 262144
PERIOD_US = 100_000
QUOTA_LEAST_US = 1000
OOM_GUARANTEED, OOM_BEST_EFFORT = -997, 1000


def shares(milli_cpu: int) -> int:
    """Return cpu.shares of an amount of CPU."""
    return SHARES_LEAST if milli_cpu <= 0 else max(SHARES_LEAST, min(SHARES_MOST, milli_cpu * 1024 // 1000))


def quota_us(milli_cpu: int) -> int:
    """Return the CFS quota of an amount of CPU per period; 0 is no limit."""
    return 0 if milli_cpu <= 0 else max(QUOTA_LEAST_US, milli_cpu * PERIOD_US // 1000)


def weight_of_shares(value: int) -> int:
    """Return cgroup v2's cpu.weight that stands for cpu.shares."""
    return 1 + ((value - 2) * 9999) // 262142


def oom_score_adj(pod: Object, wanted: ContainerSpec, node_memory_bytes: int) -> int:
    """Return how ready the kernel is to kill this container: the less it asked for, the readier."""
    if pod.get("spec", {}).get("priorityClassName") == "system-node-critical":
        return OOM_GUARANTEED
    match pod_spec.qos_class(pod):
        case "Guaranteed":
            return OOM_GUARANTEED
        case "BestEffort":
            return OOM_BEST_EFFORT
        case _:
            asked = quantity.whole(pod_spec.requests(wanted).get("memory", "0"))
            score = 1000 - (1000 * asked) // max(1, node_memory_bytes)
            return int(max(3, min(999, score)))


def container_resources(pod: Object, wanted: ContainerSpec, node_memory_bytes: int) -> LinuxResources:
    """Return the cgroup values of a container."""
    asked, capped = pod_spec.requests(wanted), pod_spec.limits(wanted)
    return LinuxResources(
        cpu_period_us=PERIOD_US,
        cpu_quota_us=quota_us(quantity.milli(capped.get("cpu", "0"))),
        cpu_shares=shares(quantity.milli(asked.get("cpu", "0"))),
        memory_limit_bytes=quantity.whole(capped.get("memory", "0")),
        oom_score_adj=oom_score_adj(pod, wanted, node_memory_bytes),
    )


@dataclass(frozen=True, slots=True)
class PodCgroup:
    """The pod's own cgroup: its path from the cgroup root and its size; zero is no limit."""

    path: str
    cpu_shares: int
    cpu_quota_us: int
    memory_limit_bytes: int


def pod_cgroup(pod: Object, cgroup_root: str, driver: str) -> PodCgroup:
    """Return the pod's cgroup, under kubepods and its class of service."""
    qos = pod_spec.qos_class(pod)
    cpu_limit = pod_spec.total(pod, "cpu", "limits")
    memory_limit = pod_spec.total(pod, "memory", "limits")
    return PodCgroup(
        path=cgroup_path(qos, uid(pod), cgroup_root, driver),
        cpu_shares=shares(pod_spec.total(pod, "cpu", "requests") or 0),
        cpu_quota_us=quota_us(cpu_limit or 0),
        memory_limit_bytes=(memory_limit or 0) // 1000,
    )


def cgroup_path(qos: pod_spec.QosClass, pod_uid: str, cgroup_root: str, driver: str) -> str:
    """Return the cgroup parent that the runtime is told."""
    tier = {"Guaranteed": "", "Burstable": "burstable", "BestEffort": "besteffort"}[qos]
    root = cgroup_root.rstrip("/")
    if driver == "systemd":
        escaped = pod_uid.replace("-", "_")
        middle = f"/kubepods-{tier}.slice" if tier else ""
        prefix = f"kubepods-{tier}" if tier else "kubepods"
        return f"{root}/kubepods.slice{middle}/{prefix}-pod{escaped}.slice"
    return f"{root}/kubepods/{tier}/pod{pod_uid}" if tier else f"{root}/kubepods/pod{pod_uid}"
