"""Values as rules see them: numbers, times and bytes by their schema, lists by their kind, names of fields escaped."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from control.api.cel.errors import CelError
from control.api.cel.values import Duration, MapList, SetList, Timestamp
from control.api.custom.declared import OBJECT_META, escape
from control.api.custom.pruning import EMBEDDED, Schema


def to_cel(value: Any, schema: Schema, *, is_root: bool = False) -> Any:
    """Return a value as rules see it."""
    if isinstance(value, dict):
        return _object(value, schema, is_root=is_root or bool(schema.get(EMBEDDED)))
    if isinstance(value, list):
        return _list(value, schema)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        if schema.get("type") == "number":
            return float(value)
        return int(value) if schema.get("type") == "integer" else value
    return _text(value, schema.get("format") or "") if isinstance(value, str) else value


def _object(value: dict[str, Any], schema: Schema, *, is_root: bool) -> dict[str, Any]:
    properties: dict[str, Schema] = schema.get("properties") or {}
    if is_root:
        properties = {**properties, **OBJECT_META}
    others = schema.get("additionalProperties")
    made: dict[str, Any] = {}
    for name, item in value.items():
        if name in properties:
            if escaped := escape(name):
                made[escaped] = to_cel(item, properties[name])
        elif isinstance(others, dict):
            made[name] = to_cel(item, others)
    return made


def _list(value: list[Any], schema: Schema) -> list[Any]:
    items = schema.get("items")
    made = [to_cel(item, items) if isinstance(items, dict) else item for item in value]
    match schema.get("x-kubernetes-list-type"):
        case "set":
            return SetList(made)
        case "map":
            keyed = MapList(made)
            keyed.keys = tuple(escape(key) for key in schema.get("x-kubernetes-list-map-keys") or ())
            return keyed
    return made


def _text(value: str, form: str) -> Any:
    try:
        match form:
            case "byte":
                return base64.b64decode(value, validate=True)
            case "date":
                return Timestamp.parse(f"{value}T00:00:00Z")
            case "date-time":
                return Timestamp.parse(value)
            case "duration":
                return Duration.parse(value)
    except (CelError, binascii.Error):
        return value
    return value
