"""The paths that rules give to the fields they are about: ``.spec.size``, ``['a.b'].c``."""

from __future__ import annotations

import re

from control.api.custom.pruning import Schema

_PART = re.compile(r"\.|\[|\]|'(?:\\.|[^'\\])*'|[^.\[\]']+'?[^.\[\]]*")
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "'": "'", "\\": "\\"}


class FieldPathError(ValueError):
    """A path leads nowhere in a schema."""


def normalized(path: str, schema: Schema) -> str:
    """Return a path as faults show it, ``spec.size`` or ``m[key]``; raises FieldPathError."""
    parts = _PART.findall(path)
    if "".join(parts) != path:
        raise FieldPathError("does not refer to a valid field")
    shown = ""
    while parts:
        mark, parts = parts[0], parts[1:]
        if mark not in (".", "[") or not parts:
            raise FieldPathError(f"expected [ or . but got: {mark}" if parts else "unexpected end of JSON path")
        name, parts = parts[0], parts[1:]
        if mark == "[":
            if len(name) < 2 or name[0] != "'" or name[-1] != "'":
                raise FieldPathError(f"expected single quoted string but got {name}")
            if parts[:1] != ["]"]:
                raise FieldPathError(f"expected ] but got {parts[0]}" if parts else "unexpected end of JSON path")
            name, parts = re.sub(r"\\(.)", _unescaped, name[1:-1]), parts[1:]
        schema, is_named = _inner(schema, name)
        shown = f"{shown}.{name}" if is_named and shown else f"{shown}{name}" if is_named else f"{shown}[{name}]"
    return shown


def _unescaped(found: re.Match[str]) -> str:
    if found[1] not in _ESCAPES:
        raise FieldPathError(f"invalid string literal: invalid escape char {found.group()}")
    return _ESCAPES[found[1]]


def _inner(schema: Schema, name: str) -> tuple[Schema, bool]:
    properties, others = schema.get("properties"), schema.get("additionalProperties")
    if properties:
        if name not in properties:
            raise FieldPathError("does not refer to a valid field")
        return properties[name], True
    if isinstance(others, dict):
        return others, False
    raise FieldPathError("does not refer to a valid field")
