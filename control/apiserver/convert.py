"""Kinds that are served in several versions: from the stored version to another one and back."""

from __future__ import annotations

from typing import Any

from control.api.meta import Object
from control.api.resources import Resource

EVENT_FIELDS = {
    "involvedObject": "regarding",
    "message": "note",
    "reportingComponent": "reportingController",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
}
"""Field of core/v1 Event → its name in events.k8s.io/v1."""
_EVENT_FIELDS_BACK = {new: old for old, new in EVENT_FIELDS.items()}


def convert(obj: Object, resource: Resource) -> Object:
    """Return the object in the resource's group and version."""
    if obj.get("apiVersion") == resource.api_version:
        return obj
    if resource.kind == "Event":
        names = EVENT_FIELDS if resource.group else _EVENT_FIELDS_BACK
        made = {names.get(field, field): value for field, value in obj.items()}
    elif resource.kind == "HorizontalPodAutoscaler":
        made = _autoscaler_v1(obj) if resource.version == "v1" else _autoscaler_v2(obj)
    else:
        made = dict(obj)
    made["apiVersion"] = resource.api_version
    return made


def _is_cpu(metric: dict[str, Any]) -> bool:
    inner = metric.get("resource") or {}
    return metric.get("type") == "Resource" and inner.get("name") == "cpu"


def _autoscaler_v1(obj: Object) -> Object:
    spec, found = dict(obj.get("spec") or {}), obj.get("status") or {}
    for metric in spec.pop("metrics", None) or ():
        target = (metric.get("resource") or {}).get("target") or {}
        if _is_cpu(metric) and target.get("averageUtilization") is not None:
            spec["targetCPUUtilizationPercentage"] = target["averageUtilization"]
    spec.pop("behavior", None)
    kept = ("observedGeneration", "lastScaleTime", "currentReplicas", "desiredReplicas")
    made = {name: found[name] for name in kept if name in found}
    for metric in found.get("currentMetrics") or ():
        current = (metric.get("resource") or {}).get("current") or {}
        if _is_cpu(metric) and current.get("averageUtilization") is not None:
            made["currentCPUUtilizationPercentage"] = current["averageUtilization"]
    made.setdefault("currentReplicas", 0)
    made.setdefault("desiredReplicas", 0)
    return {**obj, "spec": spec, "status": made}


def _autoscaler_v2(obj: Object) -> Object:
    spec, found = dict(obj.get("spec") or {}), dict(obj.get("status") or {})
    if (percentage := spec.pop("targetCPUUtilizationPercentage", None)) is not None:
        target = {"type": "Utilization", "averageUtilization": percentage}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    found.pop("currentCPUUtilizationPercentage", None)
    return {**obj, "spec": spec, "status": found}
