"""Rules that follow from the facts alone: required texts and the values of enumerations.

They are checked after a kind's own rules, and only where those found nothing: Kubernetes tells one fault of a field.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from control.api import schema
from control.api.validation.faults import Faults

_MAY_BE_EMPTY = {
    ("core.v1.HTTPHeader", "value"),
    ("core.v1.Sysctl", "value"),
    ("storage.v1.TokenRequest", "audience"),
    ("authentication.v1.TokenReviewSpec", "token"),
    ("meta.v1.LabelSelectorRequirement", "operator"),
    ("admissionregistration.v1.AuditAnnotation", "key"),
}
_SKIPPED = {"meta.v1.OwnerReference", "meta.v1.ManagedFieldsEntry", "apiextensions.v1.JSONSchemaProps"}
_Check = Callable[[Any, str, Faults], None]


def _named(kind: str) -> str:
    while kind[:2] in ("[]", "{}"):
        kind = schema.element(kind)
    return kind


@cache
def _reaches_rules(name: str) -> bool:
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current in seen or current in _SKIPPED:
            continue
        seen.add(current)
        for field in schema.definition(current).fields.values():
            if _field_rule(current, field) is not None:
                return True
            if schema.resolve(_named(field.type)) is not None:
                waiting.append(_named(field.type))
    return False


def _field_rule(owner: str, field: schema.Field) -> tuple[bool, tuple[str, ...]] | None:
    """Return (required, values) of a text field that has rules."""
    kind = _named(field.type)
    scalar = schema.definition(kind) if schema.is_reference(kind) and schema.resolve(kind) is None else None
    if scalar is None and kind != "string":
        return None
    required = field.required and not field.pointer and field.type == kind
    required = required and (owner, field.name) not in _MAY_BE_EMPTY
    values = scalar.enum if scalar else ()
    return (required, values) if required or values else None


@cache
def _checks(name: str) -> tuple[tuple[str, str, bool, tuple[str, ...]], ...]:
    """Return (field, structure below or "", required, values) for each field to look at."""
    found: list[tuple[str, str, bool, tuple[str, ...]]] = []
    for field in schema.definition(name).fields.values():
        if field.name == "status" and schema.definition(name).is_object:
            continue
        kind = _named(field.type)
        if schema.resolve(kind) is not None:
            if _reaches_rules(kind):
                found.append((field.name, kind, False, ()))
        elif (rule := _field_rule(name, field)) is not None:
            found.append((field.name, "", *rule))
    return tuple(found)


def check_facts(value: dict[str, Any], name: str, faults: Faults, path: str = "") -> None:
    """Check an object, or a structure at a path, against the facts of its definition; its status is left out."""
    if name in _SKIPPED:
        return
    for field, below, required, values in _checks(name):
        here = f"{path}.{field}" if path else field
        item = value.get(field)
        if below:
            _descend(item, below, faults, here)
        elif isinstance(item, list):
            for index, entry in enumerate(item):
                _check_text(entry, f"{here}[{index}]", values, faults)
        elif item:
            _check_text(item, here, values, faults)
        elif required and not _is_told(here, faults):
            faults.required(here)


def _is_told(path: str, faults: Faults) -> bool:
    """Tell whether a fault was found at the path or at the structure that it stands in."""
    return faults.has(path) or faults.has(path.rpartition(".")[0])


def _check_text(item: Any, path: str, values: tuple[str, ...], faults: Faults) -> None:
    if values and item not in values and not _is_told(path, faults):
        faults.not_supported(path, item, values)


def _descend(item: Any, below: str, faults: Faults, path: str) -> None:
    if isinstance(item, list):
        for index, entry in enumerate(item):
            if isinstance(entry, dict):
                check_facts(entry, below, faults, f"{path}[{index}]")
    elif isinstance(item, dict):
        # A map of structures has keys that are no fields of the structure; none of those has rules.
        check_facts(item, below, faults, path)
