"""Tells the API what was decided: bindings, and why a pod waits."""

from __future__ import annotations

from datetime import UTC, datetime

from control.api import meta
from control.api.meta import Object
from control.api.resources import PODS
from control.client.client import STRATEGIC_MERGE_PATCH, Client


def binding(pod: Object, node_name: str) -> Object:
    """Return the object that gives a pod its node."""
    return {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": meta.name(pod), "namespace": meta.namespace(pod), "uid": meta.uid(pod)},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node_name},
    }


def unschedulable_condition(pod: Object, message: str, now: datetime) -> Object | None:
    """Return the status patch that says why a pod waits; None where its condition says so already."""
    known = meta.condition(pod, "PodScheduled")
    if known is not None and known.get("status") == "False" and known.get("message") == message:
        return None
    moment = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    changed = known is None or known.get("status") != "False"
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
        "lastTransitionTime": moment if changed or known is None else known.get("lastTransitionTime"),
    }
    return {"status": {"conditions": [condition]}}


async def bind(client: Client, pod: Object, node_name: str) -> None:
    """Give a pod its node; raises ApiError."""
    await client.create(PODS, binding(pod, node_name), meta.namespace(pod), name=meta.name(pod), subresource="binding")


async def report_unschedulable(client: Client, pod: Object, message: str, now: datetime) -> None:
    """Write the reason into the pod's status; raises ApiError."""
    patch = unschedulable_condition(pod, message, now)
    if patch is not None:
        await client.patch(
            PODS, meta.name(pod), patch, meta.namespace(pod), patch_type=STRATEGIC_MERGE_PATCH, subresource="status"
        )
