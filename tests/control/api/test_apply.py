"""Server-side apply: ownership, conflicts, force, hand-over and removal."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.api.apply import Manager, apply, is_tracked, track_update
from control.api.fieldsets import field_set, from_fields_v1, merge, path_text, root, to_fields_v1
from control.api.status import ApiError

DEPLOYMENT = "apps.v1.Deployment"
KUBECTL, AUTOSCALER, OTHER = (Manager(name, "Apply", "apps/v1") for name in ("kubectl", "hpa", "other"))
EDITOR = Manager("editor", "Update", "apps/v1")
NOW, LATER = "2024-05-06T07:08:09Z", "2024-05-06T08:00:00Z"


def deployment(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}


def with_containers(*names: str, **more: Any) -> dict[str, Any]:
    containers = [{"name": name, "image": f"{name}:1", **more} for name in names]
    return deployment(replicas=2, template={"spec": {"containers": containers}})


def owned(obj: dict[str, Any], manager: str) -> dict[str, Any]:
    found = [entry for entry in obj["metadata"].get("managedFields", []) if entry["manager"] == manager]
    return found[0]["fieldsV1"] if found else {}


def test_what_is_applied_is_owned_in_the_form_that_kubernetes_writes() -> None:
    live = apply(None, with_containers("c"), KUBECTL, DEPLOYMENT, NOW)
    assert live["metadata"]["managedFields"] == [
        {
            "manager": "kubectl",
            "operation": "Apply",
            "apiVersion": "apps/v1",
            "time": NOW,
            "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:spec": {
                    "f:replicas": {},
                    "f:template": {
                        "f:spec": {"f:containers": {'k:{"name":"c"}': {".": {}, "f:image": {}, "f:name": {}}}}
                    },
                }
            },
        }
    ]


def test_applying_the_same_again_changes_nothing() -> None:
    live = apply(None, with_containers("c"), KUBECTL, DEPLOYMENT, NOW)
    assert apply(live, with_containers("c"), KUBECTL, DEPLOYMENT, LATER) == live


def test_a_field_of_another_manager_is_a_conflict_and_force_takes_it() -> None:
    live = apply(None, with_containers("c"), KUBECTL, DEPLOYMENT, NOW)
    with pytest.raises(ApiError) as caught:
        apply(live, deployment(replicas=9), AUTOSCALER, DEPLOYMENT, LATER)
    assert caught.value.code == 409
    assert caught.value.message == 'Apply failed with 1 conflict: conflict with "kubectl": .spec.replicas'
    assert caught.value.status["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "kubectl"', "field": ".spec.replicas"}
    ]
    taken = apply(live, deployment(replicas=9), AUTOSCALER, DEPLOYMENT, LATER, force=True)
    assert taken["spec"]["replicas"] == 9
    assert "f:replicas" not in owned(taken, "kubectl")["f:spec"]
    assert owned(taken, "hpa") == {"f:spec": {"f:replicas": {}}}


def test_the_same_value_is_shared_and_stays_until_the_last_owner_drops_it() -> None:
    live = apply(None, with_containers("c"), KUBECTL, DEPLOYMENT, NOW)
    live = apply(live, deployment(replicas=2), AUTOSCALER, DEPLOYMENT, NOW)
    without = with_containers("c")
    del without["spec"]["replicas"]
    live = apply(live, without, KUBECTL, DEPLOYMENT, LATER)
    assert live["spec"]["replicas"] == 2
    live = apply(live, deployment(), AUTOSCALER, DEPLOYMENT, LATER)
    assert "replicas" not in live["spec"]


def test_what_is_no_longer_applied_goes_with_its_list_element() -> None:
    live = apply(None, with_containers("a", "b"), KUBECTL, DEPLOYMENT, NOW)
    live = apply(live, with_containers("b"), KUBECTL, DEPLOYMENT, LATER)
    assert [container["name"] for container in live["spec"]["template"]["spec"]["containers"]] == ["b"]


def test_an_element_stays_while_another_manager_has_something_in_it() -> None:
    live = apply(None, with_containers("a", "b"), KUBECTL, DEPLOYMENT, NOW)
    side = deployment(template={"spec": {"containers": [{"name": "a", "tty": True}]}})
    live = apply(live, side, OTHER, DEPLOYMENT, NOW)
    live = apply(live, with_containers("b"), KUBECTL, DEPLOYMENT, LATER)
    containers = live["spec"]["template"]["spec"]["containers"]
    assert {"name": "a", "tty": True} in containers


def test_an_element_goes_with_its_owner_though_others_changed_it() -> None:
    live = apply(None, with_containers("a", "b"), KUBECTL, DEPLOYMENT, NOW)
    edited = copy.deepcopy(live)
    edited["spec"]["template"]["spec"]["containers"][0]["tty"] = True
    live = track_update(live, edited, EDITOR, DEPLOYMENT, NOW)
    live = apply(live, with_containers("b"), KUBECTL, DEPLOYMENT, LATER)
    assert [container["name"] for container in live["spec"]["template"]["spec"]["containers"]] == ["b"]
    assert owned(live, "editor") == {}


def test_what_stood_before_the_first_apply_has_an_owner() -> None:
    live = with_containers("c")
    assert not is_tracked(live)
    with pytest.raises(ApiError, match=r'conflict with "before-first-apply" using apps/v1 at .*: .spec.replicas'):
        apply(live, deployment(replicas=3), KUBECTL, DEPLOYMENT, NOW)
    shared = apply(live, deployment(replicas=2), KUBECTL, DEPLOYMENT, NOW)
    assert owned(shared, "kubectl") == {"f:spec": {"f:replicas": {}}}


def test_what_kubectl_noted_is_kubectls_and_the_rest_is_not() -> None:
    """kubectl takes over all that stands beside its note, so what others wrote must stand elsewhere."""
    live = deployment(replicas=2, paused=True)
    key = "kubectl.kubernetes.io/last-applied-configuration"
    note = json.dumps(deployment(replicas=2))
    live["metadata"] |= {"labels": {"a": "b"}, "annotations": {key: note}}
    made = apply(live, deployment(minReadySeconds=5), OTHER, DEPLOYMENT, NOW)
    assert owned(made, "kubectl-client-side-apply") == {
        "f:metadata": {"f:annotations": {f"f:{key}": {}}}, "f:spec": {"f:replicas": {}},
    }  # fmt: skip
    rest = owned(made, "before-first-apply")
    assert "f:a" in rest["f:metadata"]["f:labels"]
    assert rest["f:spec"] == {"f:paused": {}}


def test_an_update_takes_what_it_changes() -> None:
    live = apply(None, with_containers("c"), KUBECTL, DEPLOYMENT, NOW)
    edited = copy.deepcopy(live)
    edited["spec"]["replicas"] = 7
    edited = track_update(live, edited, EDITOR, DEPLOYMENT, LATER)
    assert owned(edited, "editor") == {"f:spec": {"f:replicas": {}}}
    with pytest.raises(ApiError, match=r'conflict with "editor" using apps/v1 at 2024-05-06T08:00:00Z: .spec.replicas'):
        apply(edited, with_containers("c"), KUBECTL, DEPLOYMENT, LATER)


def test_an_update_that_removes_leaves_no_owner() -> None:
    live = apply(None, with_containers("a", "b"), KUBECTL, DEPLOYMENT, NOW)
    edited = copy.deepcopy(live)
    del edited["spec"]["template"]["spec"]["containers"][0]
    edited = track_update(live, edited, EDITOR, DEPLOYMENT, LATER)
    assert list(owned(edited, "kubectl")["f:spec"]["f:template"]["f:spec"]["f:containers"]) == ['k:{"name":"b"}']


def test_ports_are_known_by_their_default_protocol() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}
    manager = Manager("kubectl", "Apply", "v1")
    live = apply(None, service, manager, "core.v1.Service", NOW)
    assert list(owned(live, "kubectl")["f:spec"]["f:ports"]) == ['k:{"port":80,"protocol":"TCP"}']
    live["spec"]["ports"][0]["protocol"] = "TCP"
    again = apply(live, service, manager, "core.v1.Service", LATER)
    assert again["spec"]["ports"] == [{"port": 80, "protocol": "TCP"}]


def test_conflicts_are_listed_by_manager() -> None:
    live = apply(None, with_containers("c"), KUBECTL, DEPLOYMENT, NOW)
    wish = deployment(replicas=3, template={"spec": {"containers": [{"name": "c", "image": "x"}]}})
    with pytest.raises(ApiError) as caught:
        apply(live, wish, OTHER, DEPLOYMENT, NOW)
    assert caught.value.message == (
        'Apply failed with 2 conflicts: conflicts with "kubectl":\n- .spec.replicas\n'
        '- .spec.template.spec.containers[name="c"].image'
    )


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("f:spec", 'k:{"containerPort":80,"protocol":"TCP"}'), '.spec[containerPort=80,protocol="TCP"]'),
        (("f:finalizers", 'v:"x/y"'), '.finalizers[="x/y"]'),
    ],
)
def test_paths_are_written_as_kubernetes_writes_them(path: tuple[str, ...], text: str) -> None:
    assert path_text(path) == text


elements = st.sampled_from(["f:a", "f:b", 'k:{"name":"c"}', 'v:"d"'])
sets = st.frozensets(st.lists(elements, min_size=1, max_size=4).map(tuple), max_size=8)


@given(sets)
def test_fields_v1_round_trip(fields: frozenset[tuple[str, ...]]) -> None:
    assert from_fields_v1(to_fields_v1(fields)) == fields


scalars = st.integers(0, 3) | st.text("xy", max_size=2)
trees = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(scalars, lambda t: st.dictionaries(st.sampled_from("abc"), t, max_size=3)),
    max_size=3,
)


@given(trees, trees)
def test_merging_states_all_that_was_wished(live: dict[str, Any], wanted: dict[str, Any]) -> None:
    merged = merge(live, wanted, root(""))
    assert merge(merged, wanted, root("")) == merged
    leaves = {path for path in field_set(wanted, root("")) if path}
    assert leaves <= {path[:size] for path in field_set(merged, root("")) for size in range(len(path) + 1)}
