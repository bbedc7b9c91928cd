r"""Kubernetes' protobuf encoding of objects, by the tables of field numbers.

A body is the magic ``k8s\\0`` and a runtime.Unknown, which names apiVersion and kind and holds the object's message.
Kubernetes' encoder writes zero values of fields that are no pointers; decoding drops them as a JSON round trip would,
because what comes out passes through `control.api.decode` like any other object.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import orjson

from control.api import schema
from control.api.meta import Object
from control.api.protobuf_encoding import MAGIC
from control.api.protobuf_leaves import LEAVES, WIRE_VARINT, first_bytes, read_fields, tag

DEPTH_MAX = 64
"""Nested messages deeper than this are refused; only a schema of a custom resource comes near it."""

Value = int | bytes
Decode = Callable[[Value, int], Any]


class ProtobufError(ValueError):
    """The bytes are not a message of the kind that they claim to be."""


def decode_body(body: bytes) -> Object:
    """Return the object in a request body, as JSON-shaped as a client would have sent it; raises ProtobufError."""
    if not body.startswith(MAGIC):
        raise ProtobufError(f"provided data does not appear to be a protobuf message, expected prefix {list(MAGIC)}")
    try:
        type_meta, raw = _envelope(body[len(MAGIC) :])
        group, _, version = type_meta["apiVersion"].rpartition("/")
        found = schema.find(group, version, type_meta["kind"])
        if found is None:
            raise ProtobufError(f'no kind "{type_meta["kind"]}" is registered for version "{type_meta["apiVersion"]}"')
        return {**type_meta, **_decode_message(raw, found.name, 0)}
    except (IndexError, UnicodeDecodeError, struct.error, TypeError, AttributeError, orjson.JSONDecodeError) as error:
        # Every way in which wrong bytes can fail to be read ends here; the text is for the client's log.
        raise ProtobufError(f"proto: cannot decode: {error}") from error


def _envelope(data: bytes) -> tuple[dict[str, str], bytes]:
    type_meta = {"apiVersion": "", "kind": ""}
    raw = b""
    for number, value in read_fields(data):
        if number == 1 and isinstance(value, bytes):
            for inner, text in read_fields(value):
                if inner in (1, 2) and isinstance(text, bytes):
                    type_meta["apiVersion" if inner == 1 else "kind"] = text.decode()
        elif number == 2 and isinstance(value, bytes):
            raw = value
    return type_meta, raw


def _decode_message(data: bytes, name: str, depth: int) -> dict[str, Any]:
    if depth > DEPTH_MAX:
        raise ProtobufError("proto: exceeded max depth")
    plan = _decode_plan(name)
    result: dict[str, Any] = {}
    for number, value in read_fields(data):
        step = plan.get(number)
        if step is None:
            continue
        field, shape, convert = step
        if shape == "inline":
            result.update(convert(value, depth))
        elif shape == "one":
            result[field] = convert(value, depth)
        elif shape == "list":
            items = result.setdefault(field, [])
            items.extend(
                _unpacked(value) if convert is _varint and isinstance(value, bytes) else [convert(value, depth)]
            )
        else:
            key, item = convert(value, depth)
            result.setdefault(field, {})[key] = item
    return result


def _varint(value: Value, depth: int) -> Any:
    return LEAVES["int64"].decode(value)


def _unpacked(data: bytes) -> list[Any]:
    """Return a packed list's numbers: proto2 encoders write them one by one, proto3 ones together."""
    rest = b"".join(tag(1, WIRE_VARINT) + part for part in _varints(data))
    return [LEAVES["int64"].decode(value) for _, value in read_fields(rest)]


def _varints(data: bytes) -> Iterator[bytes]:
    start = 0
    for index, byte in enumerate(data):
        if byte < 0x80:
            yield data[start : index + 1]
            start = index + 1


@cache
def _decode_plan(name: str) -> dict[int, tuple[str, str, Callable[..., Any]]]:
    found = schema.definition(name)
    plan: dict[int, tuple[str, str, Callable[..., Any]]] = {}
    for number, base in found.inlined.items():
        plan[number] = ("", "inline", _message_decoder(base))
    for number, field in found.numbers.items():
        kind = field.type
        if kind.startswith("[]"):
            plan[number] = (field.name, "list", _decoder(schema.element(kind)))
        elif kind.startswith("{}"):
            plan[number] = (field.name, "map", _entry_decoder(schema.element(kind)))
        else:
            plan[number] = (field.name, "one", _decoder(kind))
    return plan


def _decoder(kind: str) -> Decode:
    if schema.is_reference(kind):
        found = schema.definition(kind)
        if not found.scalar:
            return _message_decoder(kind)
        kind = found.scalar
    if kind in ("int32", "int64"):
        return _varint
    if kind in _SCHEMA_UNIONS:
        return _SCHEMA_UNIONS[kind]
    if kind == "RawExtension":
        return _raw_extension
    leaf = LEAVES[kind]
    return lambda value, depth: leaf.decode(value)


def _raw_extension(value: Value, depth: int) -> Any:
    """Return the object inside a RawExtension: JSON, or a body of this encoding."""
    raw = first_bytes(value) if isinstance(value, bytes) else b""
    if raw.startswith(MAGIC):
        return decode_body(raw)
    return orjson.loads(raw) if raw else None


def _message_decoder(name: str) -> Decode:
    def decode(value: Value, depth: int) -> Any:
        if not isinstance(value, bytes):
            raise ProtobufError(f"proto: wrong wireType for {name}")
        return _decode_message(value, name, depth + 1)

    return decode


def _entry_decoder(kind: str) -> Callable[[Value, int], tuple[str, Any]]:
    inner = _list_decoder(kind) if kind.startswith("[]") else _decoder(kind)
    zero: Any = {"string": "", "bytes": ""}.get(kind, {})

    def decode(value: Value, depth: int) -> tuple[str, Any]:
        key, item = "", zero
        assert isinstance(value, bytes)
        for number, part in read_fields(value):
            if number == 1 and isinstance(part, bytes):
                key = part.decode()
            elif number == 2:
                item = inner(part, depth)
        return key, item

    return decode


def _list_decoder(kind: str) -> Decode:
    inner = _decoder(schema.element(kind))

    def decode(value: Value, depth: int) -> Any:
        assert isinstance(value, bytes)
        return [inner(part, depth) for number, part in read_fields(value) if number == 1]

    return decode


_SCHEMA = "apiextensions.v1.JSONSchemaProps"


def _schema_or_array(value: Value, depth: int) -> Any:
    assert isinstance(value, bytes)
    items = list(read_fields(value))
    found = {
        wanted: [
            _decode_message(part, _SCHEMA, depth + 1)
            for number, part in items
            if number == wanted and isinstance(part, bytes)
        ]
        for wanted in (1, 2)
    }
    return found[2] or (found[1][0] if found[1] else None)


def _schema_or_bool(value: Value, depth: int) -> Any:
    assert isinstance(value, bytes)
    parts = dict(read_fields(value))
    found = parts.get(2)
    return _decode_message(found, _SCHEMA, depth + 1) if isinstance(found, bytes) else bool(parts.get(1))


def _schema_or_strings(value: Value, depth: int) -> Any:
    assert isinstance(value, bytes)
    items = list(read_fields(value))
    single = next((part for number, part in items if number == 1), None)
    if isinstance(single, bytes):
        return _decode_message(single, _SCHEMA, depth + 1)
    return [part.decode() for number, part in items if number == 2 and isinstance(part, bytes)]


_SCHEMA_UNIONS: dict[str, Decode] = {
    "JSONSchemaPropsOrArray": _schema_or_array,
    "JSONSchemaPropsOrBool": _schema_or_bool,
    "JSONSchemaPropsOrStringArray": _schema_or_strings,
}
