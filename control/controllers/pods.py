"""Facts about pods that several controllers judge by."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from control.api import meta
from control.api.meta import Object


def parse_time(text: object) -> datetime | None:
    """Return a Kubernetes timestamp, with or without fractions of a second."""
    if not text:
        return None
    return datetime.fromisoformat(str(text))


def format_time(now: datetime) -> str:
    """Return a Kubernetes timestamp of whole seconds."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def created(obj: Object) -> str:
    """Return the creation timestamp, which sorts as text."""
    return str(obj.get("metadata", {}).get("creationTimestamp") or "")


def phase(pod: Object) -> str:
    """Return status.phase."""
    return str((pod.get("status") or {}).get("phase") or "Pending")


def node_name(pod: Object) -> str:
    """Return the node that a pod is bound to, empty for none."""
    return str((pod.get("spec") or {}).get("nodeName") or "")


def is_finished(pod: Object) -> bool:
    """Tell whether all containers have ended for good."""
    return phase(pod) in ("Succeeded", "Failed")


def is_active(pod: Object) -> bool:
    """Tell whether a pod counts as a replica: neither finished nor being deleted."""
    return not is_finished(pod) and not meta.is_being_deleted(pod)


def is_ready(pod: Object) -> bool:
    """Tell whether the pod's Ready condition is True."""
    return meta.condition_is_true(pod, "Ready")


def ready_since(pod: Object) -> datetime | None:
    """Return when a ready pod became ready."""
    entry = meta.condition(pod, "Ready")
    if entry is None or entry.get("status") != "True":
        return None
    return parse_time(entry.get("lastTransitionTime"))


def seconds_until_available(pod: Object, min_ready_seconds: int, now: datetime) -> float | None:
    """Return 0 for an available pod, the wait for one that is ready but too young, None for one not ready."""
    if not is_ready(pod):
        return None
    since = ready_since(pod)
    if min_ready_seconds == 0:
        return 0.0
    if since is None:
        return None
    return max(0.0, min_ready_seconds - (now - since).total_seconds())


def restarts(pod: Object) -> int:
    """Return the largest restart count of the pod's containers."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return max((int(entry.get("restartCount") or 0) for entry in statuses), default=0)


def from_template(template: Mapping[str, Any], owner: Object) -> Object:
    """Return a pod made from a template, named after its owner and controlled by it."""
    head = template.get("metadata") or {}
    metadata: dict[str, Any] = {
        "generateName": f"{meta.name(owner)}-",
        "namespace": meta.namespace(owner),
        "ownerReferences": [meta.controller_reference(owner)],
    }
    for name in ("labels", "annotations", "finalizers"):
        if head.get(name):
            metadata[name] = head[name]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template.get("spec") or {}}
