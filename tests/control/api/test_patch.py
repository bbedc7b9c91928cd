"""Patches of the three kinds, by tables and by what must hold for any document."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.api.patch import create_merge_patch, json_patch, merge_patch
from control.api.status import ApiError
from control.api.strategic import strategic_merge_patch

scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab/~", max_size=3)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab/~", max_size=3), inner, max_size=3)
)
objects = st.dictionaries(st.text("abc", max_size=2), documents, max_size=4)


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return value


@settings(max_examples=40)
@given(objects, objects)
def test_a_made_merge_patch_leads_to_what_it_was_made_for(original: Any, modified: Any) -> None:
    original, modified = without_nulls(original), without_nulls(modified)
    assert merge_patch(original, create_merge_patch(original, modified)) == modified


@settings(max_examples=40)
@given(objects, documents)
def test_adding_and_removing_is_nothing(document: Any, value: Any) -> None:
    path = "/fresh~1name"
    added = json_patch(document, [{"op": "add", "path": path, "value": value}])
    assert added["fresh/name"] == value
    assert json_patch(added, [{"op": "remove", "path": path}]) == document


@pytest.mark.parametrize(
    ("document", "operations", "wanted"),
    [
        pytest.param({"a": [1, 2]}, [{"op": "add", "path": "/a/1", "value": 9}], {"a": [1, 9, 2]}, id="insert"),
        pytest.param({"a": [1]}, [{"op": "add", "path": "/a/-", "value": 9}], {"a": [1, 9]}, id="append"),
        pytest.param({"a": 1}, [{"op": "replace", "path": "/a", "value": 2}], {"a": 2}, id="replace"),
        pytest.param({"a": 1}, [{"op": "move", "from": "/a", "path": "/b"}], {"b": 1}, id="move"),
        pytest.param({"a": {"x": 1}}, [{"op": "copy", "from": "/a", "path": "/b"}], {"a": {"x": 1}, "b": {"x": 1}}),
        pytest.param({"a/b": 1}, [{"op": "test", "path": "/a~1b", "value": 1}], {"a/b": 1}, id="escapes"),
        pytest.param({}, [{"op": "test", "path": "/a", "value": None}], {}, id="null for nothing"),
    ],
)
def test_json_patch(document: Any, operations: Any, wanted: Any) -> None:
    assert json_patch(document, operations) == wanted


@pytest.mark.parametrize(
    ("operations", "text"),
    [
        ([{"op": "remove", "path": "/x"}], "remove operation does not apply: doc is missing path: /x: missing value"),
        ([{"op": "test", "path": "/a", "value": 2}], "testing value /a failed: test failed"),
        (
            [{"op": "replace", "path": "/a/b", "value": 1}],
            "replace operation does not apply: doc is missing path: /a/b",
        ),
        ([{"op": "add", "path": "/l/7", "value": 1}], "invalid index referenced"),
        ([{"op": "what", "path": "/a"}], "Unexpected kind: what"),
        ([{"op": "add", "path": "/a"}], "missing value"),
    ],
)
def test_json_patch_that_does_not_apply(operations: Any, text: str) -> None:
    with pytest.raises(ApiError) as caught:
        json_patch({"a": 1, "l": []}, operations)
    assert caught.value.code == 422
    assert text in caught.value.status["details"]["causes"][0]["message"]


def containers(*items: dict[str, Any]) -> dict[str, Any]:
    return {"spec": {"containers": list(items)}}


A, B, C = {"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c", "image": "3"}


@pytest.mark.parametrize(
    ("original", "patch", "wanted"),
    [
        pytest.param(
            containers(A, B),
            containers({"name": "b", "image": "9"}),
            containers(A, {"name": "b", "image": "9"}),
            id="by merge key",
        ),
        pytest.param(containers(A), containers(B), containers(A, B), id="new elements go last"),
        pytest.param(
            containers(A, B), containers({"$patch": "delete", "name": "a"}), containers(B), id="delete an element"
        ),
        pytest.param(containers(A, B), containers({"$patch": "replace"}, C), containers(C), id="replace a list"),
        pytest.param(
            containers(A),
            containers({"$patch": "replace"}, B, {**B, "image": "other"}),
            containers(B, {**B, "image": "other"}),
            id="replace a list, one key twice",
        ),
        pytest.param(
            containers(A, B),
            {"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "b"}], "containers": [C]}},
            containers(C, A, B),
            id="order of the patch, the rest before what it stood before",
        ),
        pytest.param(
            {"spec": {"nodeSelector": {"a": "1"}}},
            {"spec": {"nodeSelector": {"b": "2"}}},
            {"spec": {"nodeSelector": {"a": "1", "b": "2"}}},
            id="maps merge",
        ),
        pytest.param(
            {"spec": {"containers": [{"name": "a", "args": ["x"]}]}},
            {"spec": {"containers": [{"name": "a", "args": ["y"]}]}},
            {"spec": {"containers": [{"name": "a", "args": ["y"]}]}},
            id="atomic lists are replaced",
        ),
        pytest.param(
            {"metadata": {"finalizers": ["a", "b"]}},
            {"metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"]}},
            {"metadata": {"finalizers": ["b", "c"]}},
            id="primitive lists",
        ),
        pytest.param({"spec": {"nodeName": "x"}}, {"spec": {"nodeName": None}}, {"spec": {}}, id="null deletes"),
        pytest.param({"spec": {"a": 1}}, {"spec": {"$patch": "replace", "b": 2}}, {"spec": {"b": 2}}, id="replace map"),
        pytest.param({}, {"spec": {"nodeName": None, "x": {"y": None}}}, {"spec": {"x": {}}}, id="nulls on nothing"),
    ],
)
def test_strategic_merge(original: Any, patch: Any, wanted: Any) -> None:
    assert strategic_merge_patch(original, patch, "core.v1.Pod") == wanted


def test_retain_keys_drops_the_other_half_of_a_union() -> None:
    original = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    patch = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    wanted = {"spec": {"strategy": {"type": "Recreate"}}}
    assert strategic_merge_patch(original, patch, "apps.v1.Deployment") == wanted


def test_an_element_without_its_merge_key_is_refused() -> None:
    with pytest.raises(ApiError, match="does not contain declared merge key: name"):
        strategic_merge_patch(containers(A), containers({"image": "x"}), "core.v1.Pod")


names = st.lists(st.sampled_from("abcdef"), unique=True, max_size=5)


@given(names, names)
def test_the_set_order_is_the_order_of_its_elements(live: list[str], order: list[str]) -> None:
    patch = {
        "spec": {
            "$setElementOrder/containers": [{"name": name} for name in order],
            "containers": [{"name": name, "image": "new"} for name in order],
        }
    }
    merged = strategic_merge_patch(containers(*({"name": name} for name in live)), patch, "core.v1.Pod")
    found = [container["name"] for container in merged["spec"]["containers"]]
    assert [name for name in found if name in order] == order
    assert [name for name in found if name not in order] == [name for name in live if name not in order]
