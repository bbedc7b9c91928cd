"""Cut what a structural schema does not know, and fill in its defaults.

Kubernetes does both on every write and on every read of another version. A schema is walked as it stands in the
CustomResourceDefinition; the object's own apiVersion, kind and metadata are never touched.
"""

from __future__ import annotations

from typing import Any

from control.api.patch import copy_json

Schema = dict[str, Any]
ROOT_FIELDS = ("apiVersion", "kind", "metadata")
PRESERVES = "x-kubernetes-preserve-unknown-fields"
EMBEDDED = "x-kubernetes-embedded-resource"
EXTENSION = "x-kubernetes-validations"
"""Where the rules of a schema stand."""


def prune(value: Any, schema: Schema, *, is_root: bool = True) -> list[str]:
    """Remove unknown fields in place and return their paths: ``spec.foo``, ``spec.items[0].bar``."""
    cut: list[str] = []
    _prune(value, schema, "", cut, is_object=is_root)
    return cut


def _prune(value: Any, schema: Schema, path: str, cut: list[str], *, is_object: bool = False) -> None:
    if isinstance(value, list):
        if isinstance(items := schema.get("items"), dict):
            for index, item in enumerate(value):
                _prune(item, items, f"{path}[{index}]", cut)
        return
    if not isinstance(value, dict):
        return
    is_object = is_object or bool(schema.get(EMBEDDED))
    properties: dict[str, Schema] = schema.get("properties") or {}
    others = schema.get("additionalProperties")
    keeps = bool(schema.get(PRESERVES)) or others is True
    for name in list(value):
        if is_object and name in ROOT_FIELDS:
            continue
        here = f"{path}.{name}" if path else name
        if name in properties:
            _prune(value[name], properties[name], here, cut)
        elif isinstance(others, dict):
            _prune(value[name], others, here, cut)
        elif not keeps:
            del value[name]
            cut.append(here)


def fill_defaults(value: Any, schema: Schema) -> None:
    """Fill in defaults in place, parents before children.

    A null where none may stand gives way to the default, or goes; a float that is whole becomes an integer.
    """
    if isinstance(value, list):
        if isinstance(items := schema.get("items"), dict):
            for index, item in enumerate(value):
                if type(item) is float:
                    value[index] = _whole(item)
                fill_defaults(item, items)
        return
    if not isinstance(value, dict):
        return
    properties: dict[str, Schema] = schema.get("properties") or {}
    for name, inner in properties.items():
        if "default" in inner and (name not in value or (value[name] is None and not inner.get("nullable"))):
            value[name] = copy_json(inner["default"])
        if name in value:
            _complete(value, name, inner)
    others = schema.get("additionalProperties")
    if isinstance(others, dict):
        for name in list(value):
            if name not in properties:
                _complete(value, name, others)


def _complete(value: dict[str, Any], name: str, schema: Schema) -> None:
    item = value[name]
    if item is None:
        if not schema.get("nullable"):
            del value[name]
    elif type(item) is float:
        value[name] = _whole(item)
    else:
        fill_defaults(item, schema)


def _whole(number: float) -> float:
    # As Go writes them: 3.0 is 3.
    return int(number) if number.is_integer() and abs(number) < 1 << 53 else number


def has_rules(schema: Schema) -> bool:
    """Tell whether there are rules anywhere in a schema."""
    inner = [*(schema.get("properties") or {}).values(), schema.get("items"), schema.get("additionalProperties")]
    return bool(schema.get(EXTENSION)) or any(has_rules(each) for each in inner if isinstance(each, dict))
