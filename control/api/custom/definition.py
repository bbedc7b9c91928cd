"""Say what stands in the status of a CustomResourceDefinition: which names it has, whether it is established."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from control.api.meta import Object

CLEANUP_FINALIZER = "customresourcecleanup.apiextensions.k8s.io"
_NAMES = ("plural", "singular", "kind", "listKind")
_SHORT = "shortNames"
_REASONS = {
    "plural": "PluralConflict", "singular": "SingularConflict", _SHORT: "ShortNamesConflict", "kind": "KindConflict",
    "listKind": "ListKindConflict",
}  # fmt: skip
"""What a conflict is called, in the order in which names are looked at."""


def is_established(definition: Object) -> bool:
    """Tell whether objects of the kind may be made."""
    return condition(definition, "Established") == "True"


def condition(definition: Object, kind: str) -> str:
    """Return the status of a condition, empty where it does not stand."""
    conditions = (definition.get("status") or {}).get("conditions") or ()
    return next((str(entry.get("status")) for entry in conditions if entry.get("type") == kind), "")


def accept(definition: Object, taken: Mapping[str, str], now: str) -> Object:
    """Return the status of a definition by the names that others of its group hold: name → whose it is.

    Each name that is free is accepted by itself; of one that somebody else has, what had been accepted before stays,
    and the last of the conflicts is told (Kubernetes' naming controller).
    """
    spec, status = definition["spec"], dict(definition.get("status") or {})
    status["acceptedNames"], verdict = _accepted(spec["names"], status.get("acceptedNames") or {}, taken)
    conditions = [dict(entry) for entry in status.get("conditions") or ()]
    _set_condition(conditions, "NamesAccepted", *verdict, now)
    if verdict[0] == "True" and condition(definition, "Established") != "True":
        told = "the initial names have been accepted"
        _set_condition(conditions, "Established", "True", "InitialNamesAccepted", told, now)
    elif verdict[0] != "True" and not condition(definition, "Established"):
        _set_condition(conditions, "Established", "False", "NotAccepted", "not all names are accepted", now)
    status["conditions"] = conditions
    status["storedVersions"] = stored_versions(definition)
    return status


def _accepted(
    wished: Mapping[str, Any], before: Mapping[str, Any], taken: Mapping[str, str]
) -> tuple[Object, tuple[str, str, str]]:
    """Return the names that a definition gets, and what NamesAccepted says of them: its status, reason and message."""
    accepted: Object = {"plural": "", "kind": "", **before, "categories": wished.get("categories")}
    verdict = ("True", "NoConflicts", "no conflicts found")
    for field, reason in _REASONS.items():
        value: Any = wished.get(field)
        if field == _SHORT:
            texts = [text for text in value or () if text not in (before.get(field) or ())]
        else:
            texts = [value or ""]
        own = wished["plural"]
        in_use = [text for text in texts if text != before.get(field) and taken.get(_key(field, text), own) != own]
        if in_use:
            told = [f'"{text}" is already in use' for text in dict.fromkeys(in_use)]
            verdict = ("False", reason, told[0] if len(told) == 1 else f"[{', '.join(told)}]")
        else:
            accepted[field] = value
    always = ("plural", "kind")
    return {name: value for name, value in accepted.items() if value or name in always}, verdict


def stored_versions(definition: Object) -> list[str]:
    """Return the versions that objects may be stored in; before anything is known, the one that they are stored in."""
    stored = (definition.get("status") or {}).get("storedVersions")
    return list(stored) if stored else _storage_versions(definition)


def with_storage_version(definition: Object) -> list[str]:
    """Return the versions that objects may be stored in from now on."""
    stored = list((definition.get("status") or {}).get("storedVersions") or ())
    return stored + [name for name in _storage_versions(definition) if name not in stored]


def _storage_versions(definition: Object) -> list[str]:
    versions = (definition.get("spec") or {}).get("versions") or ()
    return [version.get("name") or "" for version in versions if version.get("storage")][:1]


def names_held(definition: Object) -> dict[str, str]:
    """Return the names that a definition has been given: name → its plural."""
    accepted = (definition.get("status") or {}).get("acceptedNames") or {}
    own = accepted.get("plural") or definition["spec"]["names"]["plural"]
    return {_key(field, text): own for field, text in _all_names(accepted)}


def _all_names(held: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [(field, held[field]) for field in _NAMES if held.get(field)]
    return found + [(_SHORT, text) for text in held.get(_SHORT) or ()]


def _key(field: str, text: str) -> str:
    # Kinds and names of resources live in spaces of their own.
    return f"kind {text}" if field in ("kind", "listKind") else text


def _set_condition(conditions: list[Object], kind: str, value: str, reason: str, message: str, now: str) -> None:
    wanted = {"type": kind, "status": value, "reason": reason, "message": message}
    for entry in conditions:
        if entry.get("type") == kind:
            if entry.get("status") != value:
                entry["lastTransitionTime"] = now
            entry.update(wanted)
            return
    conditions.append({"lastTransitionTime": now, **wanted})


def terminating(definition: Object, reason: str, message: str, now: str) -> Object:
    """Return the status of a definition whose objects are being removed."""
    status = dict(definition.get("status") or {})
    conditions = [dict(entry) for entry in status.get("conditions") or ()]
    _set_condition(conditions, "Terminating", "True", reason, message, now)
    return {**status, "conditions": conditions}
