"""Server-side apply: ownership, conflicts, force, hand-over and removal."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.api.apply import apply
from control.api.comparing import of
from control.api.fieldsets import merge, path_text, root
from control.api.fieldtrees import paths
from control.api.status import ApiError
from control.api.tracking import Manager, Scope, track_update

SCOPE = Scope("apps.v1.Deployment", frozenset({("status",)}))
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
    live = apply(None, with_containers("c"), KUBECTL, SCOPE, NOW)
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
    live = apply(None, with_containers("c"), KUBECTL, SCOPE, NOW)
    assert apply(live, with_containers("c"), KUBECTL, SCOPE, LATER) == live


def test_a_field_of_another_manager_is_a_conflict_and_force_takes_it() -> None:
    live = apply(None, with_containers("c"), KUBECTL, SCOPE, NOW)
    with pytest.raises(ApiError) as caught:
        apply(live, deployment(replicas=9), AUTOSCALER, SCOPE, LATER)
    assert caught.value.code == 409
    assert caught.value.message == 'Apply failed with 1 conflict: conflict with "kubectl": .spec.replicas'
    assert caught.value.status["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "kubectl"', "field": ".spec.replicas"}
    ]
    taken = apply(live, deployment(replicas=9), AUTOSCALER, SCOPE, LATER, force=True)
    assert taken["spec"]["replicas"] == 9
    assert "f:replicas" not in owned(taken, "kubectl")["f:spec"]
    assert owned(taken, "hpa") == {"f:spec": {"f:replicas": {}}}


def test_the_same_value_is_shared_and_stays_until_the_last_owner_drops_it() -> None:
    live = apply(None, with_containers("c"), KUBECTL, SCOPE, NOW)
    live = apply(live, deployment(replicas=2), AUTOSCALER, SCOPE, NOW)
    without = with_containers("c")
    del without["spec"]["replicas"]
    live = apply(live, without, KUBECTL, SCOPE, LATER)
    assert live["spec"]["replicas"] == 2
    live = apply(live, deployment(), AUTOSCALER, SCOPE, LATER)
    assert "replicas" not in live["spec"]


def test_what_is_no_longer_applied_goes_with_its_list_element() -> None:
    live = apply(None, with_containers("a", "b"), KUBECTL, SCOPE, NOW)
    live = apply(live, with_containers("b"), KUBECTL, SCOPE, LATER)
    assert [container["name"] for container in live["spec"]["template"]["spec"]["containers"]] == ["b"]


def test_an_element_stays_while_another_manager_has_something_in_it() -> None:
    live = apply(None, with_containers("a", "b"), KUBECTL, SCOPE, NOW)
    side = deployment(template={"spec": {"containers": [{"name": "a", "tty": True}]}})
    live = apply(live, side, OTHER, SCOPE, NOW)
    live = apply(live, with_containers("b"), KUBECTL, SCOPE, LATER)
    containers = live["spec"]["template"]["spec"]["containers"]
    assert {"name": "a", "tty": True} in containers


def test_an_element_goes_with_its_owner_though_others_changed_it() -> None:
    live = apply(None, with_containers("a", "b"), KUBECTL, SCOPE, NOW)
    edited = copy.deepcopy(live)
    edited["spec"]["template"]["spec"]["containers"][0]["tty"] = True
    live = track_update(live, edited, EDITOR, SCOPE, NOW)
    live = apply(live, with_containers("b"), KUBECTL, SCOPE, LATER)
    assert [container["name"] for container in live["spec"]["template"]["spec"]["containers"]] == ["b"]
    assert owned(live, "editor") == {}


def test_what_stood_before_the_first_apply_has_an_owner() -> None:
    live = with_containers("c")
    with pytest.raises(ApiError, match=r'conflict with "before-first-apply" using apps/v1: .spec.replicas'):
        apply(live, deployment(replicas=3), KUBECTL, SCOPE, NOW)
    shared = apply(live, deployment(replicas=2), KUBECTL, SCOPE, NOW)
    assert owned(shared, "kubectl") == {"f:spec": {"f:replicas": {}}}


def test_an_update_takes_what_it_changes() -> None:
    live = apply(None, with_containers("c"), KUBECTL, SCOPE, NOW)
    edited = copy.deepcopy(live)
    edited["spec"]["replicas"] = 7
    edited = track_update(live, edited, EDITOR, SCOPE, LATER)
    assert owned(edited, "editor") == {"f:spec": {"f:replicas": {}}}
    with pytest.raises(ApiError, match=r'conflict with "editor" using apps/v1: .spec.replicas'):
        apply(edited, with_containers("c"), KUBECTL, SCOPE, LATER)


def test_an_update_that_removes_leaves_no_owner() -> None:
    live = apply(None, with_containers("a", "b"), KUBECTL, SCOPE, NOW)
    edited = copy.deepcopy(live)
    del edited["spec"]["template"]["spec"]["containers"][0]
    edited = track_update(live, edited, EDITOR, SCOPE, LATER)
    assert list(owned(edited, "kubectl")["f:spec"]["f:template"]["f:spec"]["f:containers"]) == ['k:{"name":"b"}']


def test_ports_are_known_by_their_default_protocol() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}
    manager = Manager("kubectl", "Apply", "v1")
    live = apply(None, service, manager, Scope("core.v1.Service"), NOW)
    assert list(owned(live, "kubectl")["f:spec"]["f:ports"]) == ['k:{"port":80,"protocol":"TCP"}']
    live["spec"]["ports"][0]["protocol"] = "TCP"
    again = apply(live, service, manager, Scope("core.v1.Service"), LATER)
    assert again["spec"]["ports"] == [{"port": 80, "protocol": "TCP"}]


def test_conflicts_are_listed_by_manager() -> None:
    live = apply(None, with_containers("c"), KUBECTL, SCOPE, NOW)
    wish = deployment(replicas=3, template={"spec": {"containers": [{"name": "c", "image": "x"}]}})
    with pytest.raises(ApiError) as caught:
        apply(live, wish, OTHER, SCOPE, NOW)
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
    stated, reached = (set(paths(of("").stated(value) or {})) for value in (wanted, merged))
    assert stated <= {path[:size] for path in reached for size in range(len(path) + 1)}
