"""The status of a ValidatingAdmissionPolicy names what its expressions ask of kinds that do not have it."""

from __future__ import annotations

from typing import Any

import pytest

from control.api.meta import Object
from control.api.resources import CUSTOM_RESOURCE_DEFINITIONS, POLICIES
from control.controllers.policystatus import PolicyStatusController
from tests.control.controllers.harness import World


def policy(*expressions: str, group: str = "apps", plural: str = "deployments", **spec: Any) -> Object:
    rule = {"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [plural]}
    validations = [{"expression": text} for text in expressions]
    made = {"matchConstraints": {"resourceRules": [rule]}, "validations": validations, **spec}
    return {"metadata": {"name": "p", "generation": 2}, "spec": made}


DEFINITION: Object = {
    "metadata": {"name": "ships.example.com"},
    "spec": {
        "group": "example.com",
        "names": {"kind": "Ship"},
        "versions": [
            {"name": "v1", "schema": {"openAPIV3Schema": {
                "type": "object",
                "properties": {"spec": {"type": "object", "properties": {"oars": {"type": "integer"}}}},
            }}}
        ],
    },
}  # fmt: skip
ERROR = "compilation failed: ERROR: <input>"
CASES: list[tuple[str, Object, list[tuple[str, str]]]] = [
    ("right", policy("object.spec.replicas > 0", "object.spec.template.spec.containers.all(c, c.image != '')"), []),
    ("unknown field", policy("object.spec.replicass > 0", "true"),
     [("expression", f"apps/v1, Kind=Deployment: {ERROR}:1:12: undefined field 'replicass'\n"
                     " | object.spec.replicass > 0\n | ...........^\n")]),
    ("wrong type", policy("object.spec.replicas > '1'"),
     [("expression", f"apps/v1, Kind=Deployment: {ERROR}:1:22: found no matching overload for '_>_' applied to "
                     "'(int, string)'\n | object.spec.replicas > '1'\n | .....................^\n")]),
    ("by a variable", policy("variables.n > '1'", variables=[{"name": "n", "expression": "object.spec.replicas"}]),
     [("expression", f"apps/v1, Kind=Deployment: {ERROR}:1:13: found no matching overload for '_>_' applied to "
                     "'(int, string)'\n | variables.n > '1'\n | ............^\n")]),
    ("parameters", policy("params.data.x == 1", paramKind={"apiVersion": "v1", "kind": "ConfigMap"}),
     [("expression", f"apps/v1, Kind=Deployment: {ERROR}:1:15: found no matching overload for '_==_' applied to "
                     "'(string, int)'\n | params.data.x == 1\n | ..............^\n")]),
    ("custom", policy("object.spec.oars > 0 && object.spec.sails > 0", group="example.com", plural="ships"),
     [("expression", f"example.com/v1, Kind=Ship: {ERROR}:1:36: undefined field 'sails'\n"
                     " | object.spec.oars > 0 && object.spec.sails > 0\n | ...................................^\n")]),
    ("every group", policy("object.nothing", group="*"), []),
    ("unknown kind", policy("object.nothing", group="example.com", plural="boats"), []),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "told"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
async def test_expressions_are_checked(sent: Object, told: list[tuple[str, str]]) -> None:
    world = World()
    world.client.put(POLICIES, sent)
    world.client.put(CUSTOM_RESOURCE_DEFINITIONS, DEFINITION)
    async with world.running(lambda context: [PolicyStatusController(context)]) as controllers:
        await world.settle(controllers)
    status = (world.client.find(POLICIES, "p") or {})["status"]
    assert status["observedGeneration"] == 2
    warnings = [{"fieldRef": f"spec.validations[0].{field}", "warning": text} for field, text in told]
    assert status["typeChecking"] == ({"expressionWarnings": warnings} if told else {})
