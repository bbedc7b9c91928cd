"""The scale subresource: autoscaling/v1 Scale objects made of, and written back into, what has replicas."""

from __future__ import annotations

from typing import Any

from control.api import selectors, status
from control.api.custom.version import ScalePaths
from control.api.meta import Object
from control.api.status import Cause

API_VERSION, KIND = "autoscaling/v1", "Scale"


def scale_of(obj: Object, paths: ScalePaths | None = None) -> Object:
    """Return the Scale of an object with replicas, which custom ones have where ``paths`` say."""
    if paths is not None:
        text = _at(obj, paths.label_selector) if paths.label_selector else ""
        return _scale(obj, _at(obj, paths.spec_replicas), _at(obj, paths.status_replicas), text or "")
    selector = obj.get("spec", {}).get("selector") or {}
    if obj.get("kind") == "ReplicationController":
        text = selectors.to_text(selectors.from_map(selector))
    else:
        text = selectors.to_text(selectors.from_label_selector(selector))
    return _scale(obj, obj.get("spec", {}).get("replicas"), (obj.get("status") or {}).get("replicas"), text)


def _at(obj: Object, path: tuple[str, ...]) -> Any:
    value: Any = obj
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _scale(obj: Object, wished: Any, counted: Any, selector: str) -> Object:
    metadata = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    spec = {"replicas": wished} if wished else {}
    found: Object = {"replicas": counted or 0}
    if selector:
        found["selector"] = selector
    return {
        "kind": KIND,
        "apiVersion": API_VERSION,
        "metadata": {name: metadata[name] for name in kept if name in metadata},
        "spec": spec,
        "status": found,
    }


def with_scale(obj: Object, scale: Object, paths: ScalePaths | None = None) -> Object:
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
    made: Object = {**obj, "metadata": metadata}
    *through, last = paths.spec_replicas if paths is not None else ("spec", "replicas")
    inner = made
    for step in through:
        inner[step] = dict(inner.get(step) or {})
        inner = inner[step]
    inner[last] = replicas
    return made
