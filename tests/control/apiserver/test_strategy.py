"""What the server decides when an object is created or changed, kind by kind."""

from __future__ import annotations

import copy

import pytest

from control.api.meta import Object
from control.apiserver import kinds
from control.apiserver.request import UserInfo
from control.apiserver.strategy import prepare_create, prepare_update
from tests.control.api.validating import served_as

KINDS = kinds.load()
USER = UserInfo("u")


def created(what: str, obj: Object) -> Object:
    obj = {**copy.deepcopy(obj), "metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z", "uid": "1"}}
    prepare_create(_kind(what), obj, USER)
    return obj


def _kind(what: str) -> kinds.Kind:
    return KINDS.of(served_as(what).resource)


GROWS: dict[str, tuple[Object, Object]] = {
    "/podtemplates": ({}, {"template": {"metadata": {"labels": {"a": "b"}}}}),
    "discovery.k8s.io/endpointslices": ({"endpoints": []}, {"endpoints": [{"addresses": ["10.0.0.1"]}]}),
    "admissionregistration.k8s.io/mutatingadmissionpolicies": ({"spec": {}}, {"spec": {"failurePolicy": "Ignore"}}),
    "resource.k8s.io/deviceclasses": ({"spec": {}}, {"spec": {"config": []}}),
}


@pytest.mark.parametrize("what", GROWS)
def test_generations_count_changes(what: str) -> None:
    before, changes = GROWS[what]
    old = created(what, before)
    assert old["metadata"]["generation"] == 1
    new = prepare_update(_kind(what), {**copy.deepcopy(old), **changes}, old, "")
    assert new["metadata"]["generation"] == 2


def test_generations_that_do_not_count() -> None:
    old = created("scheduling.k8s.io/priorityclasses", {"value": 1})
    assert old["metadata"]["generation"] == 1
    new = prepare_update(
        _kind("scheduling.k8s.io/priorityclasses"), {**copy.deepcopy(old), "description": "d"}, old, ""
    )
    assert new["metadata"]["generation"] == 1
    assert "generation" not in created("networking.k8s.io/servicecidrs", {"spec": {}})["metadata"]


def test_labels_of_endpoints_count() -> None:
    what = "discovery.k8s.io/endpointslices"
    old = created(what, {"endpoints": []})
    new = copy.deepcopy(old)
    new["metadata"]["labels"] = {"a": "b"}
    assert prepare_update(_kind(what), new, old, "")["metadata"]["generation"] == 2


def test_the_old_topology_of_endpoints_cannot_be_written() -> None:
    what = "discovery.k8s.io/endpointslices"
    written = {"endpoints": [{"addresses": ["10.0.0.1"], "deprecatedTopology": {"a": "b"}}]}
    assert created(what, written)["endpoints"] == [{"addresses": ["10.0.0.1"]}]


METADATA = {
    "labels": {"a": "b"},
    "annotations": {"c": "d"},
    "finalizers": ["e.com/f"],
    "ownerReferences": [{"uid": "2"}],
}


@pytest.mark.parametrize(
    ("what", "kept"),
    [
        ("apps/deployments", {"labels"}),
        ("apps/statefulsets", set()),
        ("/pods", {"ownerReferences"}),
        ("/nodes", set()),
        ("resource.k8s.io/resourceclaims", set(METADATA)),
        ("storage.k8s.io/volumeattachments", set(METADATA)),
        ("flowcontrol.apiserver.k8s.io/flowschemas", set(METADATA)),
    ],
)
def test_metadata_that_may_be_written_with_a_status(what: str, kept: set[str]) -> None:
    old = created(what, {"spec": {"a": 1}})
    new = {**copy.deepcopy(old), "spec": {"a": 2}, "status": {"x": 1}}
    new["metadata"].update(copy.deepcopy(METADATA))
    made = prepare_update(_kind(what), new, old, "status")
    assert made["spec"] == {"a": 1}
    assert made["status"]["x"] == 1
    assert set(METADATA) - set(made["metadata"]) == kept


def test_what_is_told_of_released_devices_goes_with_them() -> None:
    def claim(*devices: str, told: tuple[str, ...]) -> Object:
        names = [{"driver": "d", "pool": "p", "device": name} for name in devices]
        status = {"allocation": {"devices": {"results": names}}}
        return {"status": {**status, "devices": [{"driver": "d", "pool": "p", "device": name} for name in told]}}

    what = "resource.k8s.io/resourceclaims"
    old = {**created(what, {"spec": {}}), **claim("a", "b", told=("a", "b"))}
    new = {**copy.deepcopy(old), **claim("b", told=("a", "b"))}
    made = prepare_update(_kind(what), new, old, "status")
    assert [entry["device"] for entry in made["status"]["devices"]] == ["b"]
    gone = {**copy.deepcopy(old), "status": {"devices": old["status"]["devices"]}}
    assert "devices" not in prepare_update(_kind(what), gone, old, "status")["status"]


def test_conditions_of_certificate_requests_are_stamped() -> None:
    what = "certificates.k8s.io/certificatesigningrequests"
    before = {"type": "Approved", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    old = {**created(what, {"spec": {"request": "r"}}), "status": {"conditions": [before]}}
    new = copy.deepcopy(old)
    new["status"]["conditions"] = [
        {"type": "Approved", "status": "True", "message": "m"}, {"type": "Failed", "status": "True"},
    ]  # fmt: skip
    for subresource in ("approval", "status"):
        first, second = prepare_update(_kind(what), copy.deepcopy(new), old, subresource)["status"]["conditions"]
        assert first["lastTransitionTime"] == "2026-01-01T00:00:00Z"
        assert first["lastUpdateTime"] == second["lastUpdateTime"] == second["lastTransitionTime"]


def test_taints_of_devices_are_dated() -> None:
    what = "resource.k8s.io/resourceslices"
    taints = [{"key": "a", "effect": "NoExecute"}, {"key": "b", "effect": "None", "timeAdded": "2026-01-01T00:00:00Z"}]
    old = created(what, {"spec": {"devices": [{"name": "d", "taints": taints}]}})
    first, second = old["spec"]["devices"][0]["taints"]
    assert first["timeAdded"] > second["timeAdded"] == "2026-01-01T00:00:00Z"
