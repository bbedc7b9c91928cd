"""What is to be done to the objects that configure priority and fairness, so that each cluster has those it needs.

Nobody can change the mandatory ones for long. A suggested one belongs to the server while it is annotated
``apf.kubernetes.io/autoupdate-spec: "true"``; without the annotation it does if nobody has edited it yet.
"""

from __future__ import annotations

from control.api import flowcontrol, meta
from control.api.flowcontrol import AUTO_UPDATE
from control.api.meta import Object

DANGLING = "Dangling"
_YES = ("1", "t", "T", "true", "TRUE", "True")
_NO = ("0", "f", "F", "false", "FALSE", "False")


def _belongs_to_server(obj: Object) -> bool | None:
    """Tell whether the annotation says that the server keeps the object; None where it says nothing."""
    text = (obj.get("metadata", {}).get("annotations") or {}).get(AUTO_UPDATE, "")
    return True if text in _YES else False if text in _NO else None


def _with(obj: Object, annotation: str, spec: Object) -> Object:
    metadata = obj["metadata"]
    annotations = {**(metadata.get("annotations") or {}), AUTO_UPDATE: annotation}
    return {**obj, "metadata": {**metadata, "annotations": annotations}, "spec": spec}


def kept(existing: Object | None, wanted: Object) -> Object | None:
    """Return the object as it should be stored, None where it is so already."""
    if existing is None:
        return wanted
    if flowcontrol.is_mandatory(meta.name(wanted)):
        belongs: bool | None = True
    else:
        belongs = _belongs_to_server(existing)
        if belongs is False:
            return None
        if belongs is None and existing["metadata"].get("generation", 1) != 1:
            return _with(existing, "false", existing["spec"])
    spec = flowcontrol.kept_spec(wanted, existing)
    if _belongs_to_server(existing) and existing.get("spec") == spec:
        return None
    return _with(existing, "true", spec)


def left_over(existing: Object, wanted_names: frozenset[str]) -> bool:
    """Tell whether an earlier server made this object and no cluster needs it any more."""
    return meta.name(existing) not in wanted_names and _belongs_to_server(existing) is True


def condition(schema: Object, missing_level: str | None, now: str) -> Object | None:
    """Return the condition that the schema's status lacks: whether the level that it names is there."""
    name = schema["spec"]["priorityLevelConfiguration"]["name"]
    text = f'This FlowSchema references the PriorityLevelConfiguration object named "{name}"'
    if missing_level is None:
        told = {"status": "False", "reason": "Found", "message": f"{text} and it exists"}
    else:
        told = {"status": "True", "reason": "NotFound", "message": f"{text} but there is no such object"}
    for found in (schema.get("status") or {}).get("conditions") or ():
        if found.get("type") == DANGLING and told.items() <= found.items():
            return None
    return {"type": DANGLING, "lastTransitionTime": now, **told}
