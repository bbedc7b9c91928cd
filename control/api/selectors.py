"""Label selectors: parse the text and the object form, and match labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from control.api.validation import names


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
        wanted = next(iter(self.values), "")
        if not (_INTEGER.fullmatch(value or "") and _INTEGER.fullmatch(wanted)):
            return False
        left, right = int(value or ""), int(wanted)
        return left > right if self.operator == "Gt" else left < right


@dataclass(frozen=True)
class Selector:
    """All of its requirements must hold; none at all selects everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether the labels meet all requirements."""
        return all(requirement.matches(labels) for requirement in self.requirements)


EVERYTHING = Selector()

_TOKEN = re.compile(r"[ \t\r\n]*(?:(==|!=|[=!(),<>])|([^ \t\r\n=!(),<>]+))")
_OPERATORS = {"in": "In", "notin": "NotIn", "=": "In", "==": "In", "!=": "NotIn", ">": "Gt", "<": "Lt"}
_EXPECTED_OPERATORS = "in, notin, =, ==, !=, gt, lt"


def parse(text: str) -> Selector:
    """Parse kubectl's selector syntax: ``a=b,c!=d,e in (f,g),h,!i``; raises SelectorError in Kubernetes' words."""
    reader = _Reader(text)
    found: list[Requirement] = []
    while True:
        if not (reader.is_name or reader.token == "!"):
            if not reader.token:
                return Selector(tuple(found))
            raise SelectorError(f"found '{reader.token}', expected: !, identifier, or 'end of string'")
        try:
            found.append(_requirement(reader))
        except SelectorError as error:
            raise SelectorError(f"unable to parse requirement: {error}") from None
        behind = reader.next()
        if not behind:
            return Selector(tuple(found))
        if behind != ",":
            raise SelectorError(f"found '{behind}', expected: ',' or 'end of string'")
        if not (reader.is_name or reader.token == "!"):
            raise SelectorError(f"found '{reader.token}', expected: identifier after ','")


class _Reader:
    """The tokens of a selector, read once from left to right; the last one is empty."""

    def __init__(self, text: str) -> None:
        self._tokens = [(found[1] or found[2], bool(found[2])) for found in _TOKEN.finditer(text)]
        self._at = 0

    @property
    def token(self) -> str:
        """The token that comes next."""
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    @property
    def is_name(self) -> bool:
        """Whether the next token is a key or a value."""
        return self._at < len(self._tokens) and self._tokens[self._at][1]

    def next(self) -> str:
        """Take the next token."""
        token = self.token
        self._at += 1
        return token


def _name(reader: _Reader) -> str:
    if not reader.is_name:
        raise SelectorError(f"found '{reader.token}', expected: identifier")
    return reader.next()


def _requirement(reader: _Reader) -> Requirement:
    absent = reader.token == "!"
    if absent:
        reader.next()
    key = _name(reader)
    if faults := names.qualified_name(key):
        raise SelectorError(f"<nil>: Invalid value: {_quoted(key)}: {'; '.join(faults)}")
    if absent or reader.token in ("", ","):
        return Requirement(key, "DoesNotExist" if absent else "Exists")
    word = reader.next()
    operator = _OPERATORS.get(word)
    if operator is None:
        raise SelectorError(f"found '{word}', expected: {_EXPECTED_OPERATORS}")
    values = _values(reader) if word in ("in", "notin") else _value(reader)
    _check_values(key, operator, values)
    return Requirement(key, operator, frozenset(values))


def _value(reader: _Reader) -> list[str]:
    return [""] if reader.token in ("", ",") else [_name(reader)]


def _values(reader: _Reader) -> list[str]:
    if reader.token != "(":
        raise SelectorError(f"found '{reader.token}' expected: '('")
    reader.next()
    if reader.token == ")":
        reader.next()
        raise SelectorError("values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty")
    values = [reader.next() if reader.is_name else ""]
    while reader.token == ",":
        reader.next()
        values.append(reader.next() if reader.is_name else "")
    if reader.token != ")":
        expected = "')'" if reader.is_name or values != [""] else "',', ')' or identifier"
        raise SelectorError(f"found '{reader.token}', expected: {expected}")
    reader.next()
    return values


def _check_values(key: str, operator: str, values: list[str]) -> None:
    for index, value in enumerate(values):
        if operator in ("Gt", "Lt") and not _INTEGER.fullmatch(value):
            text = "for 'Gt', 'Lt' operators, the value must be an integer"
            raise SelectorError(f"values[{index}]: Invalid value: {_quoted(value)}: {text}")
        if faults := names.label_value(value):
            raise SelectorError(f"values[{index}][{key}]: Invalid value: {_quoted(value)}: {'; '.join(faults)}")


_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()


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
