"""What rules may know of a schema: the types of its values, and how large they may become.

A schema of which nothing is known (preserved fields without a type) is not seen by rules at all.
"""

from __future__ import annotations

import re
from typing import Any

from control.api.cel.sizes import Declared
from control.api.cel.types import BOOL, BYTES, DOUBLE, DURATION, DYN, INT, STRING, TIMESTAMP, list_of, map_of, object_of
from control.api.custom.pruning import EMBEDDED, Schema

REQUEST_BYTES_MAX = 3 * 1024 * 1024
"""What an object may have at most, as the sizes of values are reckoned."""
TYPE_NAME = "selfType"
_RESERVED = frozenset({
    "true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let",
    "loop", "package", "namespace", "return",
})  # fmt: skip
_ESCAPES = {"__": "__underscores__", ".": "__dot__", "-": "__dash__", "/": "__slash__"}
_NAME = re.compile(r"[A-Za-z_./-][A-Za-z0-9_./-]*", re.ASCII)
_STRING: Schema = {"type": "string"}
OBJECT_META: dict[str, Schema] = {
    "apiVersion": _STRING,
    "kind": _STRING,
    "metadata": {"type": "object", "properties": {"name": _STRING, "generateName": _STRING}},
}
"""What rules may know of an object beside what its schema says."""


def escape(name: str) -> str:
    """Return a field's name as rules write it: ``foo-bar`` is ``foo__dash__bar``; empty where they cannot."""
    if name in _RESERVED:
        return f"__{name}__"
    if _NAME.fullmatch(name) is None:
        return ""
    return re.sub(r"__|[.\-/]", lambda found: _ESCAPES[found.group()], name)


def declared(schema: Schema, *, is_root: bool = False, name: str = TYPE_NAME) -> Declared | None:
    """Return what rules know of a schema's values, None where that is nothing."""
    if schema.get("x-kubernetes-int-or-string"):
        length = schema.get("maxLength")
        return Declared(DYN, _text_limit(length) if length is not None else REQUEST_BYTES_MAX - 2, 1)
    match schema.get("type"):
        case "array":
            return _list(schema, name)
        case "object":
            others = schema.get("additionalProperties")
            if isinstance(others, dict) and not is_root:
                return _map(schema, others, name)
            return _object(schema, name, is_root=is_root)
        case "string":
            return _string(schema)
        case "boolean":
            return Declared(BOOL, 0, 4)
        case "number":
            return Declared(DOUBLE, 0, 1)
        case "integer":
            return Declared(INT, 0, 1)
    return None


def _list(schema: Schema, name: str) -> Declared | None:
    items = schema.get("items")
    if not isinstance(items, dict):
        return None
    item = declared(items, is_root=bool(items.get(EMBEDDED)), name=f"{name}.@idx")
    if item is None:
        return None
    most = schema.get("maxItems")
    most = max(int(most), 0) if most is not None else (REQUEST_BYTES_MAX - 2) // (item.serialized_min + 1)
    return Declared(list_of(item.type), most, 2, element=item)


def _map(schema: Schema, others: Schema, name: str) -> Declared | None:
    value = declared(others, is_root=bool(others.get(EMBEDDED)), name=f"{name}.@elem")
    if value is None:
        return None
    most = schema.get("maxProperties")
    most = max(int(most), 0) if most is not None else (REQUEST_BYTES_MAX - 2) // (value.serialized_min + 6)
    key = Declared(STRING, 0, 2)
    return Declared(map_of(STRING, value.type), most, 2, key=key, element=value)


def _object(schema: Schema, name: str, *, is_root: bool) -> Declared:
    properties: dict[str, Schema] = schema.get("properties") or {}
    if is_root:
        properties = {**properties, **OBJECT_META}
    required = frozenset(schema.get("required") or ())
    fields: dict[str, Declared] = {}
    least = 2
    for field, inner in properties.items():
        escaped = escape(field)
        found = declared(inner, is_root=bool(inner.get(EMBEDDED)), name=f"{name}.{escaped}")
        if found is None:
            continue
        if escaped:
            fields[escaped] = found
        if field in required and inner.get("default") is None:
            least += len(field.encode()) + found.serialized_min + 4
    types = {field: found.type for field, found in fields.items()}
    return Declared(object_of(name, types), 0, least, fields=fields)


def _string(schema: Schema) -> Declared:
    length = schema.get("maxLength")
    match schema.get("format"):
        case "byte":
            return Declared(BYTES, max(int(length), 0) if length is not None else REQUEST_BYTES_MAX - 2, 2)
        case "duration":
            return Declared(DURATION, 32, 3)
        case "date":
            return Declared(TIMESTAMP, 12, 12)
        case "date-time":
            return Declared(TIMESTAMP, 32, 21)
    if length is not None:
        return Declared(STRING, _text_limit(length), 2)
    values: list[Any] = schema.get("enum") or []
    if values:
        return Declared(STRING, max((len(value.encode()) for value in values if isinstance(value, str)), default=0), 2)
    return Declared(STRING, REQUEST_BYTES_MAX - 2, 2)


def _text_limit(length: float) -> int:
    """Return the most bytes of a text by its most characters."""
    return max(int(length), 0) * 4
