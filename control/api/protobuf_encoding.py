"""Objects as Kubernetes' protobuf has them: for answers to clients that ask for it, and for bodies of our own.

What a definition says is made into a plan once: a function for each field that returns its bytes, tag and all.
Fields stand in the order in which the object holds them, which protobuf leaves free; zero values are left out, which
every decoder reads as zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson

from control.api import schema
from control.api.meta import Object
from control.api.protobuf_leaves import LEAVES, WIRE_BYTES, tag, write_varint

MAGIC = b"k8s\0"
CONTENT_TYPE = "application/vnd.kubernetes.protobuf"
FRAME_BYTES_MAX = (1 << 32) - 1

Encode = Callable[[Any], bytes]
"""Returns a value's bytes, without tag and length."""
Step = Callable[[Any], bytes]
"""Returns all bytes of one field."""

_LENGTHS = tuple(write_varint(size) for size in range(1024))


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a definition's objects are encoded."""

    steps: dict[str, Step]
    inlined: tuple[tuple[frozenset[str], Step], ...]
    """Names of fields that stand in a message of their own, and how that is encoded."""


def definition_of(api_version: str, kind: str) -> str:
    """Return the definition by which objects of a kind are encoded, empty where there is none."""
    group, _, version = api_version.rpartition("/")
    found = schema.find(group, version, kind)
    return found.name if found is not None and found.numbers else ""


def encode_body(obj: Object) -> bytes:
    """Return an object of a built-in kind as a body; raises KeyError for other kinds."""
    name = definition_of(obj["apiVersion"], obj["kind"])
    if not name:
        raise KeyError(obj["kind"])
    return encode_message(obj["apiVersion"], obj["kind"], message(obj, name))


def encode_list(api_version: str, kind: str, metadata: Object, items: Iterable[bytes]) -> bytes:
    """Return a list as a body; its items are messages already."""
    head = _bytes_field(1, message(metadata, "meta.v1.ListMeta"))
    parts = [_field(_ITEMS, item) for item in items]
    return encode_message(api_version, kind, head + b"".join(parts))


def encode_message(api_version: str, kind: str, raw: bytes) -> bytes:
    """Return a body around an object's message."""
    type_meta = _bytes_field(1, api_version.encode()) + _bytes_field(2, kind.encode())
    return b"%b%b%b" % (MAGIC, _bytes_field(1, type_meta), _bytes_field(2, raw))


def encode_event(event_type: str, body: bytes) -> bytes:
    """Return a watch's event around an object's body."""
    return _bytes_field(1, event_type.encode()) + _bytes_field(2, _bytes_field(1, body))


def frame(data: bytes) -> bytes:
    """Return one message of a stream: its length in four bytes stands before it."""
    return len(data).to_bytes(4, "big") + data


def message(value: dict[str, Any], name: str) -> bytes:
    """Return a structure's message, by its definition."""
    plan = _plan(name)
    parts: list[bytes] = []
    steps = plan.steps
    for key, item in value.items():
        if item is not None and (step := steps.get(key)) is not None:
            parts.append(step(item))
    for names, step in plan.inlined:
        if not names.isdisjoint(value):
            parts.append(step(value))
    return b"".join(parts)


def _bytes_field(number: int, data: bytes) -> bytes:
    return _field(tag(number, WIRE_BYTES), data)


def _field(head: bytes, data: bytes) -> bytes:
    size = len(data)
    return head + (_LENGTHS[size] if size < 1024 else write_varint(size)) + data


_ITEMS = tag(2, WIRE_BYTES)


@cache
def _plan(name: str) -> _Plan:
    found = schema.definition(name)
    steps = {field.name: _step(number, field.type) for number, field in found.numbers.items()}
    inlined = tuple(
        (frozenset(schema.definition(base).fields), _inlined(number, base)) for number, base in found.inlined.items()
    )
    return _Plan(steps, inlined)


def _inlined(number: int, base: str) -> Step:
    head = tag(number, WIRE_BYTES)
    return lambda value: _field(head, message(value, base))


def _step(number: int, kind: str) -> Step:
    if kind.startswith("[]"):
        one = _single(number, schema.element(kind))
        return lambda items: b"".join([one(item) for item in items])
    if kind.startswith("{}"):
        return _entries(number, schema.element(kind))
    return _single(number, kind)


def _entries(number: int, kind: str) -> Step:
    head, key_head = tag(number, WIRE_BYTES), tag(1, WIRE_BYTES)
    one = _single(2, kind)

    def encode(value: dict[str, Any]) -> bytes:
        parts = []
        for key, item in value.items():
            inner = _field(key_head, key.encode())
            parts.append(_field(head, inner + one(item) if item is not None else inner))
        return b"".join(parts)

    return encode


def _single(number: int, kind: str) -> Step:
    encode, wire = _encoder(kind)
    head = tag(number, wire)
    if wire == WIRE_BYTES:
        return lambda value: _field(head, encode(value))
    return lambda value: head + encode(value)


def _encoder(kind: str) -> tuple[Encode, int]:
    if kind.startswith("[]"):
        inner = _single(1, schema.element(kind))
        return lambda items: b"".join([inner(item) for item in items]), WIRE_BYTES
    if schema.is_reference(kind):
        found = schema.definition(kind)
        if not found.scalar:
            return lambda value: message(value, kind), WIRE_BYTES
        kind = found.scalar
    if kind in _SCHEMA_UNIONS:
        return _SCHEMA_UNIONS[kind], WIRE_BYTES
    if kind == "string":
        return str.encode, WIRE_BYTES
    leaf = LEAVES[kind]
    return leaf.encode, leaf.wire


_SCHEMA = "apiextensions.v1.JSONSchemaProps"
_TRUE = tag(1, 0) + b"\1"
_FALSE = tag(1, 0) + b"\0"


def _schema_or_array(value: Any) -> bytes:
    if isinstance(value, list):
        return b"".join([_bytes_field(2, message(each, _SCHEMA)) for each in value])
    return _bytes_field(1, message(value, _SCHEMA))


def _schema_or_bool(value: Any) -> bytes:
    if isinstance(value, dict):
        return _TRUE + _bytes_field(2, message(value, _SCHEMA))
    return _TRUE if value else _FALSE


def _schema_or_strings(value: Any) -> bytes:
    if isinstance(value, list):
        return b"".join([_bytes_field(2, each.encode()) for each in value])
    return _bytes_field(1, message(value, _SCHEMA))


_SCHEMA_UNIONS: dict[str, Encode] = {
    "JSONSchemaPropsOrArray": _schema_or_array,
    "JSONSchemaPropsOrBool": _schema_or_bool,
    "JSONSchemaPropsOrStringArray": _schema_or_strings,
}


def body_of(data: bytes) -> bytes:
    """Return the body of an object that is given as JSON; raises KeyError for kinds that have none."""
    return encode_body(orjson.loads(data))
