"""The garbage collector: what is deleted with its owners, what stays, and in which order."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.api import meta
from control.api.meta import Object
from control.api.resources import CONFIG_MAPS, PODS, REPLICA_SETS
from control.client.client import DeleteOptions
from control.controllers.garbage.collector import GarbageCollector
from control.controllers.garbage.graph import (
    FOREGROUND,
    ORPHAN,
    Discard,
    Graph,
    Item,
    Keep,
    Owner,
    Standing,
    blocking,
    decide,
    item_of,
)
from tests.control.controllers.harness import World, until
from tests.fakes.fake_client import FakeClient

SOLID, ABSENT, WAITING = Standing.SOLID, Standing.ABSENT, Standing.WAITING


def item(uid: str, *owners: str, finalizers: tuple[str, ...] = (), deleting: bool = False, blocks: bool = True) -> Item:
    references = tuple(Owner(owner, "v1", "ConfigMap", owner, blocks) for owner in owners)
    return Item(CONFIG_MAPS, "n", uid, uid, references, frozenset(finalizers), deleting)


@pytest.mark.parametrize(
    ("found", "standing", "dependents", "expected"),
    [
        (item("a"), {}, 0, Keep()),
        (item("a", "x"), {"x": SOLID}, 0, Keep()),
        (item("a", "x"), {"x": ABSENT}, 0, Discard("Background")),
        (item("a", "x", "y"), {"x": ABSENT, "y": SOLID}, 0, Keep(("x",))),
        (item("a", "x", "y"), {"x": WAITING, "y": SOLID}, 0, Keep(("x",))),
        (item("a", "x", "y"), {"x": ABSENT, "y": ABSENT}, 0, Discard("Background")),
        (item("a", "x"), {"x": WAITING}, 0, Discard("Background")),
        (item("a", "x"), {"x": WAITING}, 1, Discard("Foreground")),
        (item("a", "x", finalizers=(ORPHAN,)), {"x": ABSENT}, 1, Discard("Orphan")),
        (item("a", "x", finalizers=(FOREGROUND,)), {"x": ABSENT}, 1, Discard("Foreground")),
        (item("a", "x", deleting=True), {"x": ABSENT}, 0, Keep()),
    ],
    ids=[
        "no owner", "owner is there", "owner is gone", "one of two is gone", "one of two waits", "both are gone",
        "owner waits", "owner waits, has dependents", "wants orphans", "wants foreground", "goes already",
    ],
)  # fmt: skip
def test_what_becomes_of_an_object(
    found: Item, standing: dict[str, Standing], dependents: int, expected: Keep | Discard
) -> None:
    assert decide(found, standing, [item(f"d{i}") for i in range(dependents)]) == expected


def test_only_blocking_dependents_hold_their_owner_up() -> None:
    owner = item("o", finalizers=(FOREGROUND,), deleting=True)
    free, held = item("a", "o", blocks=False), item("b", "o")
    assert blocking(owner, [free, held]) == [held]


def test_the_graph_says_whom_to_look_at() -> None:
    graph = Graph()
    assert graph.put(item("owner")) == set()
    assert graph.put(item("child", "owner")) == {"child"}
    assert graph.put(item("child", "owner")) == set()
    assert graph.put(item("owner", finalizers=(FOREGROUND,), deleting=True)) == {"owner"}
    assert graph.remove("child") == {"owner"}
    assert graph.put(item("late", "owner")) == {"late", "owner"}
    assert graph.remove("owner") == {"late"}
    assert graph.remove("unknown") == set()


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from("abcd"), st.sets(st.sampled_from("abcd"), max_size=2)), max_size=40
    )
)
def test_dependents_are_always_those_that_name_their_owner(steps: list[tuple[bool, str, set[str]]]) -> None:
    graph, truth = Graph(), {}
    for put, uid, owners in steps:
        if put:
            truth[uid] = item(uid, *sorted(owners - {uid}))
            graph.put(truth[uid])
        else:
            truth.pop(uid, None)
            graph.remove(uid)
        for owner in "abcd":
            expected = {found.uid for found in truth.values() if any(entry.uid == owner for entry in found.owners)}
            assert {found.uid for found in graph.dependents(owner)} == expected


def serve_discovery(client: FakeClient) -> None:
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]

    def entry(name: str, kind: str) -> dict[str, Any]:
        return {"name": name, "kind": kind, "namespaced": True, "verbs": verbs}

    core = {"resources": [entry("pods", "Pod"), entry("configmaps", "ConfigMap"), {"name": "pods/log", "kind": "Pod"}]}
    groups = {"groups": [{"name": "apps", "preferredVersion": {"groupVersion": "apps/v1", "version": "v1"}}]}
    client.raw["GET", "/api/v1"] = orjson.dumps(core)
    client.raw["GET", "/apis"] = orjson.dumps(groups)
    client.raw["GET", "/apis/apps/v1"] = orjson.dumps({"resources": [entry("replicasets", "ReplicaSet")]})


def owned(name: str, owner: Object, **more: Any) -> Object:
    reference = {**meta.controller_reference(owner), **more}
    return {"metadata": {"name": name, "namespace": "n", "ownerReferences": [reference]}, "spec": {}}


async def make_family(world: World) -> Object:
    serve_discovery(world.client)
    owner = world.client.put(REPLICA_SETS, {"metadata": {"name": "rs", "namespace": "n"}, "spec": {}})
    for name in "abc":
        world.client.put(PODS, owned(name, owner))
    world.client.put(CONFIG_MAPS, {"metadata": {"name": "free", "namespace": "n"}})
    return owner


@pytest.mark.parametrize("policy", ["Background", "Foreground"])
async def test_dependents_go_with_their_owner(policy: Any) -> None:
    world = World()
    await make_family(world)
    async with world.running(lambda context: [GarbageCollector(context)]):
        await until(lambda: len([call for call in world.client.calls if call.verb == "watch"]) >= 3)
        await world.client.delete(REPLICA_SETS, "rs", "n", DeleteOptions(propagation_policy=policy))
        if policy == "Foreground":
            assert world.client.find(REPLICA_SETS, "rs", "n") is not None
        await until(lambda: not world.client.objects(PODS))
        await until(lambda: not world.client.objects(REPLICA_SETS))
    assert [meta.name(obj) for obj in world.client.objects(CONFIG_MAPS)] == ["free"]


async def test_orphans_stay() -> None:
    world = World()
    await make_family(world)
    async with world.running(lambda context: [GarbageCollector(context)]):
        await until(lambda: len([call for call in world.client.calls if call.verb == "watch"]) >= 3)
        await world.client.delete(REPLICA_SETS, "rs", "n", DeleteOptions(propagation_policy="Orphan"))
        await until(lambda: not world.client.objects(REPLICA_SETS))
    pods = world.client.objects(PODS)
    assert len(pods) == 3
    assert not any(meta.owner_references(pod) for pod in pods)


async def test_an_owner_that_never_was_is_asked_for_first() -> None:
    world = World()
    serve_discovery(world.client)
    ghost = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "ghost", "namespace": "n", "uid": "g"}}
    stranger = {"apiVersion": "odd/v1", "kind": "Stranger", "metadata": {"name": "s", "namespace": "n", "uid": "s"}}
    world.client.put(PODS, owned("a", ghost))
    world.client.put(PODS, owned("b", stranger))
    async with world.running(lambda context: [GarbageCollector(context)]):
        await until(lambda: world.client.find(PODS, "a", "n") is None)
    assert world.client.find(PODS, "b", "n") is not None, "of an unknown kind nothing is concluded"
    assert any(call.verb == "get" and call.name == "ghost" for call in world.client.calls)


async def test_an_owner_made_anew_under_its_name_is_another() -> None:
    world = World()
    owner = await make_family(world)
    async with world.running(lambda context: [GarbageCollector(context)]):
        await until(lambda: len([call for call in world.client.calls if call.verb == "watch"]) >= 3)
        world.client.remove(REPLICA_SETS, "rs", "n")
        world.client.put(REPLICA_SETS, {"metadata": {"name": "rs", "namespace": "n", "uid": "other"}, "spec": {}})
        await until(lambda: not world.client.objects(PODS))
    assert meta.uid(owner) != "other"


def test_items_are_read_from_objects() -> None:
    obj = owned("a", {"apiVersion": "v1", "kind": "K", "metadata": {"name": "o", "uid": "u"}}, blockOwnerDeletion=False)
    obj["metadata"] |= {"uid": "a", "finalizers": ["f"], "deletionTimestamp": "x"}
    found = item_of(PODS, obj)
    assert (found.owners[0].uid, found.owners[0].blocks, found.deleting) == ("u", False, True)
