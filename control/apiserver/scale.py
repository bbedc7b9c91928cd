"""The scale subresource: autoscaling/v1 Scale objects made of, and written back into, what has replicas."""

from __future__ import annotations

from control.api import selectors, status
from control.api.meta import Object
from control.api.status import Cause

API_VERSION, KIND = "autoscaling/v1", "Scale"


def scale_of(obj: Object) -> Object:
    """Return the Scale of an object with replicas."""
    metadata = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    selector = obj.get("spec", {}).get("selector") or {}
    if obj.get("kind") == "ReplicationController":
        text = selectors.to_text(selectors.from_map(selector))
    else:
        text = selectors.to_text(selectors.from_label_selector(selector))
    wished = obj.get("spec", {}).get("replicas")
    spec = {"replicas": wished} if wished else {}
    found: Object = {"replicas": (obj.get("status") or {}).get("replicas") or 0}
    if text:
        found["selector"] = text
    return {
        "kind": KIND,
        "apiVersion": API_VERSION,
        "metadata": {name: metadata[name] for name in kept if name in metadata},
        "spec": spec,
        "status": found,
    }


def with_scale(obj: Object, scale: Object) -> Object:
    """Return the object with the replicas that a Scale asks for; raises Invalid."""
    replicas = (scale.get("spec") or {}).get("replicas") or 0
    name = obj["metadata"]["name"]
    if not isinstance(replicas, int) or isinstance(replicas, bool):
        raise status.bad_request('Scale in version "v1" cannot be handled as a Scale: spec.replicas must be an integer')
    if replicas < 0:
        text = f"Invalid value: {replicas}: must be greater than or equal to 0"
        raise status.invalid(KIND, name, [Cause("FieldValueInvalid", text, "spec.replicas")], "autoscaling")
    metadata = {**obj["metadata"]}
    revision = (scale.get("metadata") or {}).get("resourceVersion")
    if revision:
        metadata["resourceVersion"] = revision
    return {**obj, "metadata": metadata, "spec": {**obj.get("spec", {}), "replicas": replicas}}
