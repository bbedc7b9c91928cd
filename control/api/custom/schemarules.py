"""The rules of each node of a definition's schema, whether it is a structure or a part of a junctor."""

from __future__ import annotations

from typing import Any

from control.api.custom.pruning import EMBEDDED, EXTENSION, PRESERVES, Schema
from control.api.validation.faults import Faults

TYPES = ("array", "boolean", "integer", "number", "object", "string")
_NEVER = ("id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref")
_OF_OBJECTS = ("metadata", "kind", "apiVersion")
_LIST, _KEYS, _MAP = "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type"


def check_nodes(schema: Schema, path: str, faults: Faults) -> None:
    """Check a whole schema, node by node."""
    _check_node(schema, path, faults, is_root=True)


def _check_node(
    schema: Schema, path: str, faults: Faults, *, is_root: bool = False, in_metadata: bool = False,
    no_defaults: str = ""
) -> None:  # fmt: skip
    _check_words(schema, path, faults, in_metadata, no_defaults)
    others = schema.get("additionalProperties")
    if others is not None and others is not True and schema.get("properties"):
        faults.forbidden(f"{path}.additionalProperties", "additionalProperties and properties are mutual exclusive")
    if isinstance(others, dict):
        told = "inside additionalProperties applying to object metadata" if in_metadata else no_defaults
        here = f"{path}.additionalProperties"
        _check_node(others, here, faults, in_metadata=in_metadata, no_defaults=told)
    for name, inner in (schema.get("properties") or {}).items():
        within, told = in_metadata, no_defaults
        if (is_root or schema.get(EMBEDDED)) and name in _OF_OBJECTS:
            within, told = True, f"in top-level {name}" if is_root else told
        here = f"{path}.properties[{name}]"
        _check_node(inner, here, faults, in_metadata=within, no_defaults=told)
    for here, part in _parts(schema, path):
        _check_node(part, here, faults, in_metadata=in_metadata, no_defaults=no_defaults)
    items = schema.get("items")
    for here, part in [(f"{path}.items", items)] if isinstance(items, dict) else []:
        _check_node(part, here, faults, in_metadata=in_metadata, no_defaults=no_defaults)
    if schema.get(PRESERVES) is False:
        faults.invalid(f"{path}.{PRESERVES}", False, "must be true or undefined")
    _check_map_type(schema, path, faults)
    _check_list_type(schema, path, faults)
    if schema.get(EXTENSION):
        # Most schemas have no rules: what reads them is imported with the first that has.
        from control.api.custom.rulefaults import entry_faults

        entry_faults(schema, path, faults)


def _parts(schema: Schema, path: str) -> list[tuple[str, Schema]]:
    found = [(f"{path}.not", schema.get("not"))]
    for name in ("allOf", "oneOf", "anyOf"):
        found += [(f"{path}.{name}[{index}]", part) for index, part in enumerate(schema.get(name) or ())]
    found += [(f"{path}.definitions[{name}]", part) for name, part in (schema.get("definitions") or {}).items()]
    if isinstance(items := schema.get("items"), list):
        found += [(f"{path}.items[{index}]", part) for index, part in enumerate(items)]
    return [(here, part) for here, part in found if isinstance(part, dict)]


def _check_words(schema: Schema, path: str, faults: Faults, in_metadata: bool, no_defaults: str) -> None:
    kind = schema.get("type") or ""
    if kind and kind not in TYPES:
        faults.not_supported(f"{path}.type", kind, TYPES)
    if schema.get("default") is not None and no_defaults:
        faults.forbidden(f"{path}.default", f"must not be set {no_defaults}")
    for name in _NEVER:
        if schema.get(name):
            faults.forbidden(f"{path}.{name}", f"{name} is not supported")
    if kind == "null":
        faults.forbidden(f"{path}.type", "type cannot be set to null, use nullable as an alternative")
    if isinstance(schema.get("items"), list):
        faults.forbidden(f"{path}.items", "items must be a schema object and not an array")
    if in_metadata and schema.get(EMBEDDED):
        faults.forbidden(f"{path}.{EMBEDDED}", "must not be used inside of resource meta")
    if schema.get("uniqueItems"):
        text = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        faults.forbidden(f"{path}.uniqueItems", text)


def _check_of_type(schema: Schema, wanted: str, extension: str, path: str, faults: Faults) -> None:
    kind, text = schema.get("type") or "", f"must be {wanted} if {extension} is specified"
    if not kind:
        faults.required(f"{path}.type", text)
    elif kind != wanted:
        faults.invalid(f"{path}.type", kind, text)


def _check_map_type(schema: Schema, path: str, faults: Faults) -> None:
    if (map_type := schema.get(_MAP)) is None:
        return
    _check_of_type(schema, "object", _MAP, path, faults)
    if map_type not in ("atomic", "granular"):
        faults.not_supported(f"{path}.{_MAP}", map_type, ("atomic", "granular"))


def _check_list_type(schema: Schema, path: str, faults: Faults) -> None:
    list_type, keys = schema.get(_LIST), schema.get(_KEYS) or []
    found = schema.get("items")
    items: Schema | None = found if isinstance(found, dict) else None
    if list_type is not None:
        _check_of_type(schema, "array", _LIST, path, faults)
    if schema.get("type") == "array" and list_type == "set" and items is not None:
        _check_set_items(items, f"{path}.items", faults)
    if list_type not in (None, "atomic", "set", "map"):
        faults.not_supported(f"{path}.{_LIST}", list_type, ("atomic", "set", "map"))
    if keys and list_type != "map":
        text = f"must be map if {_KEYS} is non-empty"
        if list_type is None:
            faults.required(f"{path}.{_LIST}", text)
        else:
            faults.invalid(f"{path}.{_LIST}", list_type, text)
    if list_type == "map":
        _check_map_list(schema, keys, items, path, faults)
    if list_type in ("set", "map") and items is not None:
        _check_keys(items, keys if list_type == "map" else [], list_type, f"{path}.items", faults)


def _check_set_items(items: Schema, path: str, faults: Faults) -> None:
    text = "must be atomic as item of a list with x-kubernetes-list-type=set"
    if items.get("type") == "array" and items.get(_LIST) not in (None, "atomic"):
        faults.invalid(f"{path}.{_LIST}", items[_LIST], text)
    elif items.get("type") == "object" and items.get(_MAP) != "atomic":
        faults.invalid(f"{path}.{_MAP}", items.get(_LIST), text)


def _check_map_list(schema: Schema, keys: list[str], items: Schema | None, path: str, faults: Faults) -> None:
    if not keys:
        faults.required(f"{path}.{_KEYS}", f"must not be empty if {_LIST} is map")
    if items is None:
        if schema.get("items") is None:
            faults.required(f"{path}.items", f"must have a schema if {_LIST} is map")
        return
    kind = items.get("type") or ""
    if kind != "object":
        faults.invalid(f"{path}.items.type", kind, f"must be object if parent array's {_LIST} is map")
        return
    properties: dict[str, Any] = items.get("properties") or {}
    for index, key in enumerate(keys):
        if key not in properties:
            faults.invalid(f"{path}.{_KEYS}", keys, "entries must all be names of item properties")
        elif properties[key].get("type") in ("array", "object"):
            text = f"must be a scalar type if parent array's {_LIST} is map"
            faults.invalid(f"{path}.items.properties[{key}].type", kind, text)
        if key in keys[:index]:
            faults.invalid(f"{path}.{_KEYS}", keys, "must not contain duplicate entries")


def _check_keys(items: Schema, keys: list[str], list_type: str, path: str, faults: Faults) -> None:
    if items.get("nullable"):
        faults.forbidden(f"{path}.nullable", f"cannot be nullable when {_LIST} is {list_type}")
    properties: dict[str, Any] = items.get("properties") or {}
    for key in keys:
        if (found := properties.get(key)) is None:
            continue
        here = f"{path}.properties[{key}]"
        if key not in (items.get("required") or ()) and found.get("default") is None:
            text = f"this property is in {_KEYS}, so it must have a default or be a required property"
            faults.required(f"{here}.default", text)
        if found.get("nullable"):
            faults.forbidden(f"{here}.nullable", f"this property is in {_KEYS}, so it cannot be nullable")
