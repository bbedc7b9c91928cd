"""Rules of events, which stand in two groups: the old one is lenient."""

from __future__ import annotations

from typing import Any

from control.api.meta import Object
from control.api.validation import names
from control.api.validation.faults import IMMUTABLE, Faults
from control.api.validation.internal import internal

_LETTERS_MAX, _NOTE_LETTERS_MAX = 128, 1024
_UNSET = (
    ("deprecatedFirstTimestamp", "firstTimestamp"), ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
)  # fmt: skip
_FIXED = (
    ("regarding", "involvedObject", "core.v1.ObjectReference"), ("reason", "reason", ""), ("note", "message", ""),
    ("deprecatedSource", "source", "core.v1.EventSource"), ("deprecatedFirstTimestamp", "firstTimestamp", ""),
    ("deprecatedLastTimestamp", "lastTimestamp", ""), ("deprecatedCount", "count", ""), ("reason", "reason", ""),
    ("type", "type", ""), ("eventTime", "eventTime", ""), ("action", "action", ""),
    ("related", "related", "core.v1.ObjectReference"), ("reportingController", "reportingController", ""),
    ("reportingInstance", "reportingInstance", ""),
)  # fmt: skip
"""(the field, the path that Kubernetes tells, the definition of a structure)."""
_ABSENT: dict[str, Any] = {
    "reason": "", "note": "", "deprecatedCount": 0, "type": "", "action": "", "reportingController": "",
    "reportingInstance": "",
}  # fmt: skip
"""How a field that is not there shows; times show as null."""


def check_event(obj: Object, faults: Faults) -> None:
    """Check an Event of the core group."""
    _check_any(obj, obj.get("involvedObject") or {}, "reportingComponent", faults)


def check_modern_event(obj: Object, faults: Faults) -> None:
    """Check an Event of `events.k8s.io`."""
    _check_any(obj, obj.get("regarding") or {}, "reportingController", faults)


def _check_any(obj: Object, about: dict[str, Any], controller: str, faults: Faults) -> None:
    namespace, space = (obj.get("metadata") or {}).get("namespace") or "", about.get("namespace") or ""
    modern = bool(obj.get("eventTime"))
    lenient = ("default", "kube-system") if modern else ("default",)
    if (not space and namespace not in lenient) or (space and space != namespace and not modern):
        faults.invalid("involvedObject.namespace", space, "does not match event.namespace")
    if not modern:
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
    _check_series(obj, faults)
    if not obj.get("eventTime"):
        faults.required("eventTime")
    if obj.get("type") not in ("Normal", "Warning"):
        faults.invalid("type", "", f"has invalid value: {obj.get('type') or ''}")
    for field, path in _UNSET:
        if obj.get(field):
            faults.invalid(path, "", "needs to be unset")
    if any((obj.get("deprecatedSource") or {}).values()):
        faults.invalid("source", "", "needs to be unset")


def check_modern_event_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that of an Event of `events.k8s.io` only its series changes."""
    if new.get("series") != old.get("series"):
        _check_series(new, faults)
    for field, path, definition in _FIXED:
        now, was = new.get(field), old.get(field)
        if (now or None) == (was or None):
            continue
        if definition:
            shown = internal(definition, now if now is not None or field == "related" else {})
        else:
            shown = now if now is not None else _ABSENT.get(field)
        faults.invalid(path, shown, IMMUTABLE)


def _check_series(obj: Object, faults: Faults) -> None:
    series = obj.get("series")
    if series is None:
        return
    if (series.get("count") or 0) < 2:
        faults.invalid("series.count", "", "should be at least 2")
    if not series.get("lastObservedTime"):
        faults.required("series.lastObservedTime")
