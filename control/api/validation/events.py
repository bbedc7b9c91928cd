"""Rules of events, which stand in two groups: the old one is lenient."""

from __future__ import annotations

from typing import Any

from control.api.meta import Object
from control.api.validation import names
from control.api.validation.faults import Faults

_LETTERS_MAX, _NOTE_LETTERS_MAX = 128, 1024
_UNSET = ("deprecatedFirstTimestamp", "deprecatedLastTimestamp", "deprecatedCount")
_FIXED = (
    ("regarding", "involvedObject"), ("reason", "reason"), ("note", "message"), ("type", "type"),
    ("deprecatedFirstTimestamp", "firstTimestamp"), ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"), ("eventTime", "eventTime"), ("action", "action"), ("related", "related"),
    ("reportingController", "reportingController"), ("reportingInstance", "reportingInstance"),
)  # fmt: skip
"""(the field, the path that Kubernetes tells)."""


def check_event(obj: Object, faults: Faults) -> None:
    """Check an Event of the core group."""
    _check_any(obj, obj.get("involvedObject") or {}, "reportingComponent", faults)


def check_modern_event(obj: Object, faults: Faults) -> None:
    """Check an Event of `events.k8s.io`."""
    _check_any(obj, obj.get("regarding") or {}, "reportingController", faults)


def _check_any(obj: Object, about: dict[str, Any], controller: str, faults: Faults) -> None:
    namespace, space = (obj.get("metadata") or {}).get("namespace") or "", about.get("namespace") or ""
    if space != namespace and (space or namespace != "default"):
        faults.invalid("involvedObject.namespace", space, "does not match event.namespace")
    if not obj.get("eventTime"):
        return  # those of old have no time of their own, and need no more
    name = obj.get(controller) or ""
    if not name:
        faults.required(controller)
    faults.invalid_all(controller, name, names.qualified_name(name))
    for field in ("reportingInstance", "action", "reason"):
        text = obj.get(field) or ""
        if not text:
            faults.required(field)
        elif len(text) > _LETTERS_MAX:
            faults.invalid(field, "", f"can have at most {_LETTERS_MAX} characters")
    if len(obj.get("message") or obj.get("note") or "") > _NOTE_LETTERS_MAX:
        faults.invalid("message", "", f"can have at most {_NOTE_LETTERS_MAX} characters")


def check_new_modern_event(obj: Object, faults: Faults) -> None:
    """Check that a new Event of `events.k8s.io` uses nothing of the old form."""
    if not obj.get("eventTime"):
        faults.required("eventTime")
    if obj.get("type") not in ("Normal", "Warning"):
        faults.invalid("type", "", f"has invalid value: {obj.get('type') or ''}")
    for field in _UNSET:
        if obj.get(field):
            faults.invalid(field, "", "needs to be unset")
    if any((obj.get("deprecatedSource") or {}).values()):
        faults.invalid("deprecatedSource", "", "needs to be unset")


def check_modern_event_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that of an Event of `events.k8s.io` only its series changes."""
    for field, path in _FIXED:
        told = path if field == "regarding" else field
        faults.unchanged(told, new.get(field), old.get(field))
