"""Label selectors: parse the text and the object form, and match labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class SelectorError(ValueError):
    """A selector's text cannot be understood."""


@dataclass(frozen=True)
class Requirement:
    """One condition on one label."""

    key: str
    operator: str
    """In, NotIn, Exists, DoesNotExist, Gt or Lt."""
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether the labels meet the condition."""
        value = labels.get(self.key)
        if self.operator == "In":
            return value is not None and value in self.values
        if self.operator == "NotIn":
            return value is None or value not in self.values
        if self.operator == "Exists":
            return value is not None
        if self.operator == "DoesNotExist":
            return value is None
        return self._compares(value)

    def _compares(self, value: str | None) -> bool:
        try:
            left, right = int(value or ""), int(next(iter(self.values), ""))
        except ValueError:
            return False
        return left > right if self.operator == "Gt" else left < right


@dataclass(frozen=True)
class Selector:
    """All of its requirements must hold; none at all selects everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether the labels meet all requirements."""
        return all(requirement.matches(labels) for requirement in self.requirements)


EVERYTHING = Selector()

_LABEL = r"[A-Za-z0-9./_-]+"
_SET = re.compile(rf"^({_LABEL})\s+(in|notin)\s*\(([^()]*)\)$")
_EQUAL = re.compile(rf"^({_LABEL})\s*(==|=|!=|>|<)\s*({_LABEL})?$")
_EXISTS = re.compile(rf"^(!?)\s*({_LABEL})$")


def parse(text: str) -> Selector:
    """Parse kubectl's selector syntax: ``a=b,c!=d,e in (f,g),h,!i``; raises SelectorError."""
    return Selector(tuple(_parse_requirement(part) for part in _split(text)))


def _split(text: str) -> list[str]:
    """Split at commas outside of parentheses."""
    parts = [part.strip() for part in re.split(r",(?![^()]*\))", text)]
    if parts == [""]:
        return []
    if "" in parts:
        raise SelectorError(f"unable to parse requirement: found ',' where a requirement is expected in {text!r}")
    return parts


def _parse_requirement(part: str) -> Requirement:
    if found := _SET.match(part):
        values = frozenset(value.strip() for value in found[3].split(","))
        return Requirement(found[1], "In" if found[2] == "in" else "NotIn", values)
    if found := _EQUAL.match(part):
        operator = {"=": "In", "==": "In", "!=": "NotIn", ">": "Gt", "<": "Lt"}[found[2]]
        return Requirement(found[1], operator, frozenset([found[3] or ""]))
    if found := _EXISTS.match(part):
        return Requirement(found[2], "DoesNotExist" if found[1] else "Exists")
    raise SelectorError(f"unable to parse requirement: {part!r}")


def from_label_selector(selector: Mapping[str, Any] | None) -> Selector:
    """Return the Selector of a LabelSelector object; None selects nothing, which callers handle before."""
    selector = selector or {}
    equal = [Requirement(key, "In", frozenset([value])) for key, value in (selector.get("matchLabels") or {}).items()]
    expressions = [
        Requirement(entry.get("key") or "", entry.get("operator") or "", frozenset(entry.get("values") or ()))
        for entry in selector.get("matchExpressions") or ()
    ]
    return Selector(tuple(equal + expressions))


def from_map(labels: Mapping[str, str] | None) -> Selector:
    """Return the Selector of a plain map, as Services and ReplicationControllers have."""
    return Selector(tuple(Requirement(key, "In", frozenset([value])) for key, value in (labels or {}).items()))


def to_text(selector: Selector) -> str:
    """Return the selector in kubectl's syntax."""
    return ",".join(_requirement_text(requirement) for requirement in selector.requirements)


def _requirement_text(requirement: Requirement) -> str:
    values = ",".join(sorted(requirement.values))
    if requirement.operator == "In" and len(requirement.values) == 1:
        return f"{requirement.key}={values}"
    if requirement.operator == "NotIn" and len(requirement.values) == 1:
        return f"{requirement.key}!={values}"
    plain = {
        "In": f"{requirement.key} in ({values})",
        "NotIn": f"{requirement.key} notin ({values})",
        "Exists": requirement.key,
        "DoesNotExist": f"!{requirement.key}",
        "Gt": f"{requirement.key}>{values}",
        "Lt": f"{requirement.key}<{values}",
    }
    return plain.get(requirement.operator, f"{requirement.key} {requirement.operator} ({values})")
