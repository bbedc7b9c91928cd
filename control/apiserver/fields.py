"""Field selectors: parse their text and match them against the fields that a kind offers."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from control.api import status

NAME, NAMESPACE = "metadata.name", "metadata.namespace"


@dataclass(frozen=True, slots=True)
class FieldRequirement:
    """One field must have a value, or must not."""

    field: str
    value: str
    equal: bool = True


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """All of its requirements must hold; none at all selects everything."""

    requirements: tuple[FieldRequirement, ...] = ()

    def matches(self, name: str, namespace: str, fields: Mapping[str, str]) -> bool:
        """Tell whether an object of this name with these fields is meant."""
        for requirement in self.requirements:
            if requirement.field == NAME:
                value = name
            elif requirement.field == NAMESPACE:
                value = namespace
            else:
                value = fields.get(requirement.field, "")
            if (value == requirement.value) is not requirement.equal:
                return False
        return True


EVERYTHING = FieldSelector()
NO_NAMES: Mapping[str, str] = {}


def parse(text: str, known: Collection[str] = (), stored_as: Mapping[str, str] = NO_NAMES) -> FieldSelector:
    """Parse ``a=b,c!=d`` where the fields must be known ones, whose stored names may be others; raises BadRequest."""
    if not text:
        return EVERYTHING
    found = []
    for part in _split(text):
        requirement = _requirement(part, text)
        if requirement.field not in (NAME, NAMESPACE) and requirement.field not in known:
            raise status.bad_request(f"field label not supported: {requirement.field}")
        if (stored := stored_as.get(requirement.field)) is not None:
            requirement = FieldRequirement(stored, requirement.value, requirement.equal)
        found.append(requirement)
    return FieldSelector(tuple(found))


def only_name(text: str) -> str:
    """Return the one name that a selector leaves, empty where it may select several: what authorizers may know."""
    if not text:
        return ""
    try:
        found = [_requirement(part, text) for part in _split(text)]
    except status.ApiError:
        # Whoever reads the selector refuses it.
        return ""
    return next((each.value for each in found if each.field == NAME and each.equal), "")


def _split(text: str) -> list[str]:
    """Split at commas that no backslash protects."""
    return [part for part in _PARTS.findall(text) if part]


_TERM = re.compile(r"(.*?)(!=|==|=)(.*)", re.DOTALL)
_ESCAPED = re.compile(r"\\.?", re.DOTALL)
_PARTS = re.compile(r"(?:[^,\\]|\\.?)+", re.DOTALL)


def _requirement(part: str, text: str) -> FieldRequirement:
    found = _TERM.fullmatch(part)
    if found is None:
        raise status.bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
    return FieldRequirement(found[1].strip(), _unescaped(found[3]), found[2] != "!=")


def _unescaped(value: str) -> str:
    """Return a value without the backslashes that protect backslashes, commas and equals signs."""
    if "\\" not in value and "=" not in value:
        return value
    if "=" in _ESCAPED.sub("", value):
        raise status.bad_request(f"invalid field selector: unescaped character in value: {ord('=')}")
    for escape in _ESCAPED.findall(value):
        if escape not in ("\\\\", "\\,", "\\="):
            raise status.bad_request(f"invalid field selector: invalid escape sequence: {escape}")
    return _ESCAPED.sub(lambda escape: escape[0][1:], value)
