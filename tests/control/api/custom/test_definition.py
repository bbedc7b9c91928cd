"""Definitions: the rules of structural schemas, names, and what stands in their status."""

from __future__ import annotations

from typing import Any

import pytest

from control.api.custom import jsonpath
from control.api.custom.defining import check_definition, check_definition_update, check_new_definition
from control.api.custom.definition import accept, names_held, stored_versions, with_storage_version
from control.api.custom.jsonpath import JSONPathError
from control.api.custom.structural import check_structural
from control.api.patch import copy_json, merge_patch
from control.api.validation.faults import Faults

NOW = "2026-01-01T00:00:00Z"
GOOD: dict[str, Any] = {
    "metadata": {"name": "rafts.example.com", "uid": "1"},
    "spec": {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"plural": "rafts", "singular": "raft", "kind": "Raft", "listKind": "RaftList", "shortNames": ["rf"]},
        "versions": [
            {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
        ],
        "conversion": {"strategy": "None"},
    },
}


def spec_with(**fields: Any) -> dict[str, Any]:
    made: dict[str, Any] = merge_patch(GOOD, {"spec": fields})
    return made


def version_with(**fields: Any) -> dict[str, Any]:
    return spec_with(versions=[{**GOOD["spec"]["versions"][0], **fields}])


DEFINITIONS: list[tuple[str, dict[str, Any], str, str]] = [
    ("name", merge_patch(GOOD, {"metadata": {"name": "x.example.com"}}), "metadata.name",
     'Invalid value: "x.example.com": must be spec.names.plural+"."+spec.group'),
    ("group without a dot", merge_patch(spec_with(group="example"), {"metadata": {"name": "rafts.example"}}),
     "spec.group", 'Invalid value: "example": should be a domain with at least one dot'),
    ("scope", spec_with(scope="Local"), "spec.scope",
     'Unsupported value: "Local": supported values: "Cluster", "Namespaced"'),
    ("list kind", spec_with(names={"listKind": "Raft"}), "spec.names.listKind",
     'Invalid value: "Raft": kind and listKind may not be the same'),
    ("no storage", version_with(storage=False), "spec.versions",
     'Invalid value: [{"Name":"v1","Served":true,"Storage":false,"Deprecated":false,"DeprecationWarning":null,"Schema":'
     'null,"Subresources":null,"AdditionalPrinterColumns":null,"SelectableFields":null}]: must have exactly one version '
     "marked as storage version"),
    ("no schema", version_with(schema=None), "spec.versions[0].schema.openAPIV3Schema", "Required value"),
    ("a protected group", merge_patch(spec_with(group="a.k8s.io"), {"metadata": {"name": "rafts.a.k8s.io"}}),
     "metadata.annotations[api-approved.kubernetes.io]",
     'Required value: protected groups must have approval annotation "api-approved.kubernetes.io", see '
     "https://github.com/kubernetes/enhancements/pull/1111"),
    ("a warning that is none", version_with(deprecated=True, deprecationWarning=""),
     "spec.versions[0].deprecationWarning", 'Invalid value: "": must not be an empty string'),
    ("a column without a path", version_with(additionalPrinterColumns=[{"name": "a", "type": "text"}]),
     "spec.additionalPrinterColumns[0].JSONPath", "Required value"),
    ("a field that is not there", version_with(selectableFields=[{"jsonPath": ".spec.x"}]),
     "spec.selectableFields[0].jsonPath", 'Invalid value: ".spec.x": is an invalid path: does not refer to a valid field'),
    ("a schema of all versions", version_with(schema={"openAPIV3Schema": {"type": "object", "properties": {"a": {}}}}),
     "spec.validation.openAPIV3Schema.properties[a].type",
     "Required value: must not be empty for specified object fields"),
    ("a schema of one version",
     spec_with(versions=[GOOD["spec"]["versions"][0], {"name": "v2", "served": True, "storage": False, "schema": {
         "openAPIV3Schema": {"type": "object", "properties": {"a": {}}}}}]),
     "spec.versions[1].schema.openAPIV3Schema.properties[a].type",
     "Required value: must not be empty for specified object fields"),
    ("preserves unknown fields", spec_with(preserveUnknownFields=True), "spec.preserveUnknownFields",
     "Invalid value: true: cannot set to true, set x-kubernetes-preserve-unknown-fields to true in "
     "spec.versions[*].schema instead"),
    ("webhook without its address", spec_with(conversion={"strategy": "Webhook"}), "spec.conversion.webhookClientConfig",
     "Required value: required when strategy is set to Webhook"),
    ("replicas outside of spec",
     version_with(subresources={"scale": {"specReplicasPath": ".replicas", "statusReplicasPath": ".status.r"}}),
     "spec.subresources.scale.specReplicasPath",
     'Invalid value: ".replicas": should be a json path under .spec'),
    ("stored version that is gone", {**GOOD, "status": {"storedVersions": ["v1beta1"]}}, "status.storedVersions[0]",
     'Invalid value: "v1beta1": missing from spec.versions; v1beta1 was previously a storage version, and must remain in '
     "spec.versions until a storage migration ensures no data remains persisted in v1beta1 and removes v1beta1 from "
     "status.storedVersions"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("definition", "field", "message"), [case[1:] for case in DEFINITIONS], ids=[case[0] for case in DEFINITIONS]
)
def test_faults_of_definitions(definition: dict[str, Any], field: str, message: str) -> None:
    faults = Faults()
    check_definition(definition, faults)
    check_new_definition(definition, faults)
    assert (field, message) in [(cause.field, cause.message) for cause in faults.causes]


def test_a_good_definition_has_none() -> None:
    faults = Faults()
    check_definition(GOOD, faults)
    assert not faults


OBJECT = {"type": "object"}
SCHEMAS: list[tuple[str, dict[str, Any], str, str]] = [
    ("no type at the root", {}, "s.type", "Required value: must not be empty at the root"),
    ("no type of a field", {**OBJECT, "properties": {"a": {}}}, "s.properties[a].type",
     "Required value: must not be empty for specified object fields"),
    ("no type of items", {**OBJECT, "properties": {"a": {"type": "array", "items": {}}}}, "s.properties[a].items.type",
     "Required value: must not be empty for specified array items"),
    ("array without items", {**OBJECT, "properties": {"a": {"type": "array"}}}, "s.properties[a].items",
     "Required value: must be specified"),
    ("unique items", {**OBJECT, "properties": {"a": {"type": "array", "uniqueItems": True, "items": OBJECT}}},
     "s.properties[a].uniqueItems",
     "Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic"),
    ("type in a junctor", {**OBJECT, "properties": {"a": {"type": "string", "anyOf": [{"type": "string"}]}}},
     "s.properties[a].anyOf[0].type", "Forbidden: must be empty to be structural"),
    ("field in a junctor alone", {**OBJECT, "anyOf": [{"properties": {"b": {"minimum": 1}}}]}, "s.properties[b]",
     "Required value: because it is defined in s.anyOf[0].properties[b]"),
    ("fields and others", {**OBJECT, "properties": {"a": OBJECT}, "additionalProperties": OBJECT},
     "s.additionalProperties", "Forbidden: additionalProperties and properties are mutual exclusive"),
    ("list of maps without keys",
     {**OBJECT, "properties": {"a": {"type": "array", "x-kubernetes-list-type": "map", "items": OBJECT}}},
     "s.properties[a].x-kubernetes-list-map-keys", "Required value: must not be empty if x-kubernetes-list-type is map"),
    ("default that does not fit", {**OBJECT, "properties": {"a": {"type": "integer", "default": "x"}}},
     "s.properties[a].default", 'Invalid value: "string"'),
    ("reference", {**OBJECT, "$ref": "#/x"}, "s.$ref", "Forbidden: $ref is not supported"),
    ("metadata", {**OBJECT, "properties": {"metadata": {"type": "object", "required": ["name"]}}},
     "s.properties[metadata]", "Forbidden: must not specify anything other than name and generateName"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "field", "message"), [case[1:] for case in SCHEMAS], ids=[case[0] for case in SCHEMAS]
)
def test_schemas_that_are_not_structural(schema: dict[str, Any], field: str, message: str) -> None:
    faults = Faults()
    check_structural(schema, "s", faults)
    assert [cause.message for cause in faults.causes if cause.field == field and cause.message.startswith(message)]


def test_schemas_may_not_be_bottomless() -> None:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(100):
        schema = {"type": "object", "properties": {"a": schema}}
    faults = Faults()
    check_structural(schema, "s", faults)
    assert any("nested deeper" in cause.message for cause in faults.causes)


def test_int_or_string_may_be_written_as_two_schemas() -> None:
    field = {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}
    faults = Faults()
    check_structural({"type": "object", "properties": {"a": field}}, "s", faults)
    assert not faults


def test_names_are_accepted_once_and_kept() -> None:
    status = accept(GOOD, {}, NOW)
    assert [entry["reason"] for entry in status["conditions"]] == ["NoConflicts", "InitialNamesAccepted"]
    assert status["storedVersions"] == ["v1"]
    held = {**GOOD, "status": status}
    assert accept(held, {}, "later") == status
    assert names_held(held)["rf"] == "rafts"
    changed = copy_json(held)
    changed["spec"]["names"]["shortNames"] = ["taken"]
    after = accept(changed, {"taken": "others"}, "later")
    assert after["acceptedNames"]["shortNames"] == ["rf"]
    assert {entry["type"]: entry["status"] for entry in after["conditions"]} == {
        "NamesAccepted": "False",
        "Established": "True",
    }


def test_a_storage_version_is_remembered() -> None:
    held = {**GOOD, "status": accept(GOOD, {}, NOW)}
    second = {**GOOD["spec"]["versions"][0], "name": "v2"}
    moved = merge_patch(held, {"spec": {"versions": [{**GOOD["spec"]["versions"][0], "storage": False}, second]}})
    assert with_storage_version(moved) == ["v1", "v2"]
    assert accept(moved, {}, NOW)["storedVersions"] == ["v1"]
    emptied = merge_patch(moved, {"status": {"storedVersions": []}})
    assert stored_versions(emptied) == with_storage_version(emptied) == ["v2"]


def test_names_that_are_free_are_accepted_beside_names_that_are_taken() -> None:
    taken = {"raft": "others", "rf": "others"}
    status = accept(GOOD, taken, NOW)
    assert status["acceptedNames"] == {"plural": "rafts", "kind": "Raft", "listKind": "RaftList"}
    told = [(entry["status"], entry["reason"], entry["message"]) for entry in status["conditions"]]
    assert told[0] == ("False", "ShortNamesConflict", '"rf" is already in use')
    assert told[1] == ("False", "NotAccepted", "not all names are accepted")
    assert names_held({**GOOD, "status": status}) == dict.fromkeys(("rafts", "kind Raft", "kind RaftList"), "rafts")


def test_versions_that_objects_may_be_stored_in_are_missed_at_every_change() -> None:
    held = {**GOOD, "status": {"storedVersions": ["v9"]}}
    faults = Faults()
    check_definition_update(merge_patch(held, {"metadata": {"labels": {"a": "b"}}}), held, faults)
    assert [cause.field for cause in faults.causes] == ["status.storedVersions[0]"]


def test_what_objects_hang_on_may_not_change() -> None:
    held = {**GOOD, "status": accept(GOOD, {}, NOW)}
    faults = Faults()
    check_definition_update(merge_patch(held, {"spec": {"scope": "Cluster", "group": "x.y"}}), held, faults)
    assert [cause.field for cause in faults.causes] == ["spec.scope", "spec.group"]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".a.b", [1]),
        (".list[0].n", ["x"]),
        (".list[-1].n", ["y"]),
        (".list[*].n", ["x", "y"]),
        ('.list[?(@.n=="y")].v', [2]),
        (".list[?(@.v!=2)].n", ["x"]),
        (".dotted['a.b/c']", [3]),
        (r".dotted.a\.b/c", [3]),
        ("{.a.b}", [1]),
        (".missing.b", []),
    ],
)
def test_paths_lead_to_values(path: str, found: list[Any]) -> None:
    value = {"a": {"b": 1}, "list": [{"n": "x", "v": 1}, {"n": "y", "v": 2}], "dotted": {"a.b/c": 3}}
    assert jsonpath.parse(path).find(value) == found


@pytest.mark.parametrize("path", ["a", ".a[", ".a[x]", "..", ".a[?(@.b)]"])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(JSONPathError):
        jsonpath.parse(path)
