"""The APIServices that stand for what this server serves itself: which there should be, with which priorities; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from control.api.meta import Object
from control.api.resources import API_SERVICES
from control.apiserver.aggregation.services import LOCAL
from control.apiserver.kinds import Kind

MANAGED_LABEL = "kube-aggregator.kubernetes.io/automanaged"
ON_START, ALWAYS = "onstart", "true"
GROUP_PRIORITIES: Mapping[str, int] = {
    "": 18000,
    "apps": 17800,
    "events.k8s.io": 17750,
    "authentication.k8s.io": 17700,
    "authorization.k8s.io": 17600,
    "autoscaling": 17500,
    "batch": 17400,
    "certificates.k8s.io": 17300,
    "networking.k8s.io": 17200,
    "policy": 17100,
    "rbac.authorization.k8s.io": 17000,
    "storage.k8s.io": 16800,
    "apiextensions.k8s.io": 16700,
    "admissionregistration.k8s.io": 16700,
    "scheduling.k8s.io": 16600,
    "coordination.k8s.io": 16500,
    "node.k8s.io": 16300,
    "discovery.k8s.io": 16200,
    "flowcontrol.apiserver.k8s.io": 16100,
    "resource.k8s.io": 15900,
}
"""Upstream's own; a higher one comes first in discovery."""
REGISTRATION_PRIORITY = 20_001
"""apiregistration.k8s.io comes before all others and is registered by nobody."""
CUSTOM_GROUP_PRIORITY, CUSTOM_VERSION_PRIORITY = 1000, 100
_VERSION_PRIORITIES: Mapping[tuple[str, str], int] = {
    ("", "v1"): 1,
    ("autoscaling", "v2"): 30,
    ("flowcontrol.apiserver.k8s.io", "v1"): 21,
}
_VERSION_PRIORITY = 15


@dataclass(frozen=True, slots=True)
class Priority:
    """Where a group version stands in discovery."""

    group: int
    version: int


def priority_of(group: str, version: str) -> Priority:
    """Return the priorities of a group version that this server serves."""
    if group == API_SERVICES.group:
        return Priority(REGISTRATION_PRIORITY, _VERSION_PRIORITY)
    if group not in GROUP_PRIORITIES:
        return Priority(CUSTOM_GROUP_PRIORITY, CUSTOM_VERSION_PRIORITY)
    return Priority(GROUP_PRIORITIES[group], _VERSION_PRIORITIES.get((group, version), _VERSION_PRIORITY))


def wanted(kinds: Iterable[Kind]) -> dict[str, Object]:
    """Return the APIServices of all local group versions by name."""
    found: dict[str, Object] = {}
    for kind in kinds:
        group, version = kind.resource.group, kind.resource.version
        name = f"{version}.{group}"
        if group != API_SERVICES.group and name not in found:
            found[name] = _api_service(name, group, version, ALWAYS if kind.custom is not None else ON_START)
    return found


def _api_service(name: str, group: str, version: str, managed: str) -> Object:
    priority = priority_of(group, version)
    spec = {"version": version, "groupPriorityMinimum": priority.group, "versionPriority": priority.version}
    return {
        "apiVersion": API_SERVICES.api_version,
        "kind": API_SERVICES.kind,
        "metadata": {"name": name, "labels": {MANAGED_LABEL: managed}},
        "spec": {"group": group, **spec} if group else spec,
    }


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done about APIServices."""

    create: tuple[Object, ...]
    update: tuple[Object, ...]
    delete: tuple[str, ...]


def plan(wished: Mapping[str, Object], standing: Mapping[str, Object]) -> Plan:
    """Return how the APIServices that stand become those that are wished for; others' own are left alone."""
    create, update, delete = [], [], []
    for name, obj in wished.items():
        held = standing.get(name)
        if held is None:
            create.append(obj)
        elif _managed(held) and held.get("spec") != obj["spec"]:
            update.append({**held, "spec": obj["spec"]})
    for name, held in standing.items():
        if name not in wished and _managed(held) == ALWAYS:
            delete.append(name)
    return Plan(tuple(create), tuple(update), tuple(delete))


def _managed(obj: Object) -> str:
    label = ((obj.get("metadata") or {}).get("labels") or {}).get(MANAGED_LABEL)
    return label if label in (ON_START, ALWAYS) else ""


def local_status(now: str) -> Object:
    """Return the status that an APIService without a Service has from its creation."""
    condition = {"type": "Available", "status": LOCAL.status, "lastTransitionTime": now}
    return {"conditions": [{**condition, "reason": LOCAL.reason, "message": LOCAL.message}]}
