"""The fake API keeps the rules that components rely on."""

from contextlib import aclosing
from typing import Any

import pytest

from control.api import meta
from control.api.resources import CONFIG_MAPS, DEPLOYMENTS, NAMESPACES, PODS
from control.api.status import ApiError
from control.client.client import STRATEGIC_MERGE_PATCH, DeleteOptions, ListOptions
from tests.fakes.fake_client import FakeClient
from tests.fakes.fake_patch import json_patch, merge_patch, strategic_merge_patch


def thing(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "default", "labels": labels}, "data": {}}


async def test_create_gives_identity_and_refuses_a_second() -> None:
    client = FakeClient()
    made = await client.create(CONFIG_MAPS, thing("a"))
    assert made["kind"] == "ConfigMap"
    assert meta.uid(made)
    assert meta.resource_version(made) == "2"
    with pytest.raises(ApiError) as caught:
        await client.create(CONFIG_MAPS, thing("a"))
    assert caught.value.reason == "AlreadyExists"
    generated = await client.create(CONFIG_MAPS, {"metadata": {"generateName": "x-"}}, "default")
    assert meta.name(generated).startswith("x-")


async def test_stale_update_conflicts_and_an_equal_one_changes_nothing() -> None:
    client = FakeClient()
    made = await client.create(CONFIG_MAPS, thing("a"))
    assert await client.update(CONFIG_MAPS, made) == made
    made["data"]["k"] = "v"
    newer = await client.update(CONFIG_MAPS, made)
    assert meta.resource_version(newer) != meta.resource_version(made)
    with pytest.raises(ApiError) as caught:
        await client.update(CONFIG_MAPS, made | {"data": {}})
    assert caught.value.reason == "Conflict"


async def test_status_and_spec_are_apart_and_only_spec_moves_the_generation() -> None:
    client = FakeClient()
    body = {"metadata": {"name": "d", "namespace": "n"}, "spec": {"replicas": 1}}
    made = await client.create(DEPLOYMENTS, body)
    made = await client.update(DEPLOYMENTS, made | {"status": {"replicas": 9}})
    assert "status" not in made
    made = await client.update(DEPLOYMENTS, made | {"status": {"replicas": 9}, "spec": {}}, subresource="status")
    assert made["spec"] == {"replicas": 1}
    assert made["metadata"]["generation"] == 1
    made = await client.patch(DEPLOYMENTS, "d", {"spec": {"replicas": 2}}, "n")
    assert made["metadata"]["generation"] == 2
    assert made["status"] == {"replicas": 9}


async def test_finalizers_hold_an_object_until_the_last_goes() -> None:
    client = FakeClient()
    made = await client.create(CONFIG_MAPS, thing("a") | {"metadata": {**thing("a")["metadata"], "finalizers": ["f"]}})
    waiting = await client.delete(CONFIG_MAPS, "a", "default")
    assert meta.is_being_deleted(waiting)
    waiting["metadata"]["finalizers"] = []
    await client.update(CONFIG_MAPS, waiting)
    assert client.find(CONFIG_MAPS, "a", "default") is None
    assert meta.uid(made) == meta.uid(waiting)


async def test_a_pod_on_a_node_waits_for_its_kubelet() -> None:
    client = FakeClient()
    client.put(PODS, {"metadata": {"name": "p", "namespace": "n"}, "spec": {"nodeName": "n1"}})
    client.put(PODS, {"metadata": {"name": "q", "namespace": "n"}, "spec": {}})
    assert meta.is_being_deleted(await client.delete(PODS, "p", "n"))
    await client.delete(PODS, "q", "n")
    assert [meta.name(pod) for pod in client.objects(PODS)] == ["p"]
    await client.delete(PODS, "p", "n", DeleteOptions(grace_period_seconds=0))
    assert client.objects(PODS) == []


async def test_preconditions_and_propagation() -> None:
    client = FakeClient()
    made = await client.create(CONFIG_MAPS, thing("a"))
    with pytest.raises(ApiError, match="Precondition failed"):
        await client.delete(CONFIG_MAPS, "a", "default", DeleteOptions(uid="other"))
    held = await client.delete(CONFIG_MAPS, "a", "default", DeleteOptions(propagation_policy="Foreground"))
    assert held["metadata"]["finalizers"] == ["foregroundDeletion"]
    assert meta.uid(held) == meta.uid(made)


async def test_a_namespace_stays_until_it_is_finalized() -> None:
    client = FakeClient()
    client.put(NAMESPACES, {"metadata": {"name": "n"}, "spec": {"finalizers": ["kubernetes"]}})
    gone = await client.delete(NAMESPACES, "n")
    assert gone["status"]["phase"] == "Terminating"
    gone["spec"] = {}
    await client.update(NAMESPACES, gone, subresource="finalize")
    assert client.objects(NAMESPACES) == []


async def test_lists_select_and_page() -> None:
    client = FakeClient()
    for index in range(5):
        await client.create(CONFIG_MAPS, thing(f"c{index}", even=str(index % 2 == 0).lower()))
    even = await client.list(CONFIG_MAPS, "default", ListOptions(label_selector="even=true"))
    assert [meta.name(obj) for obj in even.items] == ["c0", "c2", "c4"]
    one = await client.list(CONFIG_MAPS, options=ListOptions(field_selector="metadata.name=c3"))
    assert len(one.items) == 1
    page = await client.list(CONFIG_MAPS, options=ListOptions(limit=3))
    rest = await client.list(CONFIG_MAPS, options=ListOptions(limit=3, continue_token=page.continue_token))
    assert (len(page.items), page.remaining_item_count, len(rest.items), rest.continue_token) == (3, 2, 2, "")


async def test_watch_shows_objects_entering_and_leaving_a_selector() -> None:
    client = FakeClient()
    options = ListOptions(label_selector="on=yes", resource_version="1")
    await client.create(CONFIG_MAPS, thing("a"))
    for labels in ({"on": "yes"}, {"on": "yes", "x": "y"}, {"on": "no", "x": None}):
        await client.patch(CONFIG_MAPS, "a", {"metadata": {"labels": labels}}, "default")
    seen = []
    watch: Any = client.watch(CONFIG_MAPS, options=options)
    async with aclosing(watch) as events:
        async for event in events:
            seen.append(event.type)
            if len(seen) == 3:
                break
    assert seen == ["ADDED", "MODIFIED", "DELETED"]


async def test_watch_from_a_forgotten_revision_is_gone() -> None:
    client = FakeClient()
    await client.create(CONFIG_MAPS, thing("a"))
    client.compact()
    with pytest.raises(ApiError) as caught:
        await anext(client.watch(CONFIG_MAPS, options=ListOptions(resource_version="1")))
    assert caught.value.code == 410


async def test_told_to_fail_it_fails_once() -> None:
    client = FakeClient()
    client.fail_next("create", CONFIG_MAPS)
    with pytest.raises(ApiError):
        await client.create(CONFIG_MAPS, thing("a"))
    await client.create(CONFIG_MAPS, thing("a"))


async def test_binding_sets_the_node_once() -> None:
    client = FakeClient()
    client.put(PODS, {"metadata": {"name": "p", "namespace": "n"}, "spec": {}})
    binding = {"target": {"name": "n1"}}
    await client.create(PODS, binding, "n", name="p", subresource="binding")
    assert (await client.get(PODS, "p", "n"))["spec"]["nodeName"] == "n1"
    with pytest.raises(ApiError):
        await client.create(PODS, binding, "n", name="p", subresource="binding")


async def test_strategic_patch_merges_conditions() -> None:
    client = FakeClient()
    client.put(PODS, {"metadata": {"name": "p", "namespace": "n"}, "status": {"conditions": [{"type": "A"}]}})
    patch = {"status": {"conditions": [{"type": "B", "status": "True"}]}}
    new = await client.patch(PODS, "p", patch, "n", patch_type=STRATEGIC_MERGE_PATCH, subresource="status")
    assert [entry["type"] for entry in new["status"]["conditions"]] == ["A", "B"]


def test_patches() -> None:
    assert merge_patch({"a": 1, "b": {"c": 1}}, {"a": None, "b": {"d": 2}}) == {"b": {"c": 1, "d": 2}}
    ports = strategic_merge_patch({"env": [{"name": "a"}, {"name": "b"}]}, {"env": [{"name": "a", "$patch": "delete"}]})
    assert ports == {"env": [{"name": "b"}]}
    assert json_patch({"a": [1]}, [{"op": "add", "path": "/a/-", "value": 2}]) == {"a": [1, 2]}
