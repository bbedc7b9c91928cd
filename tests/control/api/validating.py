"""Objects as validation meets them: cleaned and with their defaults, and their faults as lines of text."""

from __future__ import annotations

import copy
from typing import Any

from control.api.decode import clean
from control.api.defaulting import apply_defaults
from control.api.meta import Object
from control.api.resources import Resource, Served, by_plural
from control.api.validation.objects import validate


def served_as(what: str) -> Served:
    """Return what is served at "group/plural", whatever its version."""
    group, _, plural = what.rpartition("/")
    for version in ("v2", "v1"):
        if (served := by_plural(group, version, plural)) is not None:
            return served
    raise KeyError(what)


def made(what: str, obj: Object, changes: dict[str, Any] | None = None) -> tuple[Resource, Object]:
    """Return an object of a kind with changes put in at paths; None takes away."""
    served = served_as(what)
    obj = copy.deepcopy(obj)
    metadata = {"name": "x", **({"namespace": "default"} if served.resource.namespaced else {})}
    obj["metadata"] = {**metadata, **obj.get("metadata", {})}
    for path, value in (changes or {}).items():
        put(obj, path, value)
    kept, unknown = clean(obj, served.definition)
    assert not unknown
    apply_defaults(kept, served.definition)
    return served.resource, kept


def put(obj: Any, path: str, value: Any) -> None:
    """Put a value at a path as "spec/ports/0/port"."""
    *through, last = [int(step) if step.isdigit() else step for step in path.split("/")]
    for step in through:
        obj = obj.setdefault(step, {}) if isinstance(obj, dict) else obj[step]
    if value is None:
        del obj[last]
    elif isinstance(obj, list) and last == len(obj):
        obj.append(value)
    else:
        obj[last] = value


def faults_of(what: str, obj: Object, changes: dict[str, Any] | None = None) -> list[str]:
    """Return the faults of a new object."""
    resource, kept = made(what, obj, changes)
    return [f"{cause.field}: {cause.message}" for cause in validate(resource, kept)]


def change_faults(
    what: str, obj: Object, changes: dict[str, Any], subresource: str = "", before: dict[str, Any] | None = None
) -> list[str]:
    """Return the faults of a change."""
    resource, old = made(what, obj, before)
    _, new = made(what, obj, {**(before or {}), **changes})
    return [f"{cause.field}: {cause.message}" for cause in validate(resource, new, old, subresource)]
