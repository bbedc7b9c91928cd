"""The scale subresource: autoscaling/v1 Scale objects made of, and written back into, what has replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from control.api import selectors, status
from control.api.custom.version import ScalePaths
from control.api.fieldtrees import Path, difference, has, holding
from control.api.meta import Object
from control.api.status import Cause
from control.api.tracking import Entry, Manager, Scope, entries_of, entry_for, joined, manager_of

API_VERSION, KIND = "autoscaling/v1", "Scale"
SCOPE = Scope("autoscaling.v1.Scale")
_REPLICAS: Path = ("f:spec", "f:replicas")
PathOf: TypeAlias = "Callable[[str], Path | None]"
"""Where an object has its replicas, by its apiVersion; None where it has none there, or no such version is served."""


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


def path_of(paths: ScalePaths | None) -> Path:
    """Return the replicas' place as managedFields writes it."""
    return tuple(f"f:{step}" for step in paths.spec_replicas) if paths is not None else _REPLICAS


def owners_of_scale(obj: Object, path_in: PathOf) -> list[Entry]:
    """Return the entries of those who own an object's replicas, as owners of its Scale."""
    made = []
    for entry in entries_of(obj):
        path = path_in(entry["apiVersion"])
        if path is not None and has(entry.get("fieldsV1") or {}, path):
            made.append({**entry, "apiVersion": API_VERSION, "fieldsV1": holding(_REPLICAS)})
    return made


def owners_of_scaled(obj: Object, scale: Object, api_version: str, path_in: PathOf) -> list[Entry]:
    """Return an object's entries after those of its Scale changed: who lost the replicas there has lost them here."""
    owners = {_by(entry): entry for entry in entries_of(scale) if has(entry.get("fieldsV1") or {}, _REPLICAS)}
    made = []
    for entry in entries_of(obj):
        path, fields = path_in(entry["apiVersion"]), entry.get("fieldsV1") or {}
        if path is None or not has(fields, path) or owners.pop(_by(entry), None) is not None:
            made.append(entry)
        elif left := difference(fields, holding(path)):
            made.append({**entry, "fieldsV1": left})
    path = path_in(api_version) or _REPLICAS
    for entry in owners.values():
        # As in Kubernetes, when it came by them is not told.
        made.append(entry_for(Manager(*_by(entry)[:2], api_version, _by(entry)[2]), holding(path), ""))
    return joined(made)


def _by(entry: Entry) -> tuple[str, str, str]:
    manager = manager_of(entry)
    return manager.name, manager.operation, manager.subresource
