"""From what a client sent to an object as Kubernetes keeps it.

Unknown fields are cut and told of, types are checked with the texts of Kubernetes' decoder, and what a round trip
through Kubernetes' types would drop is dropped: nulls, and zero values of fields for which zero means absent.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import orjson

from control.api import quantity, schema, status
from control.api.meta import Object
from control.api.times import TimeError, canonical_time

FieldValidation = Literal["Strict", "Warn", "Ignore"]
Walk = Callable[[Any, str, "Report"], Any]
"""(value, path, report) → the value as it is kept, or DROP."""


class DecodeError(ValueError):
    """A value has a type that its field cannot hold; the text is that of Kubernetes' decoder."""


class Report:
    """Collects what strict decoding objects to."""

    __slots__ = ("faults",)

    def __init__(self) -> None:
        self.faults: list[str] = []

    def unknown(self, path: str) -> None:
        """Note a field that the definition lacks."""
        self.faults.append(f'unknown field "{path}"')


_GO_WORDS = {"str": "string", "bool": "bool", "int": "number", "float": "number", "dict": "object", "list": "array"}
_LIMITS = {"int32": 1 << 31, "int64": 1 << 63}


def _go_type(kind: str) -> str:
    """Return the Go spelling of a type, as error texts show it."""
    if kind.startswith("[]"):
        return "[]" + _go_type(kind[2:])
    if kind.startswith("{}"):
        return "map[string]" + _go_type(kind[2:])
    if schema.is_reference(kind):
        return kind.split(".", 1)[1]
    return {"bytes": "[]uint8", "StringList": "[]string", "FieldsV1": "v1.FieldsV1"}.get(kind, kind)


def _mismatch(value: Any, owner: str, path: str, kind: str, detail: str = "") -> DecodeError:
    word = _GO_WORDS.get(type(value).__name__, "null") + detail
    plain = "".join(part.split("]", 1)[-1] for part in path.split("["))
    about = f"Go struct field {owner}.{plain}" if plain else "Go value"
    return DecodeError(f"json: cannot unmarshal {word} into {about} of type {_go_type(kind)}")


def _string(value: Any, owner: str, path: str, kind: str) -> Any:
    if not isinstance(value, str):
        raise _mismatch(value, owner, path, kind)
    return value


def _boolean(value: Any, owner: str, path: str, kind: str) -> Any:
    if not isinstance(value, bool):
        raise _mismatch(value, owner, path, kind)
    return value


def _integer(value: Any, owner: str, path: str, kind: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _mismatch(value, owner, path, kind)
    word = kind if kind in _LIMITS else "int32"
    if int(value) != value or not -_LIMITS[word] <= value < _LIMITS[word]:
        raise _mismatch(value, owner, path, kind, f" {value}")
    return int(value)


def _float(value: Any, owner: str, path: str, kind: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _mismatch(value, owner, path, kind)
    return value


def _bytes(value: Any, owner: str, path: str, kind: str) -> Any:
    _string(value, owner, path, kind)
    try:
        decoded = base64.b64decode(value.replace("\n", "").replace("\r", ""), validate=True)
    except (binascii.Error, ValueError):
        raise DecodeError(f"illegal base64 data at input byte {_bad_base64_at(value)}") from None
    return base64.b64encode(decoded).decode()


def _bad_base64_at(text: str) -> int:
    for index, letter in enumerate(text):
        if not (letter.isascii() and (letter.isalnum() or letter in "+/=\r\n")):
            return index
    return max(len(text) - len(text) % 4, 0)


def _quantity(value: Any, owner: str, path: str, kind: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DecodeError(quantity.WRONG)
    try:
        return quantity.canonical(str(value).strip())
    except quantity.QuantityError as error:
        raise DecodeError(str(error)) from None


def _time(value: Any, owner: str, path: str, kind: str) -> Any:
    if not isinstance(value, str):
        raise DecodeError(f"json: cannot unmarshal {_GO_WORDS[type(value).__name__]} into Go value of type string")
    try:
        return canonical_time(value, micro=kind == "MicroTime")
    except TimeError as error:
        raise DecodeError(str(error)) from None


def _int_or_string(value: Any, owner: str, path: str, kind: str) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise DecodeError(f"json: cannot unmarshal {_GO_WORDS[type(value).__name__]} into Go value of type int32")
    return value


def _anything(value: Any, owner: str, path: str, kind: str) -> Any:
    return value


def _string_list(value: Any, owner: str, path: str, kind: str) -> Any:
    if not isinstance(value, list):
        raise _mismatch(value, owner, path, kind)
    return [_string(item, owner, path, "string") for item in value]


_LEAVES: dict[str, Callable[[Any, str, str, str], Any]] = {
    "string": _string,
    "bool": _boolean,
    "int32": _integer,
    "int64": _integer,
    "float64": _float,
    "double": _float,
    "bytes": _bytes,
    "Quantity": _quantity,
    "Time": _time,
    "MicroTime": _time,
    "Duration": _string,
    "IntOrString": _int_or_string,
    "StringList": _string_list,
    "RawExtension": _anything,
    "FieldsV1": _anything,
    "JSON": _anything,
    "JSONSchemaPropsOrArray": _anything,
    "JSONSchemaPropsOrBool": _anything,
    "JSONSchemaPropsOrStringArray": _anything,
}
_ZEROES: dict[str, Any] = {"string": "", "bool": False, "int32": 0, "int64": 0, "Quantity": "0", "IntOrString": 0}
_EXACT: dict[str, type] = {"string": str, "bool": bool}
"""Kinds of which a value of the right type needs no further look."""


def _compile(kind: str, owner: str) -> Walk:
    if kind.startswith("[]"):
        return _compile_list(kind, owner)
    if kind.startswith("{}"):
        return _compile_map(kind, owner)
    if schema.is_reference(kind):
        found = schema.definition(kind)
        if not found.scalar:
            return _compile_structure(kind, owner)
        leaf = _LEAVES[found.scalar]
    else:
        leaf = _LEAVES[kind]
    return lambda value, path, report: leaf(value, owner, path, kind)


def _compile_structure(kind: str, owner: str) -> Walk:
    def walk(value: Any, path: str, report: Report) -> Any:
        if not isinstance(value, dict):
            raise _mismatch(value, owner, path, kind)
        # Definitions refer to themselves (JSONSchemaProps), so the walk is looked up when it runs.
        return _walk(kind)(value, path, report)

    return walk


def _compile_list(kind: str, owner: str) -> Walk:
    inner = _compile(schema.element(kind), owner)
    zero, exact = _ZEROES.get(schema.element(kind), {}), _EXACT.get(schema.element(kind))

    def walk(value: Any, path: str, report: Report) -> Any:
        if not isinstance(value, list):
            raise _mismatch(value, owner, path, kind)
        if exact is not None and all(type(item) is exact for item in value):
            return list(value)
        return [zero if item is None else inner(item, f"{path}[{index}]", report) for index, item in enumerate(value)]

    return walk


def _compile_map(kind: str, owner: str) -> Walk:
    inner = _compile(schema.element(kind), owner)
    zero, exact = _ZEROES.get(schema.element(kind), {}), _EXACT.get(schema.element(kind))
    # Wrong types are told of the map as a whole; only what is unknown inside of values is told with its key.
    keyed = schema.resolve(schema.element(kind)) is not None

    def walk(value: Any, path: str, report: Report) -> Any:
        if not isinstance(value, dict):
            raise _mismatch(value, owner, path, kind)
        if exact is not None and all(type(item) is exact for item in value.values()):
            return dict(value)
        return {
            key: zero if item is None else inner(item, f"{path}.{key}" if path and keyed else path or key, report)
            for key, item in value.items()
        }

    return walk


@cache
def _walk(name: str) -> Walk:
    found = schema.definition(name)
    fields = {
        field.name: (_compile(field.type, found.kind), schema.drops_zero(field), _EXACT.get(field.type))
        for field in found.fields.values()
    }

    def walk(value: Any, path: str, report: Report) -> Any:
        prefix = path + "." if path else ""
        kept = {}
        for key, item in value.items():
            known = fields.get(key)
            if known is None:
                report.unknown(prefix + key)
            elif item is not None:
                checked = item if type(item) is known[2] else known[0](item, prefix + key, report)
                if checked or not known[1]:
                    kept[key] = checked
        return kept

    return walk


def clean(value: Any, definition_name: str) -> tuple[Object, list[str]]:
    """Return the value as the definition keeps it, and strict decoding's faults; raises DecodeError."""
    report = Report()
    if not isinstance(value, dict):
        raise _mismatch(value, "", "", definition_name)
    kept: Object = _walk(definition_name)(value, "", report)
    return kept, report.faults


_FIELD = re.compile(rb'"[ \t\r\n]*:')


def _count_fields(value: Any) -> int:
    """Return how many fields all objects in a JSON value have together."""
    count, waiting = 0, [value]
    for item in waiting:
        if type(item) is dict:
            count += len(item)
            waiting.extend(item.values())
        elif type(item) is list:
            waiting.extend(item)
    return count


def duplicate_fields(body: bytes, value: Any = None) -> list[str]:
    """Return a fault for each field that stands twice in a JSON document that orjson takes."""
    # Every field has a quote and a colon; where no more of these are than distinct fields, none stands twice.
    if len(_FIELD.findall(body)) == _count_fields(orjson.loads(body) if value is None else value):
        return []
    found: list[tuple[str, ...]] = []

    class Marked(dict[str, Any]):
        repeated: tuple[str, ...] = ()

    def hook(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = Marked(pairs)
        if len(made) != len(pairs):
            made.repeated = _repeated(pairs)
            found.append(made.repeated)
        return made

    document = json.loads(body, object_pairs_hook=hook)
    faults: list[str] = []
    if found:
        _tell_duplicates(document, "", faults)
    return faults


def _repeated(pairs: list[tuple[str, Any]]) -> tuple[str, ...]:
    names = [name for name, _ in pairs]
    return tuple(name for index, name in enumerate(names) if name in names[:index])


def _tell_duplicates(value: Any, path: str, faults: list[str]) -> None:
    if isinstance(value, dict):
        prefix = path + "." if path else ""
        faults.extend(f'duplicate field "{prefix}{key}"' for key in getattr(value, "repeated", ()))
        for key, item in value.items():
            _tell_duplicates(item, prefix + key, faults)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _tell_duplicates(item, f"{path}[{index}]", faults)


def parse_json(body: bytes, kind: str) -> Object:
    """Parse a JSON body that must be an object; raises ApiError as Kubernetes words it."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        shown = body[:30].decode("utf-8", "replace") + (" ..." if len(body) > 30 else "")
        text = f"couldn't get version/kind; json parse error: {error}"
        raise status.bad_request(f"{_unrecognized(kind)}: {text} ({shown})") from None
    if not isinstance(value, dict):
        word = _GO_WORDS.get(type(value).__name__, "null")
        text = f"couldn't get version/kind; json parse error: json: cannot unmarshal {word} into Go value"
        raise status.bad_request(f"{_unrecognized(kind)}: {text}")
    return value


def _unrecognized(kind: str) -> str:
    return f"the object provided is unrecognized (must be of type {kind})"


def decode(
    value: Object,
    group: str,
    version: str,
    kind: str,
    field_validation: FieldValidation = "Warn",
    duplicates: list[str] | None = None,
    patch: Any = None,
) -> tuple[Object, list[str]]:
    """Return the object and the warnings to send; raises ApiError for what cannot be taken.

    ``kind`` is the one that the path expects; a missing apiVersion or kind is filled in.  Faults are a bad request
    (400), or, where the value is what ``patch`` made of a stored object, an invalid patch (422).
    """
    api_version = f"{group}/{version}" if group else version
    sent_version, sent_kind = value.get("apiVersion") or api_version, value.get("kind") or kind
    if sent_version != api_version:
        raise status.bad_request(
            f"the API version in the data ({sent_version}) does not match the expected API version ({api_version})"
        )
    about = f'{sent_kind} in version "{version}" cannot be handled as a {kind}'
    if sent_kind != kind:
        raise status.bad_request(f"{about}: converting ({version}.{sent_kind}) to ({kind}): unknown conversion")
    found = schema.find(group, version, kind)
    if found is None:
        return {"apiVersion": api_version, "kind": kind, **value}, []
    try:
        kept, faults = clean(value, found.name)
    except DecodeError as error:
        raise _refusal(about, str(error), patch) from None
    faults = (duplicates or []) + faults
    if faults and field_validation == "Strict":
        raise _refusal(about, f"strict decoding error: {', '.join(faults)}", patch)
    kept["apiVersion"], kept["kind"] = api_version, kind
    return kept, faults if field_validation == "Warn" else []


def _refusal(about: str, fault: str, patch: Any) -> status.ApiError:
    if patch is None:
        return status.bad_request(f"{about}: {fault}")
    message = f"Invalid value: {json.dumps(go_text(patch), ensure_ascii=False)}: {fault}"
    return status.invalid("", "", [status.Cause("FieldValueInvalid", message, "patch")])


def go_text(value: Any) -> str:
    """Return a value as Go prints it: ``map[a:1 b:[x y]]``."""
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{go_text(item)}" for key, item in sorted(value.items())) + "]"
    if isinstance(value, list):
        return "[" + " ".join(go_text(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "<nil>" if value is None else str(value)


def decode_json(
    body: bytes, group: str, version: str, kind: str, field_validation: FieldValidation = "Warn"
) -> tuple[Object, list[str]]:
    """Decode a JSON body; see `decode`."""
    value = parse_json(body, kind)
    duplicates = [] if field_validation == "Ignore" else duplicate_fields(body)
    return decode(value, group, version, kind, field_validation, duplicates)
