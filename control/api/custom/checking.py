"""Find what is wrong with a value by its OpenAPI v3 schema, in the words of Kubernetes' validator.

Types, formats, bounds, patterns, enumerations, required fields, the junctors (allOf, anyOf, oneOf, not), and the
uniqueness that list types ask for.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from datetime import date, datetime
from typing import Any
from urllib.parse import urlsplit

from control.api.custom import patterns
from control.api.custom.pruning import Schema
from control.api.validation.faults import Faults, shown

_GO_TYPES = {"str": "string", "bool": "boolean", "int": "integer", "float": "number", "dict": "object", "list": "array"}


def check(value: Any, schema: Schema, path: str, faults: Faults) -> None:
    """Add a fault for everything at and below ``path`` that the schema forbids."""
    if value is None:
        if not schema.get("nullable") and not _is_open(schema):
            _wrong_type(path, _types(schema) or "object", "null", faults)
        return
    if not _has_type(value, schema):
        _wrong_type(path, _types(schema), _GO_TYPES[type(value).__name__], faults)
        return
    _check_enum(value, schema, path, faults)
    if isinstance(value, str):
        _check_text(value, schema, path, faults)
    elif isinstance(value, list):
        _check_list(value, schema, path, faults)
    elif isinstance(value, dict):
        _check_fields(value, schema, path, faults)
    elif not isinstance(value, bool):
        _check_number(value, schema, path, faults)
    _check_junctors(value, schema, path, faults)


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
                isinstance(value, int) or (isinstance(value, float) and value.is_integer())
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
    bits = {"int32": 31, "int64": 63}.get(schema.get("format") or "")
    if bits and not -(1 << bits) <= value < 1 << bits:
        faults.invalid(path, value, f"{path} in body must be of type {schema['format']}: {shown(value)}")


def _check_text(value: str, schema: Schema, path: str, faults: Faults) -> None:
    maximum, minimum = schema.get("maxLength"), schema.get("minLength")
    if maximum is not None and len(value) > maximum:
        faults.too_long(path, maximum)
    if minimum is not None and len(value) < minimum:
        faults.invalid(path, value, f"{path} in body should be at least {minimum} chars long")
    if (pattern := schema.get("pattern")) and not patterns.found(pattern, value):
        faults.invalid(path, value, f"{path} in body should match '{pattern}'")
    known = FORMATS.get((schema.get("format") or "").replace("-", ""))
    if known is not None and not known(value):
        faults.invalid(path, value, f"{path} in body must be of type {schema['format']}: {shown(value)}")


def _check_list(value: list[Any], schema: Schema, path: str, faults: Faults) -> None:
    maximum, minimum = schema.get("maxItems"), schema.get("minItems")
    if maximum is not None and len(value) > maximum:
        faults.too_many(path, len(value), maximum)
    if minimum is not None and len(value) < minimum:
        faults.invalid(path, len(value), f"{path} in body should have at least {minimum} items")
    if isinstance(items := schema.get("items"), dict):
        for index, item in enumerate(value):
            check(item, items, f"{path}[{index}]", faults)


def _check_fields(value: dict[str, Any], schema: Schema, path: str, faults: Faults) -> None:
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
    for name, item in value.items():
        if name in properties:
            if item is not None or properties[name].get("nullable") or name in (schema.get("required") or ()):
                check(item, properties[name], _below(path, name), faults)
        elif isinstance(others, dict):
            check(item, others, _below(path, name), faults)


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _holds(value: Any, schema: Schema, path: str) -> bool:
    found = Faults()
    check(value, schema, path, found)
    return not found


def _check_junctors(value: Any, schema: Schema, path: str, faults: Faults) -> None:
    for part in schema.get("allOf") or ():
        check(value, part, path, faults)
    named = f'"{path}"'
    if (choices := schema.get("anyOf")) and not any(_holds(value, part, path) for part in choices):
        faults.invalid(path, _abridged(value), f"{named} must validate at least one schema (anyOf)")
    if choices := schema.get("oneOf"):
        valid = sum(_holds(value, part, path) for part in choices)
        if valid != 1:
            found = f"Found {valid} valid alternatives" if valid else "Found none valid"
            faults.invalid(path, _abridged(value), f"{named} must validate one and only one schema (oneOf). {found}")
    if (refused := schema.get("not")) is not None and _holds(value, refused, path):
        faults.invalid(path, _abridged(value), f"{named} must not validate the schema (not)")


def _abridged(value: Any) -> Any:
    return _GO_TYPES[type(value).__name__] if isinstance(value, dict | list) else value


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
    seen: set[str] = set()
    keys = schema.get("x-kubernetes-list-map-keys") or ()
    fields: dict[str, Schema] = items.get("properties") or {}
    for index, item in enumerate(value):
        told = item
        if schema["x-kubernetes-list-type"] == "map" and isinstance(item, dict):
            told = {key: item.get(key, fields.get(key, {}).get("default")) for key in keys}
        text = shown(told)
        if text in seen:
            faults.duplicate(f"{path}[{index}]", told)
        seen.add(text)


# Formats that Kubernetes checks; others are taken as they come.


def _parses(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def parsed(text: str) -> bool:
        try:
            parse(text)
        except (ValueError, binascii.Error):
            return False
        return True

    return parsed


def _date_time(text: str) -> object:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", text):
        raise ValueError(text)
    return datetime.fromisoformat(text.upper())


def _address(version: int) -> Callable[[str], object]:
    def parse(text: str) -> object:
        found = ipaddress.ip_address(text)
        if found.version != version:
            raise ValueError(text)
        return found

    return parse


def _uri(text: str) -> object:
    if not urlsplit(text).scheme:
        raise ValueError(text)
    return text


def _form(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda text: compiled.fullmatch(text) is not None


_UUID = "[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?%s-?%s-?[0-9a-fA-F]{12}"
_ANY, _VARIANT = "[0-9a-fA-F]{4}", "[89abAB][0-9a-fA-F]{3}"
_LENGTH = r"(\d+(\.\d*)?|\.\d+)\s*(ns|us|µs|μs|ms|s|m|h|d|w)"
_HOST_LABEL = "[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
FORMATS: dict[str, Callable[[str], bool]] = {
    "byte": _parses(lambda text: base64.b64decode(text, validate=True)),
    "date": _parses(date.fromisoformat),
    "datetime": _parses(_date_time),
    "duration": _form(
        r"[+-]?(\d+(\.\d*)?|\.\d+)\s*(ns|us|µs|μs|ms|s|m|h|d|w)(\s*(\d+(\.\d*)?)\s*(ns|us|µs|ms|s|m|h|d|w))*|0"
    ),
    "email": _form(r"[^@\s<>]+@[^@\s<>]+"),
    "hostname": _form(rf"{_HOST_LABEL}(\.{_HOST_LABEL})*\.?"),
    "ipv4": _parses(_address(4)),
    "ipv6": _parses(_address(6)),
    "cidr": _parses(lambda text: ipaddress.ip_interface(text) if "/" in text else int("")),
    "mac": _form("([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}"),
    "uri": _parses(_uri),
    "uuid": _form(_UUID % (_ANY, _ANY)),
    "uuid3": _form(_UUID % ("3[0-9a-fA-F]{3}", _ANY)),
    "uuid4": _form(_UUID % ("4[0-9a-fA-F]{3}", _VARIANT)),
    "uuid5": _form(_UUID % ("5[0-9a-fA-F]{3}", _VARIANT)),
    "hexcolor": _form("#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})"),
    "rgbcolor": _form(r"rgb\(\s*\d{1,3}\s*,\s*\d{1,3}\s*,\s*\d{1,3}\s*\)"),
    "isbn10": _form("(?:[0-9]{9}X|[0-9]{10})"),
    "isbn13": _form("(?:[0-9]{13})"),
    "ssn": _form(r"\d{3}[- ]?\d{2}[- ]?\d{4}"),
}
"""By name without hyphens, as Kubernetes compares them."""
