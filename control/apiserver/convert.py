"""Kinds that are served in several versions: from the stored version to another one and back."""

from __future__ import annotations

from control.api.meta import Object
from control.api.resources import Resource
from control.apiserver import autoscalers

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
        made = autoscalers.to_v1(obj) if resource.version == "v1" else autoscalers.to_v2(obj)
    else:
        made = dict(obj)
    made["apiVersion"] = resource.api_version
    return made
