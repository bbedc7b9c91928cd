"""Protobuf bodies: what real clients sent, and round trips of any object that a table describes."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.api import decode, protobuf, quantity, schema
from control.api.resources import catalog

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


LEAVES: dict[str, st.SearchStrategy[Any]] = {
    "string": st.text("aé-", min_size=1, max_size=3),
    "bool": st.booleans(),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "bytes": st.sampled_from(["", "YQ=="]),
    "Quantity": st.sampled_from(["1", "500m", "1Gi", "0"]).map(quantity.canonical),
    "Time": st.just("2024-05-06T07:08:09Z"),
    "MicroTime": st.just("2024-05-06T07:08:09.123456Z"),
    "IntOrString": st.sampled_from([0, 80, "http", "25%"]),
    "StringList": st.lists(st.text("ab", min_size=1, max_size=2), max_size=2),
    "RawExtension": st.just({"kind": "Other", "n": 1}),
    "FieldsV1": st.just({"f:metadata": {}}),
    "JSON": st.just({"a": [1]}),
    "Duration": st.sampled_from(["1h0m0s", "5m0s", "1.5s", "0s"]),
    "float64": st.just(1.5),
}


@st.composite
def values(draw: st.DrawFn, kind: str, depth: int = 0) -> Any:
    """Draw a value of a type, with few fields in each structure."""
    if kind.startswith("[]"):
        return [draw(values(kind[2:], depth + 1)) for _ in range(draw(st.integers(1, 2)))]
    if kind.startswith("{}"):
        return {draw(st.sampled_from(["k", "x/y"])): draw(values(kind[2:], depth + 1))}
    if not schema.is_reference(kind):
        return draw(LEAVES[kind])
    found = schema.definition(kind)
    if found.scalar:
        return draw(LEAVES[found.scalar])
    usable = [f for f in found.fields.values() if "JSONSchemaProps" not in f.type and f.name not in schema.TYPE_META]
    chosen = draw(st.lists(st.sampled_from(usable), max_size=3 if depth < 6 else 0, unique=True)) if usable else []
    return {field.name: draw(values(field.type, depth + 1)) for field in chosen}


kinds = st.sampled_from(
    [s for s in catalog() if s.resource.group not in ("apiregistration.k8s.io", "apiextensions.k8s.io")]
)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_round_trip(data: st.DataObject) -> None:
    served = data.draw(kinds)
    obj = data.draw(values(served.definition))
    obj.update(apiVersion=served.resource.api_version, kind=served.resource.kind)
    kept, faults = decode.clean(obj, served.definition)
    assert not faults
    again, _ = decode.clean(protobuf.decode_body(protobuf.encode_body(kept)), served.definition)
    assert again == kept
