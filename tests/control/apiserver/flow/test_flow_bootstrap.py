"""What the server does to the objects that configure priority and fairness."""

from __future__ import annotations

from typing import Any

import pytest

from control.api import flowcontrol
from control.api.flowcontrol import AUTO_UPDATE
from control.api.meta import Object
from control.apiserver.flow.bootstrap import condition, kept, left_over

LEVELS = {obj["metadata"]["name"]: obj for obj in flowcontrol.priority_levels()}
EDITED = {"type": "Limited", "limited": {"nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}}}


def stored(name: str, annotation: str | None, generation: int = 1, spec: Any = None) -> Object:
    annotations = {} if annotation is None else {AUTO_UPDATE: annotation}
    metadata = {"name": name, "annotations": annotations, "generation": generation}
    return {**LEVELS[name], "metadata": metadata, "spec": spec or LEVELS[name]["spec"]}


@pytest.mark.parametrize(
    ("existing", "expected"),
    [
        (stored("system", "true"), None),
        (stored("system", "true", 2, EDITED), ("true", LEVELS["system"]["spec"])),
        (stored("system", "false", 2, EDITED), None),
        (stored("system", "nonsense", 2, EDITED), ("false", EDITED)),
        (stored("system", None, 1, EDITED), ("true", LEVELS["system"]["spec"])),
        (stored("system", None, 2, EDITED), ("false", EDITED)),
        (stored("catch-all", "false", 2, EDITED), ("true", LEVELS["catch-all"]["spec"])),
        (stored("catch-all", None), ("true", LEVELS["catch-all"]["spec"])),
        (stored("catch-all", "true"), None),
        (stored("exempt", "true", 2, {"type": "Exempt", "exempt": {"nominalConcurrencyShares": 9}}), None),
    ],
)
def test_what_belongs_to_the_server_is_kept(existing: Object, expected: tuple[str, Object] | None) -> None:
    made = kept(existing, LEVELS[existing["metadata"]["name"]])
    assert (made and (made["metadata"]["annotations"][AUTO_UPDATE], made["spec"])) == expected


def test_what_is_missing_is_made() -> None:
    assert kept(None, LEVELS["system"]) is LEVELS["system"]


def test_only_what_servers_made_is_removed() -> None:
    names = frozenset(LEVELS)
    old = {"metadata": {"name": "old", "annotations": {AUTO_UPDATE: "true"}}}
    assert left_over(old, names)
    assert not left_over({"metadata": {"name": "mine"}}, names)
    assert not left_over(stored("system", "true"), names)


def test_a_condition_is_told_once() -> None:
    schema = {"metadata": {"name": "s"}, "spec": {"priorityLevelConfiguration": {"name": "x"}}}
    found = condition(schema, None, "2026-01-01T00:00:00Z")
    assert found is not None
    assert (found["type"], found["status"], found["reason"]) == ("Dangling", "False", "Found")
    told = {**schema, "status": {"conditions": [found]}}
    assert condition(told, None, "2027-01-01T00:00:00Z") is None
    changed = condition(told, "x", "2027-01-01T00:00:00Z")
    assert changed is not None
    assert changed["status"] == "True"


@pytest.mark.parametrize(
    ("obj", "follows"),
    [
        (LEVELS["catch-all"], True),
        ({**LEVELS["catch-all"], "spec": EDITED}, False),
        ({**LEVELS["system"], "spec": EDITED}, True),
        ({**LEVELS["exempt"], "spec": {"type": "Exempt", "exempt": {"nominalConcurrencyShares": 9}}}, True),
        ({**LEVELS["exempt"], "spec": EDITED}, False),
        (flowcontrol.flow_schemas()[0], True),
        ({**flowcontrol.flow_schemas()[0], "spec": flowcontrol.flow_schemas()[1]["spec"]}, False),
    ],
)
def test_mandatory_objects_have_one_spec(obj: Object, follows: bool) -> None:
    assert flowcontrol.follows_fixed_spec(obj) == follows
