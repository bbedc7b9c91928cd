"""The OpenAPI v2 document, in the one form in which clients ask for it: gnostic's protobuf messages.

kubectl reads it for a single question, whether a kind's PATCH takes ``fieldValidation``, where v3 gives no answer,
as for ``kind: List``. So the document holds every PATCH with its parameters and kind, and no schemas; those are in v3.
Numbers are those of gnostic's OpenAPIv2.proto.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import orjson

from control.api import openapi

CONTENT_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
"""What is answered; clients ask with an @ before v1.0, which no MIME parser takes back."""
KIND_EXTENSION = "x-kubernetes-group-version-kind"


def _length(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)


def _field(number: int, value: bytes | str) -> bytes:
    """Return one length-delimited field."""
    data = value.encode() if isinstance(value, str) else value
    return _length(number << 3 | 2) + _length(len(data)) + data


def _parameter(name: str) -> bytes:
    """Return a ParametersItem: Parameter → NonBodyParameter → QueryParameterSubSchema."""
    query = _field(2, "query") + _field(4, name) + _field(6, "string")
    return _field(1, _field(2, _field(3, query)))


def _operation(described: dict[str, Any]) -> bytes:
    """Return an Operation with its query parameters and the kind that it handles."""
    names = [entry["name"] for entry in described.get("parameters", ()) if entry.get("in") == "query"]
    kind = orjson.dumps(described[KIND_EXTENSION])  # JSON is YAML
    extension = _field(1, KIND_EXTENSION) + _field(2, _field(2, kind))
    return b"".join(_field(8, _parameter(name)) for name in names) + _field(13, extension)


@cache
def document_bytes() -> bytes:
    """Return the encoded Document of all group versions."""
    paths = []
    for group, version in openapi.group_versions():
        for path, operations in openapi.document(group, version)["paths"].items():
            patch = operations.get("patch")
            if patch is not None and KIND_EXTENSION in patch:
                item = _field(8, _operation(patch))
                paths.append(_field(2, _field(1, path) + _field(2, item)))
    info = _field(1, "Kubernetes") + _field(2, openapi.VERSION)
    return _field(1, "2.0") + _field(2, info) + _field(8, b"".join(paths))
