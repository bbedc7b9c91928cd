"""Field selectors: parse their text and match them against the fields that a kind offers."""

from __future__ import annotations

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


def parse(text: str, known: Collection[str] = ()) -> FieldSelector:
    """Parse ``a=b,c!=d`` where the fields must be known ones; raises BadRequest."""
    if not text:
        return EVERYTHING
    found = []
    for part in _split(text):
        requirement = _requirement(part, text)
        if requirement.field not in (NAME, NAMESPACE) and requirement.field not in known:
            raise status.bad_request(f"field label not supported: {requirement.field}")
        found.append(requirement)
    return FieldSelector(tuple(found))


def _split(text: str) -> list[str]:
    """Split at commas that no backslash protects."""
    parts, part, escaped = [], "", False
    for letter in text:
        if letter == "," and not escaped:
            parts.append(part)
            part = ""
            continue
        escaped = letter == "\\" and not escaped
        part += letter
    return [each for each in [*parts, part] if each]


def _requirement(part: str, text: str) -> FieldRequirement:
    field, operator, value = part.partition("!=")
    equal = not operator
    if equal:
        field, operator, value = part.partition("=")
        value = value.removeprefix("=")
    if not operator:
        raise status.bad_request(f'invalid selector: "{text}"; can\'t understand "{part}"')
    for letter in ("\\", ",", "="):
        value = value.replace("\\" + letter, letter)
    return FieldRequirement(field.strip(), value, equal)
