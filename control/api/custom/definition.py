"""Say what stands in the status of a CustomResourceDefinition: which names it has, whether it is established."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from control.api.meta import Object

CLEANUP_FINALIZER = "customresourcecleanup.apiextensions.k8s.io"
_NAMES = ("plural", "singular", "kind", "listKind")


def is_established(definition: Object) -> bool:
    """Tell whether objects of the kind may be made."""
    return condition(definition, "Established") == "True"


def condition(definition: Object, kind: str) -> str:
    """Return the status of a condition, empty where it does not stand."""
    conditions = (definition.get("status") or {}).get("conditions") or ()
    return next((str(entry.get("status")) for entry in conditions if entry.get("type") == kind), "")


def accept(definition: Object, taken: Mapping[str, str], now: str) -> Object:
    """Return the status of a definition by the names that others of its group hold: name → whose it is.

    A plural name, a short name or a singular name that somebody else has is not accepted, nor is a kind; what had been
    accepted before stays (Kubernetes' naming controller).
    """
    spec, status = definition["spec"], dict(definition.get("status") or {})
    wished, before = spec["names"], status.get("acceptedNames") or {}
    own = wished["plural"]
    conflicts = [(field, text) for field, text in _all_names(wished) if taken.get(_key(field, text), own) != own]
    if conflicts:
        accepted = {**before}
        field, text = conflicts[0]
        reason = {"plural": "PluralConflict", "singular": "SingularConflict", "kind": "KindConflict",
                  "listKind": "ListKindConflict"}.get(field, "ShortNamesConflict")  # fmt: skip
        verdict = ("False", reason, f'"{text}" is already in use')
    else:
        accepted = {key: value for key, value in wished.items() if value}
        verdict = ("True", "NoConflicts", "no conflicts found")
    status["acceptedNames"] = {"plural": "", "kind": "", **accepted}
    conditions = [dict(entry) for entry in status.get("conditions") or ()]
    _set_condition(conditions, "NamesAccepted", *verdict, now)
    if verdict[0] == "True" and condition(definition, "Established") != "True":
        told = "the initial names have been accepted"
        _set_condition(conditions, "Established", "True", "InitialNamesAccepted", told, now)
    elif verdict[0] != "True" and not condition(definition, "Established"):
        _set_condition(conditions, "Established", "False", "NotAccepted", "not all names are accepted", now)
    status["conditions"] = conditions
    storage = next(version["name"] for version in spec["versions"] if version["storage"])
    stored = list(status.get("storedVersions") or ())
    status["storedVersions"] = stored if storage in stored else [*stored, storage]
    return status


def names_held(definition: Object) -> dict[str, str]:
    """Return the names that a definition has been given: name → its plural."""
    accepted = (definition.get("status") or {}).get("acceptedNames") or {}
    if not accepted.get("plural"):
        return {}
    return {_key(field, text): accepted["plural"] for field, text in _all_names(accepted)}


def _all_names(held: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [(field, held[field]) for field in _NAMES if held.get(field)]
    return found + [("shortNames", text) for text in held.get("shortNames") or ()]


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
