"""Hold a schema against the rules of structural schemas, which every CustomResourceDefinition must keep.

Structural means: every value has a type of its own outside of the junctors, so that it is clear without looking at an
object what is cut, defaulted and owned.
"""

from __future__ import annotations

from typing import Any

from control.api.custom import patterns
from control.api.custom.checking import check
from control.api.custom.pruning import EMBEDDED, EXTENSION, PRESERVES, Schema, has_rules, prune
from control.api.patch import copy_json
from control.api.validation.faults import Faults

TYPES = ("array", "boolean", "integer", "number", "object", "string")
INT_OR_STRING = "x-kubernetes-int-or-string"
DEPTH_MAX = 64
"""Deeper schemas are refused: every walk over objects follows them."""
_NEVER = {
    "definitions": "definitions is not supported",
    "dependencies": "dependencies is not supported",
    "$ref": "$ref is not supported",
    "id": "id is not supported",
    "patternProperties": "patternProperties is not supported",
    "additionalItems": "additionalItems is not supported",
}
_STRUCTURE = (
    "type", "default", "title", "description", "additionalProperties", "nullable", PRESERVES, EMBEDDED, INT_OR_STRING,
    "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type", EXTENSION,
)  # fmt: skip
"""What may not stand inside a junctor."""
_INT_OR_STRING_FORMS = ([{"type": "integer"}, {"type": "string"}], [{"type": "string"}, {"type": "integer"}])


def check_structural(schema: Schema, path: str, faults: Faults) -> None:
    """Add a fault for each rule that a version's whole schema breaks; what its own rules say is checked at last."""
    before = len(faults.causes)
    if schema.get("type") != "object":
        if schema.get("type"):
            faults.invalid(f"{path}.type", schema["type"], "must be object at the root")
        else:
            faults.required(f"{path}.type", "must not be empty at the root")
    if schema.get("nullable"):
        faults.forbidden(f"{path}.nullable", "nullable cannot be true at the root")
    metadata = (schema.get("properties") or {}).get("metadata")
    if metadata and (set(metadata) - {"type", "properties", "description"}):
        text = "must not specify anything other than name and generateName, but metadata is implicitly specified"
        faults.forbidden(f"{path}.properties[metadata]", text)
    _check_node(schema, path, faults, 0, level="")
    if len(faults.causes) == before and has_rules(schema):
        from control.api.custom.rulefaults import expression_faults

        expression_faults(schema, path, faults)


def _check_node(schema: Schema, path: str, faults: Faults, depth: int, *, level: str) -> None:
    if depth > DEPTH_MAX:
        faults.forbidden(path, f"schemas may not be nested deeper than {DEPTH_MAX}")
        return
    for name, text in _NEVER.items():
        if schema.get(name):
            faults.forbidden(f"{path}.{name}", text)
    if schema.get("uniqueItems"):
        text = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        faults.forbidden(f"{path}.uniqueItems", text)
    _check_type(schema, path, faults, level)
    _check_extensions(schema, path, faults)
    if schema.get(EXTENSION):
        # Most schemas have no rules: what reads them is imported with the first that has.
        from control.api.custom.rulefaults import entry_faults

        entry_faults(schema, path, faults)
    if (pattern := schema.get("pattern")) and (fault := patterns.fault(pattern)):
        faults.invalid(f"{path}.pattern", pattern, f"must be a valid regular expression, but isn't: {fault}")
    if schema.get("properties") and schema.get("additionalProperties") is not None:
        faults.forbidden(f"{path}.additionalProperties", "additionalProperties and properties are mutual exclusive")
    _check_default(schema, path, faults)
    for name, inner in (schema.get("properties") or {}).items():
        _check_node(inner, f"{path}.properties[{name}]", faults, depth + 1, level="object fields")
    if isinstance(others := schema.get("additionalProperties"), dict):
        _check_node(others, f"{path}.additionalProperties", faults, depth + 1, level="object fields")
    items = schema.get("items")
    if isinstance(items, dict):
        _check_node(items, f"{path}.items", faults, depth + 1, level="array items")
    elif isinstance(items, list):
        faults.forbidden(f"{path}.items", "items must be a schema object and not an array")
    for name in ("allOf", "anyOf", "oneOf"):
        for index, part in enumerate(schema.get(name) or ()):
            if not (schema.get(INT_OR_STRING) and schema[name] in _INT_OR_STRING_FORMS):
                _check_junctor(part, schema, f"{path}.{name}[{index}]", faults, depth + 1)
    if isinstance(refused := schema.get("not"), dict):
        _check_junctor(refused, schema, f"{path}.not", faults, depth + 1)


def _check_type(schema: Schema, path: str, faults: Faults, level: str) -> None:
    kind = schema.get("type")
    if kind and kind not in TYPES:
        faults.not_supported(f"{path}.type", kind, TYPES)
    if schema.get(INT_OR_STRING):
        if kind:
            faults.forbidden(f"{path}.type", "must be empty if x-kubernetes-int-or-string is true")
    elif not kind and level and not schema.get(PRESERVES):
        faults.required(f"{path}.type", f"must not be empty for specified {level}")
    if kind == "array" and schema.get("items") is None:
        faults.required(f"{path}.items", "must be specified")
    if (schema.get("properties") or schema.get("additionalProperties") is not None) and kind not in ("object", None):
        faults.invalid(f"{path}.type", kind, "must be object if properties or additionalProperties are specified")


def _check_extensions(schema: Schema, path: str, faults: Faults) -> None:
    kind, list_type = schema.get("type"), schema.get("x-kubernetes-list-type")
    keys = schema.get("x-kubernetes-list-map-keys") or []
    if schema.get(PRESERVES) is False:
        faults.invalid(f"{path}.{PRESERVES}", False, "must be true or undefined")
    if schema.get(EMBEDDED) and kind != "object":
        faults.invalid(f"{path}.type", kind or "", "must be object if x-kubernetes-embedded-resource is true")
    if schema.get(EMBEDDED) and not schema.get("properties") and not schema.get(PRESERVES):
        faults.required(
            f"{path}.properties",
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        )
    if list_type is not None:
        if kind != "array":
            faults.invalid(f"{path}.type", kind or "", "must be array if x-kubernetes-list-type is specified")
        if list_type not in ("atomic", "set", "map"):
            faults.not_supported(f"{path}.x-kubernetes-list-type", list_type, ("atomic", "map", "set"))
    if list_type == "map":
        _check_map_keys(schema, keys, path, faults)
    elif keys:
        faults.forbidden(
            f"{path}.x-kubernetes-list-map-keys", "must only be specified if x-kubernetes-list-type is map"
        )
    map_type = schema.get("x-kubernetes-map-type")
    if map_type is not None:
        if kind != "object":
            faults.invalid(f"{path}.type", kind or "", "must be object if x-kubernetes-map-type is specified")
        if map_type not in ("atomic", "granular"):
            faults.not_supported(f"{path}.x-kubernetes-map-type", map_type, ("atomic", "granular"))


def _check_map_keys(schema: Schema, keys: list[str], path: str, faults: Faults) -> None:
    if not keys:
        text = "must not be empty if x-kubernetes-list-type is map"
        faults.required(f"{path}.x-kubernetes-list-map-keys", text)
    items = schema.get("items")
    if not isinstance(items, dict) or items.get("type") != "object":
        faults.invalid(f"{path}.items.type", (items or {}).get("type") or "" if isinstance(items, dict) else "",
                       "must be object if parent array's x-kubernetes-list-type is map")  # fmt: skip
        return
    fields: dict[str, Any] = items.get("properties") or {}
    for index, key in enumerate(keys):
        if key not in fields:
            text = "entries must all be names of item properties"
            faults.invalid(f"{path}.x-kubernetes-list-map-keys[{index}]", key, text)
        elif fields[key].get("default") is None and key not in (items.get("required") or ()):
            text = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"
            faults.required(f"{path}.items.properties[{key}].default", text)


def _check_default(schema: Schema, path: str, faults: Faults) -> None:
    if "default" not in schema or schema["default"] is None:
        return
    value = copy_json(schema["default"])
    if cut := prune(value, schema, is_root=False):
        faults.invalid(f"{path}.default", schema["default"], f"must not have unknown fields: {', '.join(cut)}")
    check(value, schema, f"{path}.default", faults)


def _check_junctor(part: Schema, owner: Schema, path: str, faults: Faults, depth: int) -> None:
    """A part of a junctor only restricts: what it speaks of must stand in the structure around it."""
    if depth > DEPTH_MAX:
        faults.forbidden(path, f"schemas may not be nested deeper than {DEPTH_MAX}")
        return
    for name in _STRUCTURE:
        if part.get(name) not in (None, "", False, []):
            faults.forbidden(
                f"{path}.{name}", f"must be {'undefined' if name == 'default' else 'empty'} to be structural"
            )
    known: dict[str, Schema] = owner.get("properties") or {}
    others = owner.get("additionalProperties")
    for name, inner in (part.get("properties") or {}).items():
        around = known.get(name) or (others if isinstance(others, dict) else None)
        if around is None:
            where = path.split(".openAPIV3Schema", 1)
            text = f"because it is defined in {'openAPIV3Schema' + where[-1]}.properties[{name}]"
            faults.required(f"{_owner_path(path)}.properties[{name}]", text)
            continue
        _check_junctor(inner, around, f"{path}.properties[{name}]", faults, depth + 1)
    if isinstance(items := part.get("items"), dict) and isinstance(owner.get("items"), dict):
        _check_junctor(items, owner["items"], f"{path}.items", faults, depth + 1)
    for name in ("allOf", "anyOf", "oneOf"):
        for index, inner in enumerate(part.get(name) or ()):
            _check_junctor(inner, owner, f"{path}.{name}[{index}]", faults, depth + 1)
    if isinstance(refused := part.get("not"), dict):
        _check_junctor(refused, owner, f"{path}.not", faults, depth + 1)


def _owner_path(path: str) -> str:
    """Return the path of the structure that a junctor stands in."""
    for word in (".allOf[", ".anyOf[", ".oneOf[", ".not"):
        path = path.split(word, 1)[0]
    return path
