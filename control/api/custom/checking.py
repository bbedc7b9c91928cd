"""Find what is wrong with a value by its OpenAPI v3 schema, in the words of Kubernetes' validator.

Types, formats, bounds, patterns, enumerations, required fields, the junctors (allOf, anyOf, oneOf, not), and the
uniqueness that list types ask for.
"""

from __future__ import annotations

from typing import Any

from control.api.custom import patterns
from control.api.custom.formats import FORMATS
from control.api.custom.pruning import Schema
from control.api.validation.faults import Faults, shown

ABSENT: Any = object()
"""Stands for the old value where there is none to compare with."""
NOWHERE = "<nil>"
"""The field of faults that Kubernetes' validator has no path for."""
_BITS = {"int32": 31, "int64": 63}
_FLOAT_MAX = 3.4028234663852886e38
_GO_TYPES = {"str": "string", "bool": "boolean", "int": "integer", "float": "number", "dict": "object", "list": "array"}


def check(value: Any, schema: Schema, path: str, faults: Faults, old: Any = ABSENT) -> None:
    """Add a fault for everything at and below ``path`` that the schema forbids, beside what stood in ``old``."""
    if old is not ABSENT and value == old and type(value) is type(old):
        # What a stricter schema would refuse may stay while nobody touches it.
        return
    if value is None:
        if not schema.get("nullable") and not _is_open(schema):
            _wrong_type(path, _types(schema) or "object", "null", faults)
        return
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        # JSON's larger numbers are floats to Go.
        value = float(value)
    if not _has_type(value, schema):
        _wrong_type(path, *_types_told(value, schema), faults)
    _check_enum(value, schema, path, faults)
    if isinstance(value, str):
        _check_text(value, schema, path, faults)
    elif isinstance(value, list):
        _check_list(value, schema, path, faults, old)
    elif isinstance(value, dict):
        _check_fields(value, schema, path, faults, old)
    elif not isinstance(value, bool):
        _check_number(value, schema, path, faults)
    _check_junctors(value, schema, path, faults)


def _types_told(value: Any, schema: Schema) -> tuple[str, str]:
    form = schema.get("format")
    if isinstance(value, float) and schema.get("type") == "integer" and form in _BITS:
        return form, "float64"
    return _types(schema), _GO_TYPES[type(value).__name__]


def _is_open(schema: Schema) -> bool:
    """Tell whether a schema says nothing of types: null is a value there like any other."""
    return "type" not in schema and not schema.get("x-kubernetes-int-or-string")


def _types(schema: Schema) -> str:
    return "integer,string" if schema.get("x-kubernetes-int-or-string") else schema.get("type") or ""


def _has_type(value: Any, schema: Schema) -> bool:
    if schema.get("x-kubernetes-int-or-string"):
        return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))
    match schema.get("type"):
        case None | "":
            return True
        case "integer":
            return not isinstance(value, bool) and (
                isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) < 1 << 63)
            )
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case wanted:
            return bool(_GO_TYPES[type(value).__name__] == wanted)


def _wrong_type(path: str, wanted: str, found: str, faults: Faults) -> None:
    detail = f'{path} in body must be of type {wanted}: "{found}"'
    faults.type_invalid(path, found, detail)


def _check_enum(value: Any, schema: Schema, path: str, faults: Faults) -> None:
    choices = schema.get("enum")
    if choices and not any(value == choice and type(value) is type(choice) for choice in choices):
        texts = [choice if isinstance(choice, str) else shown(choice) for choice in choices]
        faults.not_supported(path, value, texts)


def _check_number(value: float, schema: Schema, path: str, faults: Faults) -> None:
    maximum, minimum, step = schema.get("maximum"), schema.get("minimum"), schema.get("multipleOf")
    if maximum is not None:
        if schema.get("exclusiveMaximum"):
            if value >= maximum:
                faults.invalid(path, value, f"{path} in body should be less than {shown(maximum)}")
        elif value > maximum:
            faults.invalid(path, value, f"{path} in body should be less than or equal to {shown(maximum)}")
    if minimum is not None:
        if schema.get("exclusiveMinimum"):
            if value <= minimum:
                faults.invalid(path, value, f"{path} in body should be greater than {shown(minimum)}")
        elif value < minimum:
            faults.invalid(path, value, f"{path} in body should be greater than or equal to {shown(minimum)}")
    if step and abs(value / step - round(value / step)) > 1e-9:
        faults.invalid(path, value, f"{path} in body should be a multiple of {shown(step)}")
    _check_range(value, schema, path, faults)


def _check_range(value: float, schema: Schema, path: str, faults: Faults) -> None:
    kind, form = schema.get("type"), schema.get("format") or ""
    if kind == "integer":
        bits = _BITS.get(form, 63)
        fits = value == int(value) and -(1 << bits) <= value < 1 << bits
        told = f"format {form}" if form in _BITS else "(default format)"
    else:
        fits = kind != "number" or form != "float" or abs(value) <= _FLOAT_MAX
        told = f"format {form}"
    if not fits:
        with_ = "" if told.startswith("(") else "with "
        faults.invalid(NOWHERE, "", f"Checked value must be of type {kind} {with_}{told} in {path}")


def _check_text(value: str, schema: Schema, path: str, faults: Faults) -> None:
    maximum, minimum = schema.get("maxLength"), schema.get("minLength")
    if maximum is not None and len(value) > maximum:
        faults.too_long(path, maximum)
    elif minimum is not None and len(value) < minimum:
        faults.invalid(path, value, f"{path} in body should be at least {minimum} chars long")
    elif (pattern := schema.get("pattern")) and not patterns.found(pattern, value):
        faults.invalid(path, value, f"{path} in body should match '{pattern}'")
    known = FORMATS.get((schema.get("format") or "").replace("-", ""))
    if known is not None and schema.get("type") == "string" and not known(value):
        _wrong_type(path, schema["format"], value, faults)


def _check_list(value: list[Any], schema: Schema, path: str, faults: Faults, old: Any) -> None:
    maximum, minimum = schema.get("maxItems"), schema.get("minItems")
    if maximum is not None and len(value) > maximum:
        faults.too_many(path, len(value), maximum)
    if minimum is not None and len(value) < minimum:
        faults.invalid(path, len(value), f"{path} in body should have at least {minimum} items")
    if isinstance(items := schema.get("items"), dict):
        before = _by_key(old, schema)
        for index, item in enumerate(value):
            check(item, items, f"{path}[{index}]", faults, before.get(_key(item, schema), ABSENT) if before else ABSENT)


def _by_key(old: Any, schema: Schema) -> dict[str, Any]:
    """Return the items of a list that is a map, by their keys: only they can be known again."""
    if not isinstance(old, list) or schema.get("x-kubernetes-list-type") != "map":
        return {}
    return {_key(item, schema): item for item in old}


def _key(item: Any, schema: Schema) -> str:
    keys = schema.get("x-kubernetes-list-map-keys") or ()
    return shown([item.get(key) for key in keys]) if isinstance(item, dict) else ""


def _check_fields(value: dict[str, Any], schema: Schema, path: str, faults: Faults, old: Any) -> None:
    maximum, minimum = schema.get("maxProperties"), schema.get("minProperties")
    if maximum is not None and len(value) > maximum:
        faults.too_many(path, len(value), maximum)
    if minimum is not None and len(value) < minimum:
        faults.invalid(path, len(value), f"{path} in body should have at least {minimum} properties")
    for name in schema.get("required") or ():
        if name not in value:
            faults.required(_below(path, name))
    properties: dict[str, Schema] = schema.get("properties") or {}
    others = schema.get("additionalProperties")
    before = old if isinstance(old, dict) else {}
    for name, item in value.items():
        if name in properties:
            if item is not None or properties[name].get("nullable") or name in (schema.get("required") or ()):
                check(item, properties[name], _below(path, name), faults, before.get(name, ABSENT))
        elif isinstance(others, dict):
            check(item, others, _below(path, name), faults, before.get(name, ABSENT))


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _faults_of(value: Any, schema: Schema, path: str) -> Faults:
    found = Faults()
    check(value, schema, path, found)
    return found


def _check_junctors(value: Any, schema: Schema, path: str, faults: Faults) -> None:
    named = f'"{path}"'
    if parts := schema.get("allOf"):
        found = [_faults_of(value, part, path) for part in parts]
        for each in found:
            faults.causes += each.causes
        if any(found):
            none = "" if not all(found) else ". None validated"
            faults.invalid(NOWHERE, "", f"{named} must validate all the schemas (allOf){none}")
    if choices := schema.get("anyOf"):
        found = [_faults_of(value, part, path) for part in choices]
        if all(found):
            faults.invalid(NOWHERE, "", f"{named} must validate at least one schema (anyOf)")
            faults.causes += found[0].causes
    if choices := schema.get("oneOf"):
        found = [_faults_of(value, part, path) for part in choices]
        valid = sum(not each for each in found)
        if valid != 1:
            told = f"Found {valid} valid alternatives" if valid else "Found none valid"
            faults.invalid(NOWHERE, "", f"{named} must validate one and only one schema (oneOf). {told}")
            faults.causes += found[0].causes if not valid else []
    if (refused := schema.get("not")) is not None and not _faults_of(value, refused, path):
        faults.invalid(NOWHERE, "", f"{named} must not validate the schema (not)")


def check_lists(value: Any, schema: Schema, path: str, faults: Faults) -> None:
    """Add a fault for each item that stands twice in a list whose type is a set or a map."""
    if isinstance(value, list):
        kind = schema.get("x-kubernetes-list-type")
        items = schema.get("items") if isinstance(schema.get("items"), dict) else {}
        assert items is not None
        if kind in ("set", "map"):
            _check_unique(value, schema, items, path, faults)
        for index, item in enumerate(value):
            check_lists(item, items, f"{path}[{index}]", faults)
    elif isinstance(value, dict):
        properties: dict[str, Schema] = schema.get("properties") or {}
        others = schema.get("additionalProperties")
        for name, item in value.items():
            inner = properties.get(name) or (others if isinstance(others, dict) else None)
            if inner is not None:
                check_lists(item, inner, _below(path, name), faults)


def _check_unique(value: list[Any], schema: Schema, items: Schema, path: str, faults: Faults) -> None:
    seen: dict[str, int] = {}
    keys = schema.get("x-kubernetes-list-map-keys") or ()
    fields: dict[str, Schema] = items.get("properties") or {}
    for index, item in enumerate(value):
        told = item
        if schema["x-kubernetes-list-type"] == "map" and isinstance(item, dict):
            told = {key: item.get(key, fields.get(key, {}).get("default")) for key in keys}
        text = shown(told)
        seen[text] = seen.get(text, 0) + 1
        if seen[text] == 2:
            faults.duplicate(f"{path}[{index}]", told)
