"""What a stricter schema would refuse may stay while nobody touches it, as Kubernetes has it since 1.33."""

from __future__ import annotations

from typing import Any

import pytest

from control.api.custom.checking import check
from control.api.custom.pruning import fill_defaults
from control.api.validation.faults import Faults

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "short": {"type": "string", "maxLength": 1},
        "list": {"type": "array", "items": {"type": "string", "maxLength": 1}},
        "byKey": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["k"],
            "items": {
                "type": "object",
                "properties": {"k": {"type": "string"}, "v": {"type": "string", "maxLength": 1}},
            },
        },
    },
}
CASES: list[tuple[str, Any, Any, list[str]]] = [
    ("untouched", {"short": "long"}, {"short": "long"}, []),
    ("beside a change", {"short": "long"}, {"short": "long", "list": ["a"]}, []),
    ("touched", {"short": "long"}, {"short": "longer"}, ["short"]),
    ("items are not known again", {"list": ["long", "b"]}, {"list": ["long"]}, ["list[0]"]),
    ("items of maps are, wherever they stand", {"byKey": [{"k": "1", "v": "long"}, {"k": "2"}]},
     {"byKey": [{"k": "3", "v": "long"}, {"k": "1", "v": "long"}]}, ["byKey[0].v"]),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "fields"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_only_what_is_touched_is_judged(old: Any, new: Any, fields: list[str]) -> None:
    faults = Faults()
    check(new, SCHEMA, "", faults, old)
    assert [cause.field for cause in faults.causes] == fields


def test_nulls_go_where_none_may_stand_and_whole_floats_become_integers() -> None:
    schema = {
        "type": "object",
        "properties": {
            "gone": {"type": "string"},
            "kept": {"type": "string", "nullable": True},
            "filled": {"type": "integer", "default": 3},
            "whole": {"type": "number"},
            "map": {"type": "object", "additionalProperties": {"type": "integer"}},
        },
    }
    value = {"gone": None, "kept": None, "filled": None, "whole": 2.0, "map": {"a": None, "b": 1.0}}
    fill_defaults(value, schema)
    assert value == {"kept": None, "filled": 3, "whole": 2, "map": {"b": 1}}
    assert isinstance(value["whole"], int)
