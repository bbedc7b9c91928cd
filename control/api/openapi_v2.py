"""The OpenAPI v2 document as clients take it: JSON, or gnostic's protobuf messages, which kubectl asks for.

kubectl reads it where v3 gives no answer, as for ``kind: List``, and old ones read nothing else.  Numbers of fields are
those of gnostic's OpenAPIv2.proto.  A document is the sum of its group versions' parts: repeated fields of protobuf may
be concatenated, so each part is encoded once and for itself.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from control.api import swagger

PROTOBUF_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
"""What is answered; clients ask with an @ before v1.0, which no MIME parser takes back."""
Part = tuple[Mapping[str, Any], Mapping[str, Any]]
"""Paths and definitions."""
Encoded = tuple[bytes, bytes]
"""The same two as a document holds them."""


def json_part(part: Part) -> Encoded:
    """Return one part's share of the JSON document: paths and definitions, without their braces."""
    paths, definitions = part
    return orjson.dumps(paths)[1:-1], orjson.dumps(definitions)[1:-1]


def json_document(encoded: Iterable[Encoded]) -> bytes:
    """Return the JSON document of all parts."""
    paths, definitions = (b",".join(filter(None, each)) for each in zip(*encoded, strict=True))
    return orjson.dumps(swagger.HEAD)[:-1] + b',"paths":{%s},"definitions":{%s}}' % (paths, definitions)


def protobuf_document(encoded: Iterable[Encoded]) -> bytes:
    """Return gnostic's Document of all parts."""
    info = swagger.HEAD["info"]
    head = _text(1, "2.0") + _field(2, _text(1, info["title"]) + _text(2, info["version"]))
    return head + b"".join(paths + definitions for paths, definitions in encoded)


def protobuf_part(part: Part) -> Encoded:
    """Return one part's share of the Document."""
    paths = b"".join(_field(2, _named(path, _path_item(item))) for path, item in part[0].items())
    definitions = b"".join(_field(1, _named(name, _schema(found))) for name, found in part[1].items())
    return _field(8, paths), _field(9, definitions)


def _length(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)


def _field(number: int, value: bytes) -> bytes:
    """Return one length-delimited field."""
    return _length(number << 3 | 2) + _length(len(value)) + value


def _text(number: int, value: str) -> bytes:
    return _field(number, value.encode())


def _true(number: int) -> bytes:
    return _length(number << 3) + b"\1"


def _double(number: int, value: float) -> bytes:
    return _length(number << 3 | 1) + struct.pack("<d", value)


def _named(name: str, value: bytes) -> bytes:
    """Return a NamedSchema, NamedPathItem …: gnostic's entries of maps."""
    return _text(1, name) + _field(2, value)


def _any(value: Any) -> bytes:
    return _field(2, orjson.dumps(value))  # JSON is YAML


def _extensions(number: int, found: Mapping[str, Any]) -> bytes:
    marks = ((key, value) for key, value in found.items() if key.startswith("x-"))
    return b"".join(_field(number, _named(key, _any(value))) for key, value in marks)


_TEXTS = {"$ref": 1, "format": 2, "title": 3, "description": 4, "pattern": 13}
_DOUBLES = {"multipleOf": 6, "maximum": 7, "minimum": 9}
_INTEGERS = {
    "maxLength": 11, "minLength": 12, "maxItems": 14, "minItems": 15, "maxProperties": 17, "minProperties": 18,
}  # fmt: skip
_FLAGS = {"exclusiveMaximum": 8, "exclusiveMinimum": 10, "uniqueItems": 16}


def _schema(found: Mapping[str, Any]) -> bytes:
    made = [_text(number, found[key]) for key, number in _TEXTS.items() if found.get(key)]
    made += [_double(number, found[key]) for key, number in _DOUBLES.items() if key in found]
    made += [_length(number << 3) + _length(found[key]) for key, number in _INTEGERS.items() if found.get(key)]
    made += [_true(number) for key, number in _FLAGS.items() if found.get(key)]
    if "default" in found:
        made.append(_field(5, _any(found["default"])))
    made += [_text(19, name) for name in found.get("required", ())]
    made += [_field(20, _any(value)) for value in found.get("enum", ())]
    if (extra := found.get("additionalProperties")) is not None:
        made.append(_field(21, _true(2) if extra is True else _field(1, _schema(extra)) if extra else b"\x10\0"))
    if kind := found.get("type"):
        made.append(_field(22, _text(1, kind)))
    if "items" in found:
        made.append(_field(23, _field(1, _schema(found["items"]))))
    if properties := found.get("properties"):
        entries = (_field(1, _named(name, _schema(part))) for name, part in properties.items())
        made.append(_field(25, b"".join(entries)))
    made.append(_extensions(31, found))
    return b"".join(made)


def _parameter(found: Mapping[str, Any]) -> bytes:
    """Return a ParametersItem around one of gnostic's kinds of parameters."""
    place = _text(2, found["in"])
    if found["in"] == "body":
        body = _text(2, found["name"]) + _text(3, "body") + _true(4) + _field(5, _schema(found["schema"]))
        return _field(1, _field(1, body))
    named, kind = _text(4, found["name"]), found["type"]
    if found["in"] == "path":
        path = _true(1) + place + named + _text(5, kind) + _true(19)
        return _field(1, _field(2, _field(4, path)))
    query = place + named + _text(6, kind) + _true(20)
    return _field(1, _field(2, _field(3, query)))


def _response(found: Mapping[str, Any]) -> bytes:
    answer = _text(1, found["description"]) + _field(2, _field(1, _schema(found["schema"])))
    return _field(1, answer)


def _operation(found: Mapping[str, Any]) -> bytes:
    made = [_text(1, tag) for tag in found.get("tags", ())]
    made += [_text(6, media) for media in found["produces"]]
    made += [_text(7, media) for media in found.get("consumes", ())]
    made += [_field(8, _parameter(each)) for each in found["parameters"]]
    codes = (_field(1, _named(code, _response(answer))) for code, answer in found["responses"].items())
    made.append(_field(9, b"".join(codes)))
    made += [_text(10, scheme) for scheme in found["schemes"]]
    made.append(_extensions(13, found))
    return b"".join(made)


_METHODS = {"get": 2, "put": 3, "post": 4, "delete": 5, "patch": 8}


def _path_item(found: Mapping[str, Any]) -> bytes:
    made = [_field(number, _operation(found[key])) for key, number in _METHODS.items() if key in found]
    made += [_field(9, _parameter(each)) for each in found.get("parameters", ())]
    return b"".join(made)


JSON = (json_part, json_document)
PROTOBUF = (protobuf_part, protobuf_document)
"""How the parts of each form are made and joined."""
