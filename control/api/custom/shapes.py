"""Say to server-side apply how custom objects are taken apart: schemas as definitions, like those of built-in kinds."""

from __future__ import annotations

from typing import Any

from control.api import schema as facts
from control.api.custom.pruning import EMBEDDED, PRESERVES, Schema

META = facts.Field("metadata", "meta.v1.ObjectMeta", "o", 0)


def definitions(name: str, schema: Schema) -> dict[str, facts.Definition]:
    """Return the definition of an object, by ``name``, and those of the structures in it."""
    made: dict[str, facts.Definition] = {}
    _structure(name, schema, made, is_object=True)
    return made


def _structure(name: str, schema: Schema, made: dict[str, facts.Definition], *, is_object: bool) -> None:
    properties: dict[str, Schema] = schema.get("properties") or {}
    fields = dict(facts.TYPE_META) if is_object else {}
    for field_name, inner in properties.items():
        if not (is_object and field_name in (*facts.TYPE_META, "metadata")):
            fields[field_name] = _field(field_name, f"{name}/{field_name}", inner, made)
    if is_object:
        fields["metadata"] = META
    atomic = schema.get("x-kubernetes-map-type") == "atomic"
    made[name] = facts.Definition(name, fields, {}, {}, is_object=is_object, atomic=atomic)


def _field(field_name: str, name: str, schema: Schema, made: dict[str, facts.Definition]) -> facts.Field:
    default: Any = schema.get("default")
    keys = tuple(schema.get("x-kubernetes-list-map-keys") or ())
    return facts.Field(
        field_name,
        _type(name, schema, made),
        "po",
        0,
        list_type=schema.get("x-kubernetes-list-type") or "",
        list_keys=keys,
        map_type=schema.get("x-kubernetes-map-type") or "",
        default=default if isinstance(default, str) else "",
    )


def _type(name: str, schema: Schema, made: dict[str, facts.Definition]) -> str:
    """Return a type as the facts write it; "" for what is taken apart as it comes, JSON for leaves."""
    if schema.get("type") == "array":
        items = schema.get("items")
        return "[]" + (_type(f"{name}/items", items, made) if isinstance(items, dict) else "")
    if schema.get("type") != "object":
        return "" if schema.get(PRESERVES) and not schema.get("type") else "JSON"
    others = schema.get("additionalProperties")
    if isinstance(others, dict):
        return "{}" + _type(f"{name}/values", others, made)
    if not schema.get("properties") and (schema.get(PRESERVES) or others):
        return ""
    _structure(name, schema, made, is_object=bool(schema.get(EMBEDDED)))
    return name
