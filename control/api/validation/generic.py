"""Rules that follow from the facts alone: required texts and the values of enumerations.

They are checked after a kind's own rules, and only where those found nothing: Kubernetes tells one fault of a field.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
_SKIPPED = {
    "meta.v1.OwnerReference",
    "meta.v1.ManagedFieldsEntry",
    "apiextensions.v1.JSONSchemaProps",
    "admissionregistration.v1.MatchResources",
    "apiextensions.v1.CustomResourceDefinitionSpec",
}
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


@dataclass(frozen=True, slots=True)
class _Checks:
    """What to look at in a structure."""

    below: dict[str, str]
    """Field → the structure that it leads to."""
    values: dict[str, tuple[str, ...]]
    """Field → the texts that it may hold."""
    required: tuple[str, ...]


@cache
def _checks(name: str) -> _Checks:
    below: dict[str, str] = {}
    values: dict[str, tuple[str, ...]] = {}
    required: list[str] = []
    found = schema.definition(name)
    for field in found.fields.values():
        kind = _named(field.type)
        if name in _SKIPPED or (field.name == "status" and found.is_object):
            continue
        if schema.resolve(kind) is not None:
            if _reaches_rules(kind):
                below[field.name] = kind
        elif (rule := _field_rule(name, field)) is not None:
            if rule[0]:
                required.append(field.name)
            if rule[1]:
                values[field.name] = rule[1]
    return _Checks(below, values, tuple(required))


def check_facts(value: dict[str, Any], name: str, faults: Faults, path: str = "") -> None:
    """Check an object, or a structure at a path, against the facts of its definition; its status is left out."""
    checks = _checks(name)
    prefix = f"{path}." if path else ""
    for field, item in value.items():
        if (below := checks.below.get(field)) is not None:
            _descend(item, below, faults, prefix + field)
        elif (known := checks.values.get(field)) is not None and item:
            _check_values(item, prefix + field, known, faults)
    for field in checks.required:
        if not value.get(field) and not _is_told(prefix + field, faults):
            faults.required(prefix + field)


def _is_told(path: str, faults: Faults) -> bool:
    """Tell whether a fault was found at the path, at the list or at the structure that it stands in."""
    return (
        faults.has(path)
        or faults.has(path.rpartition(".")[0])
        or (path[-1] == "]" and faults.has(path[: path.rfind("[")]))
    )


def _check_values(item: Any, path: str, known: tuple[str, ...], faults: Faults) -> None:
    if isinstance(item, list):
        for index, entry in enumerate(item):
            _check_values(entry, f"{path}[{index}]", known, faults)
    elif item not in known and not _is_told(path, faults):
        faults.not_supported(path, item, known)


def _descend(item: Any, below: str, faults: Faults, path: str) -> None:
    if isinstance(item, list):
        for index, entry in enumerate(item):
            if isinstance(entry, dict):
                check_facts(entry, below, faults, f"{path}[{index}]")
    elif isinstance(item, dict):
        # A map of structures has keys that are no fields of the structure; none of those has rules.
        check_facts(item, below, faults, path)
