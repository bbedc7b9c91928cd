"""Owners of fields, held to what Kubernetes' own field manager made of the same changes.

``tests/golden/ownership/cases.json`` has its answers (k8s.io/apimachinery 0.36, util/managedfields, with the schema of
client-go's apply configurations): one object a line, and who owned what after each step.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import orjson
import pytest

from control.api import lastapplied
from control.api.apply import apply, restore_zeroes
from control.api.decode import decode
from control.api.status import ApiError
from control.api.tracking import Manager, Scope, same_but_times, track_creation, track_update
from control.apiserver import objects, ownership
from control.apiserver.kinds import Kind, load

CASES = orjson.loads((Path(__file__).parents[2] / "golden" / "ownership" / "cases.json").read_bytes())
CUSTOM = "X"
Object = dict[str, Any]


class Told:
    """One object, and what happens to it."""

    def __init__(self, group: str, version: str, name: str) -> None:
        self.names = (group, version, name)
        self.api_version = f"{group}/{version}" if group else version
        self.kind: Kind | None = None
        if name != CUSTOM:
            names = [(kind.resource.group, kind.resource.version, kind.resource.kind) for kind in load().all]
            self.kind = load().all[names.index(self.names)]
        self.live: Object | None = None
        self.steps = 0

    def _scope(self, subresource: str) -> Scope:
        if self.kind is not None:
            return ownership.scope_of(self.kind, subresource)
        return Scope("", frozenset({("spec",), ("metadata",)} if subresource else {("status",)}))

    def take(self, step: Object) -> None:
        self.steps += 1
        subresource, now = step.get("subresource", ""), f"2024-05-06T07:08:{self.steps:02}Z"
        obj = {"apiVersion": self.api_version, "kind": self.names[2], **copy.deepcopy(step["object"])}
        obj["metadata"] = {"name": "n", **obj.get("metadata", {})}
        operation = "Update" if step["op"] == "update" else "Apply"
        manager = Manager(step["manager"], operation, self.api_version, subresource)
        if operation == "Apply":
            self.live = self._applied(obj, manager, self._scope(subresource), now, force=step["op"] == "force")
        elif self.live is None:
            self.live = self._complete(obj)
            track_creation(self.live, manager, self._scope(subresource), now)
        else:
            self.live = track_update(self.live, self._complete(obj), manager, self._scope(subresource), now)
        self.live["metadata"]["uid"] = "1"

    def _complete(self, obj: Object) -> Object:
        return obj if self.kind is None else objects.complete(self.kind, obj)

    def _applied(self, obj: Object, manager: Manager, scope: Scope, now: str, *, force: bool) -> Object:
        wish = obj
        if self.kind is not None:
            wish, _ = decode(obj, *self.names)
            restore_zeroes(wish, obj, self.kind.served.definition)
        if manager.name != lastapplied.MANAGER:
            return self._complete(apply(self.live, wish, manager, scope, now, force=force))
        forgiven = lastapplied.own_fields(self.live, self.api_version, scope)
        made = apply(self.live, wish, manager, scope, now, force=force, forgiven=forgiven)
        return self._complete(lastapplied.noted(made, wish))


def told(obj: Object | None) -> list[Object]:
    """Return who owns what, as the cases tell it: that a time is known, not which."""
    entries = (obj or {"metadata": {}})["metadata"].get("managedFields", [])
    found = []
    for entry in entries:
        about = {name: entry[name] for name in ("manager", "operation", "subresource") if name in entry}
        found.append({**about, "timed": "time" in entry, "fields": entry["fieldsV1"]})
    return sorted(found, key=lambda each: (each["manager"], each["operation"], each.get("subresource", "")))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['kind'][2]}-{len(case['steps'])}")
def test_owners_are_those_that_kubernetes_tells(case: Object) -> None:
    about = Told(*case["kind"])
    for number, step in enumerate(case["steps"]):
        if "error" in step:
            with pytest.raises(ApiError) as caught:
                about.take(step)
            assert caught.value.message == step["error"], number
            continue
        about.take(step)
        expected = sorted(
            step["owners"], key=lambda each: (each["manager"], each["operation"], each.get("subresource", ""))
        )
        assert told(about.live) == expected, number


def test_what_differs_in_times_alone_is_the_same() -> None:
    one: Object = {"metadata": {"managedFields": [{"manager": "a", "time": "1", "fieldsV1": {}}]}, "data": {"a": "b"}}
    other = copy.deepcopy(one)
    assert not same_but_times(one, other)
    other["metadata"]["managedFields"][0]["time"] = "2"
    assert same_but_times(one, other)
    other["data"]["a"] = "c"
    assert not same_but_times(one, other)
