"""PodDisruptionBudgets: how many pods may go, and what is remembered of those that were to."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
import pytest

from control.api import meta
from control.api.meta import Object
from control.api.resources import (
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    PODS,
    REPLICA_SETS,
    STATEFUL_SETS,
    Resource,
)
from control.controllers.disruption import (
    DisruptionController,
    DisruptionTargetController,
    Expectation,
    expectation,
    next_status,
)
from control.controllers.pods import format_time
from tests.control.controllers.harness import START, World, until

FANCY_SETS = Resource("example.com", "v1", "fancysets", "FancySet")


def pod(name: str, *, ready: bool = True, owner: Object | None = None, **metadata: Any) -> Object:
    references = [meta.controller_reference(owner)] if owner is not None else []
    head = {"name": name, "namespace": "a", "labels": {"app": "web"}, "ownerReferences": references, **metadata}
    return {"metadata": head, "spec": {}, "status": {"conditions": [{"type": "Ready", "status": str(ready)}]}}


def budget(status: Object | None = None, **spec: Any) -> Object:
    selector = {"matchLabels": {"app": "web"}}
    head = {"name": "b", "namespace": "a", "generation": 2}
    return {"metadata": head, "spec": {"selector": selector, **spec}, "status": status or {}}


@pytest.mark.parametrize(
    ("spec", "scales", "expected"),
    [
        ({"minAvailable": 2}, {}, Expectation(3, 2)),
        ({"minAvailable": "50%"}, {"u": 5}, Expectation(5, 3)),
        ({"maxUnavailable": 1}, {"u": 5}, Expectation(5, 4)),
        ({"maxUnavailable": "30%"}, {"u": 5, "v": 2}, Expectation(7, 4)),
        ({"maxUnavailable": 9}, {"u": 5}, Expectation(5, 0)),
        ({}, {}, Expectation(0, 0)),
    ],
    ids=["number", "part, rounded up", "unavailable", "part of all controllers", "more than there are", "neither"],
)
def test_what_a_budget_expects(spec: Object, scales: dict[str, int], expected: Expectation) -> None:
    assert expectation(budget(**spec), [pod(name) for name in "xyz"], scales) == expected


@pytest.mark.parametrize(
    ("pods", "wanted", "allowed"),
    [
        ([pod(n) for n in "xyz"], Expectation(3, 2), 1),
        ([pod("x"), pod("y", ready=False)], Expectation(2, 1), 0),
        ([pod("x"), pod("y", deletionTimestamp="2026-01-01T00:00:00Z")], Expectation(2, 1), 0),
        ([], Expectation(0, 0), 0),
        ([pod(n) for n in "xyz"], Expectation(3, 5), 0),
    ],
    ids=["one may go", "an ill one does not serve", "nor one that goes", "no pods, no room", "too few as it is"],
)
def test_how_many_may_go(pods: list[Object], wanted: Expectation, allowed: int) -> None:
    status, _ = next_status(budget(), pods, wanted, START)
    assert status["disruptionsAllowed"] == allowed
    condition = status["conditions"][0]
    assert (condition["type"], condition["status"], condition["reason"], condition["observedGeneration"]) == (
        "DisruptionAllowed", *(("True", "SufficientPods") if allowed else ("False", "InsufficientPods")), 2
    )  # fmt: skip


def test_a_pod_that_was_to_go_counts_as_gone_for_two_minutes() -> None:
    pods = [pod(name) for name in "xyz"]
    known = {"x": format_time(START), "elsewhere": format_time(START)}
    held = budget({"disruptedPods": known})
    status, again = next_status(held, pods, Expectation(3, 1), START + timedelta(seconds=30))
    assert (status["currentHealthy"], status["disruptedPods"], again) == (2, {"x": format_time(START)}, 90.0)
    status, again = next_status(held, pods, Expectation(3, 1), START + timedelta(seconds=121))
    assert (status["currentHealthy"], "disruptedPods" in status, again) == (3, False, None)


def stored_status(world: World) -> Object:
    found: Object = (world.client.find(DISRUPTION_BUDGETS, "b", "a") or {}).get("status") or {}
    return found


def put_set(world: World, resource: Resource, name: str, replicas: int, owner: Object | None = None) -> Object:
    references = [meta.controller_reference(owner)] if owner is not None else []
    head = {"name": name, "namespace": "a", "ownerReferences": references}
    return world.client.put(resource, {"metadata": head, "spec": {"replicas": replicas}})


async def test_a_budget_follows_its_pods() -> None:
    world = World()
    client = world.client
    deployment = put_set(world, DEPLOYMENTS, "d", 4)
    replica_set = put_set(world, REPLICA_SETS, "r", 3, deployment)
    for name in "xyz":
        client.put(PODS, pod(name, owner=replica_set))
    client.put(DISRUPTION_BUDGETS, budget(maxUnavailable="50%"))
    async with world.running(lambda context: [DisruptionController(context)]):
        # The Deployment's wish counts, not that of its sets.
        await until(lambda: stored_status(world).get("expectedPods") == 4)
        assert (stored_status(world)["desiredHealthy"], stored_status(world)["disruptionsAllowed"]) == (2, 1)
        client.put(PODS, pod("x", owner=replica_set, ready=False))
        await until(lambda: stored_status(world)["disruptionsAllowed"] == 0)
        client.put(PODS, pod("x", owner=replica_set))
        await until(lambda: stored_status(world)["disruptionsAllowed"] == 1)
        client.remove(PODS, "y", "a")
        await until(lambda: stored_status(world)["currentHealthy"] == 2)


async def test_any_kind_with_a_scale_will_do_and_none_lets_nothing_go() -> None:
    world = World()
    client = world.client
    stateful, fancy = put_set(world, STATEFUL_SETS, "s", 3), put_set(world, FANCY_SETS, "f", 2)
    client.put(PODS, pod("x", owner=stateful))
    client.put(PODS, pod("y", owner=fancy))
    served = {"name": "fancysets", "kind": "FancySet", "namespaced": True, "verbs": ["get"]}
    group = {"name": "example.com", "preferredVersion": {"groupVersion": "example.com/v1", "version": "v1"}}
    client.raw["GET", "/apis"] = orjson.dumps({"groups": [group]})
    client.raw["GET", "/api/v1"] = orjson.dumps({"resources": []})
    client.raw["GET", "/apis/example.com/v1"] = orjson.dumps({"resources": [served]})
    client.put(DISRUPTION_BUDGETS, budget(minAvailable="20%"))
    async with world.running(lambda context: [DisruptionController(context)]):
        await until(lambda: stored_status(world).get("expectedPods") == 5)
        assert stored_status(world)["disruptionsAllowed"] == 1
        client.remove(FANCY_SETS, "f", "a")
        client.put(PODS, pod("y", owner=fancy, ready=False))
        await until(lambda: stored_status(world)["conditions"][0]["reason"] == "SyncFailed")
        assert stored_status(world)["disruptionsAllowed"] == 0
        assert stored_status(world)["conditions"][0]["message"] == 'found no controllers for pod "y"'


async def test_a_mark_that_nothing_came_of_is_taken_away() -> None:
    world = World()
    client = world.client
    mark = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "lastTransitionTime": format_time(START),
    }
    kubelet = {**mark, "reason": "TerminationByKubelet"}
    for name, condition in (("x", mark), ("y", kubelet)):
        client.put(PODS, {**pod(name), "status": {"phase": "Running", "conditions": [condition]}})
    async with world.running(lambda context: [DisruptionTargetController(context)]) as (controller,):
        await world.settle([controller])
        world.pass_time(121)
        for name in "xy":
            controller.queue.add(f"a/{name}")
        await until(
            lambda: (
                meta.condition(client.find(PODS, "x", "a") or {}, "DisruptionTarget")
                == {
                    "type": "DisruptionTarget",
                    "status": "False",
                    "lastTransitionTime": format_time(START + timedelta(seconds=121)),
                }
            )
        )
        await world.settle([controller])
        assert meta.condition_is_true(client.find(PODS, "y", "a") or {}, "DisruptionTarget")
