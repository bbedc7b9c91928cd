"""Protobuf bodies: what real clients sent, and round trips of any object that a table describes."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.api import decode, protobuf, protobuf_encoding
from control.api.protobuf_leaves import read_fields
from control.api.resources import catalog
from tests.control.api.typed_values import values

NAMESPACE = (
    b'k8s\x00\n\x0f\n\x02v1\x12\tNamespace\x12\x1b\n\x13\n\x03foo\x12\x00\x1a\x00"\x00*\x002\x008\x00B\x00\x12\x00\x1a\x02'
    b'\n\x00\x1a\x00"\x00'
)
CONFIG_MAP = (
    b'k8s\x00\n\x0f\n\x02v1\x12\tConfigMap\x12\x1d\n\x13\n\x03cm1\x12\x00\x1a\x00"\x00*\x002\x008\x00B\x00\x12\x06\n\x01a'
    b'\x12\x01b\x1a\x00"\x00'
)


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        pytest.param(
            NAMESPACE,
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "foo"}, "spec": {}, "status": {}},
            id="namespace",
        ),
        pytest.param(
            CONFIG_MAP,
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm1"}, "data": {"a": "b"}},
            id="config map",
        ),
    ],
)
def test_bodies_of_a_real_client(body: bytes, wanted: dict[str, Any]) -> None:
    sent = protobuf.decode_body(body)
    kept, faults = decode.clean(sent, f"core.v1.{wanted['kind']}")
    assert kept == wanted
    assert not faults


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"k8s\0\n\xff", b"k8s\0\n\x05\n\x02v1\x12", NAMESPACE[:-9], b"k8s\0\n\0\x12\0"]
)
def test_what_is_no_body(body: bytes) -> None:
    with pytest.raises(protobuf.ProtobufError):
        protobuf.decode_body(body)


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_cleanly(data: bytes) -> None:
    try:
        protobuf.decode_body(NAMESPACE[:21] + data)
    except protobuf.ProtobufError:
        pass


kinds = st.sampled_from([s for s in catalog() if s.resource.group != "apiextensions.k8s.io"])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_round_trip(data: st.DataObject) -> None:
    served = data.draw(kinds)
    obj = data.draw(values(served.definition))
    obj.update(apiVersion=served.resource.api_version, kind=served.resource.kind)
    kept, faults = decode.clean(obj, served.definition)
    assert not faults
    again, _ = decode.clean(protobuf.decode_body(protobuf_encoding.encode_body(kept)), served.definition)
    assert again == kept


SCHEMA = {
    "type": "object",
    "properties": {
        "tuple": {"type": "array", "items": {"type": "string"}},
        "map": {"type": "object", "additionalProperties": {"type": "integer", "format": "int64"}},
        "closed": {"type": "object", "additionalProperties": False},
        "open": {"type": "object", "additionalProperties": True, "default": {"a": 1}, "enum": [{"a": 1}, None]},
    },
}


def test_a_definition_with_a_schema_comes_back() -> None:
    definition: dict[str, Any] = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "ships.example.com"},
        "spec": {"versions": [{"name": "v1", "served": True, "schema": {"openAPIV3Schema": SCHEMA}}]},
    }
    assert protobuf.decode_body(protobuf_encoding.encode_body(definition)) == definition


def test_a_list_and_an_event_hold_what_they_are_made_of() -> None:
    items = [{"metadata": {"name": name}, "data": {"k": "v"}} for name in ("a", "b")]
    messages = [protobuf_encoding.message(item, "core.v1.ConfigMap") for item in items]
    body = protobuf_encoding.encode_list("v1", "ConfigMapList", {"resourceVersion": "7"}, messages)
    found = protobuf.decode_body(body)
    assert found == {"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "7"}, "items": items}
    framed = protobuf_encoding.frame(protobuf_encoding.encode_event("ADDED", body))
    assert int.from_bytes(framed[:4], "big") == len(framed) - 4
    event = dict(read_fields(framed[4:]))
    assert event[1] == b"ADDED"
    assert isinstance(event[2], bytes)
    assert dict(read_fields(event[2])) == {1: body}
