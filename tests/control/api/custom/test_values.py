"""Objects by a structural schema: what is cut, what is filled in, what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.api.custom.checking import check, check_lists
from control.api.custom.pruning import fill_defaults, prune
from control.api.patch import copy_json
from control.api.validation.faults import Faults

ITEM = {"type": "object", "properties": {"a": {"type": "integer", "default": 1}}}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "known": {"type": "string"},
                "items": {"type": "array", "items": ITEM},
                "map": {"type": "object", "additionalProperties": ITEM},
                "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "properties": {"in": ITEM}},
                "template": {
                    "type": "object",
                    "x-kubernetes-embedded-resource": True,
                    "properties": {"spec": {"type": "object"}},
                },
                "maybe": {"type": "string", "nullable": True, "default": "x"},
                "sure": {"type": "string", "default": "y"},
            },
        }
    },
}
CUT: list[tuple[str, dict[str, Any], list[str]]] = [
    ("known", {"known": "a"}, []),
    ("unknown", {"known": "a", "foo": 1}, ["spec.foo"]),
    ("in a list", {"items": [{"a": 1}, {"b": 2}]}, ["spec.items[1].b"]),
    ("in a map", {"map": {"k": {"c": 1}}}, ["spec.map.k.c"]),
    ("kept", {"open": {"any": {"thing": 1}}}, []),
    ("known below what is kept", {"open": {"in": {"z": 1}}}, ["spec.open.in.z"]),
    ("embedded", {"template": {"kind": "Pod", "metadata": {"name": "x"}, "x": 1}}, ["spec.template.x"]),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "cut"), [case[1:] for case in CUT], ids=[case[0] for case in CUT])
def test_unknown_fields_are_cut_and_told(spec: dict[str, Any], cut: list[str]) -> None:
    obj = {"apiVersion": "a/v1", "kind": "K", "metadata": {"any": 1}, "spec": spec}
    assert prune(obj, SCHEMA) == cut
    assert prune(obj, SCHEMA) == []
    assert set(obj) == {"apiVersion", "kind", "metadata", "spec"}


@pytest.mark.parametrize(
    ("spec", "filled"),
    [
        ({}, {"maybe": "x", "sure": "y"}),
        ({"maybe": None, "sure": None}, {"maybe": None, "sure": "y"}),
        ({"items": [{}], "map": {"k": {}}}, {"items": [{"a": 1}], "map": {"k": {"a": 1}}, "maybe": "x", "sure": "y"}),
        ({"sure": ""}, {"maybe": "x", "sure": ""}),
    ],
    ids=["absent", "null", "in lists and maps", "zero is a value"],
)
def test_defaults_are_filled_in(spec: dict[str, Any], filled: dict[str, Any]) -> None:
    obj = {"spec": spec}
    fill_defaults(obj, SCHEMA)
    assert obj == {"spec": filled}


def faults_of(value: Any, schema: dict[str, Any]) -> list[tuple[str, str]]:
    found = Faults()
    check(value, schema, "f", found)
    check_lists(value, schema, "f", found)
    return [(cause.field, cause.message) for cause in found.causes]


LIST_MAP = {
    "type": "array",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["p", "q"],
    "items": {"type": "object", "properties": {"p": {"type": "integer"}, "q": {"type": "string", "default": "TCP"}}},
}
GOOD: list[tuple[str, Any, dict[str, Any]]] = [
    ("integral float", 3.0, {"type": "integer"}),
    ("integer as number", 3, {"type": "number"}),
    ("nullable", None, {"type": "string", "nullable": True}),
    ("null where anything goes", None, {}),
    ("int or string", "50%", {"x-kubernetes-int-or-string": True}),
    ("unknown format", "x", {"type": "string", "format": "sailcloth"}),
    ("date-time", "2024-02-29T12:00:00.5Z", {"type": "string", "format": "date-time"}),
    ("duration", "1h30m", {"type": "string", "format": "duration"}),
    ("length in characters", "åäö", {"type": "string", "maxLength": 3}),
    ("one of two", 5, {"type": "integer", "oneOf": [{"minimum": 4}, {"maximum": 2}]}),
    ("multiple of a fraction", 0.3, {"type": "number", "multipleOf": 0.1}),
    ("keys that differ", [{"p": 1}, {"p": 1, "q": "UDP"}], LIST_MAP),
]


@pytest.mark.parametrize(("value", "schema"), [case[1:] for case in GOOD], ids=[case[0] for case in GOOD])
def test_what_fits_has_no_faults(value: Any, schema: dict[str, Any]) -> None:
    assert faults_of(value, schema) == []


BAD: list[tuple[str, Any, dict[str, Any], tuple[str, str]]] = [
    (
        "boolean is no integer", True, {"type": "integer"},
        ("f", 'Invalid value: "boolean": f in body must be of type integer: "boolean"'),
    ),
    ("null", None, {"type": "string"}, ("f", 'Invalid value: "null": f in body must be of type string: "null"')),
    ("fraction", 1.5, {"type": "integer"}, ("f", 'Invalid value: "number": f in body must be of type integer: "number"')),
    ("minimum", 0, {"type": "integer", "minimum": 1},
     ("f", "Invalid value: 0: f in body should be greater than or equal to 1")),
    ("exclusive", 1, {"type": "integer", "maximum": 1, "exclusiveMaximum": True},
     ("f", "Invalid value: 1: f in body should be less than 1")),
    ("int32", 1 << 31, {"type": "integer", "format": "int32"},
     ("<nil>", 'Invalid value: "": Checked value must be of type integer with format int32 in f')),
    ("short", "", {"type": "string", "minLength": 1},
     ("f", 'Invalid value: "": f in body should be at least 1 chars long')),
    ("items", [1, 2], {"type": "array", "maxItems": 1, "items": {"type": "integer"}},
     ("f", "Too many: 2: must have at most 1 item")),
    ("in a list", ["x"], {"type": "array", "items": {"type": "integer"}},
     ("f[0]", 'Invalid value: "string": f[0] in body must be of type integer: "string"')),
    ("none of any", 1, {"type": "integer", "anyOf": [{"minimum": 2}, {"maximum": 0}]},
     ("<nil>", 'Invalid value: "": "f" must validate at least one schema (anyOf)')),
    ("both of one", 3, {"type": "integer", "oneOf": [{"minimum": 2}, {"maximum": 4}]},
     ("<nil>", 'Invalid value: "": "f" must validate one and only one schema (oneOf). Found 2 valid alternatives')),
    ("refused", 3, {"type": "integer", "not": {"minimum": 2}},
     ("<nil>", 'Invalid value: "": "f" must not validate the schema (not)')),
    ("ipv4", "::1", {"type": "string", "format": "ipv4"},
     ("f", 'Invalid value: "::1": f in body must be of type ipv4: "::1"')),
    ("default key", [{"p": 1}, {"p": 1, "q": "TCP"}], LIST_MAP,
     ("f[1]", 'Duplicate value: {"p":1,"q":"TCP"}')),
    ("set", ["a", "a"], {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
     ("f[1]", 'Duplicate value: "a"')),
    ("properties", {"a": 1}, {"type": "object", "maxProperties": 0, "additionalProperties": {"type": "integer"}},
     ("f", "Too many: 1: must have at most 0 items")),
]  # fmt: skip


@pytest.mark.parametrize(("value", "schema", "fault"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_what_does_not_fit_is_named(value: Any, schema: dict[str, Any], fault: tuple[str, str]) -> None:
    assert faults_of(value, schema)[0] == fault


SCALARS = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.text(max_size=5)
NAMES = st.sampled_from(["spec", "known", "items", "map", "open", "in", "a", "template", "maybe", "sure", "kind", "x"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=20
)


@given(value=VALUES)
def test_any_value_is_cut_and_filled_once(value: Any) -> None:
    obj = {"spec": value}
    prune(obj, SCHEMA)
    fill_defaults(obj, SCHEMA)
    before = copy_json(obj)
    assert prune(obj, SCHEMA) == []
    fill_defaults(obj, SCHEMA)
    assert obj == before
    faults_of(value, SCHEMA)
