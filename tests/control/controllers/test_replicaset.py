"""ReplicaSets: the number of pods, who goes first, adoption and status."""

from typing import Any

import pytest

from control.api import meta
from control.api.meta import Object
from control.api.resources import EVENTS, PODS, REPLICA_SETS
from control.api.status import forbidden
from control.controllers.claims import decide
from control.controllers.expectations import Expectations
from control.controllers.replicaset import ReplicaSetController, choose_victims, next_status, scaling
from tests.control.controllers.harness import START, World, until


def replica_set(replicas: int = 3, **spec: Any) -> Object:
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": "web", "namespace": "n", "uid": "rs", "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template, **spec},
    }


def pod(name: str, *, ready: bool = True, phase: str = "Running", node: str = "n1", age_s: int = 1000,
        cost: str = "", restarts: int = 0, labels: dict[str, str] | None = None, owned: bool = True) -> Object:  # fmt: skip
    from datetime import timedelta

    since = (START - timedelta(seconds=age_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
    metadata: dict[str, Any] = {"name": name, "namespace": "n", "uid": name, "creationTimestamp": since}
    metadata["labels"] = labels or {"app": "web"}
    if cost:
        metadata["annotations"] = {"controller.kubernetes.io/pod-deletion-cost": cost}
    if owned:
        metadata["ownerReferences"] = [{"kind": "ReplicaSet", "name": "web", "uid": "rs", "controller": True}]
    condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": since}
    status = {"phase": phase, "conditions": [condition], "containerStatuses": [{"restartCount": restarts}]}
    return {"metadata": metadata, "spec": {"nodeName": node} if node else {}, "status": status}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pod("z", node=""), pod("a")),
        (pod("z", phase="Pending"), pod("a")),
        (pod("z", ready=False), pod("a")),
        (pod("z", cost="-5"), pod("a")),
        (pod("z"), pod("a", cost="1")),
        (pod("z", node="crowded"), pod("a")),
        (pod("z", age_s=10), pod("a")),
        (pod("z", restarts=3), pod("a")),
        (pod("a", cost="no number"), pod("b")),
    ],
    ids=[
        "unassigned", "pending", "not ready", "cheaper", "other is dearer", "crowded node", "young", "restarted",
        "bad annotation is none",
    ],
)  # fmt: skip
def test_who_is_deleted_first(first: Object, second: Object) -> None:
    crowds = {"crowded": 2, "n1": 1}
    assert choose_victims([second, first], 1, crowds, START) == (first,)
    assert choose_victims([first, second], 1, crowds, START) == (first,)


@pytest.mark.parametrize(
    ("wished", "there", "create", "delete"), [(3, 0, 3, 0), (3, 3, 0, 0), (3, 5, 0, 2), (0, 2, 0, 2), (2000, 0, 500, 0)]
)
def test_how_many(wished: int, there: int, create: int, delete: int) -> None:
    decided = scaling(replica_set(wished), [pod(f"p{i}") for i in range(there)], {}, START)
    assert (decided.create, len(decided.delete)) == (create, delete)


def test_status_counts_and_waits_for_availability() -> None:
    owned = [pod("a"), pod("b", age_s=4), pod("c", ready=False), pod("d", phase="Failed"), pod("e")]
    owned[4]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    status, wait = next_status(replica_set(3, minReadySeconds=10), owned, None, START)
    assert (status["replicas"], status["readyReplicas"], status["availableReplicas"]) == (3, 2, 1)
    assert (status["fullyLabeledReplicas"], status["terminatingReplicas"]) == (3, 1)
    assert wait == 6.0


def test_claims() -> None:
    mine, other, orphan = pod("mine"), pod("other"), pod("orphan", owned=False)
    other["metadata"]["ownerReferences"][0]["uid"] = "somebody"
    strayed = pod("strayed", labels={"app": "else"})
    dying = pod("dying", owned=False)
    dying["metadata"]["deletionTimestamp"] = "x"
    claims = decide(replica_set(), [mine, other, orphan, strayed, dying], lambda _: True)
    assert ([*claims.owned], [*claims.adopt], [*claims.release]) == ([mine], [orphan], [strayed])


def test_expectations_hold_until_seen_or_old() -> None:
    expectations = Expectations()
    expectations.expect("k", 2, ["u"], 0.0)
    assert not expectations.satisfied("k", 1.0)
    expectations.created("k", 2)
    assert not expectations.satisfied("k", 1.0)
    expectations.deleted("k", "u")
    assert expectations.satisfied("k", 1.0)
    expectations.expect("k", 1, [], 0.0)
    assert expectations.satisfied("k", 301.0)


async def test_pods_are_made_replaced_and_removed() -> None:
    world = World()
    client = world.client
    client.put(REPLICA_SETS, replica_set(3))
    async with world.running(lambda context: [ReplicaSetController(context)]) as controllers:
        await until(lambda: len(client.objects(PODS)) == 3)
        await world.settle(controllers)
        assert len(client.objects(PODS)) == 3
        assert all(meta.controller_of(found) for found in client.objects(PODS))
        client.remove(PODS, meta.name(client.objects(PODS)[0]), "n")
        await world.settle(controllers)
        assert len(client.objects(PODS)) == 3
        for found in client.objects(PODS):
            world.make_ready(found)
        await world.settle(controllers)
        stored = client.find(REPLICA_SETS, "web", "n")
        assert stored is not None
        assert (stored["status"]["readyReplicas"], stored["status"]["observedGeneration"]) == (3, 1)
        await client.patch(REPLICA_SETS, "web", {"spec": {"replicas": 1}}, "n")
        await world.settle(controllers)
        left = [found for found in client.objects(PODS) if not meta.is_being_deleted(found)]
        assert len(left) == 1
        await world.context.recorder.drain()
    reasons = [event["reason"] for event in client.objects(EVENTS)]
    assert reasons.count("SuccessfulCreate") == 4
    assert reasons.count("SuccessfulDelete") == 2


async def test_a_refused_creation_is_told_and_ends_when_it_works() -> None:
    world = World()
    world.client.put(REPLICA_SETS, replica_set(2))
    world.client.fail_next("create", PODS, forbidden("pods", "", "exceeded quota: q"))
    async with world.running(lambda context: [ReplicaSetController(context)]) as controllers:
        await until(lambda: len(world.client.objects(PODS)) == 2)
        await world.settle(controllers)
        stored = world.client.find(REPLICA_SETS, "web", "n")
        assert stored is not None
        assert meta.condition(stored, "ReplicaFailure") is None
        await world.context.recorder.drain()
    told = [event["message"] for event in world.client.objects(EVENTS) if event["reason"] == "FailedCreate"]
    assert told == ["Error creating: pods is forbidden: exceeded quota: q"]


async def test_a_refusal_that_goes_on_is_written_once() -> None:
    """Each refusal names another pod; were each written, the set's own change would make it try again at once."""
    owner = replica_set(2)
    first, _ = next_status(owner, [], ("FailedCreate", 'pods "web-abc" is forbidden'), START)
    again = {**owner, "status": first}
    second, _ = next_status(again, [], ("FailedCreate", 'pods "web-xyz" is forbidden'), START)
    assert second == first
    over, _ = next_status(again, [], None, START)
    assert "conditions" not in over


async def test_orphans_are_adopted_and_strays_released() -> None:
    world = World()
    world.client.put(REPLICA_SETS, replica_set(1))
    world.client.put(PODS, pod("orphan", owned=False))
    world.client.put(PODS, pod("stray", labels={"app": "else"}))
    async with world.running(lambda context: [ReplicaSetController(context)]) as controllers:
        await world.settle(controllers)
        await until(lambda: meta.controller_of(world.client.find(PODS, "orphan", "n") or {}))
        await until(lambda: not meta.controller_of(world.client.find(PODS, "stray", "n") or {}))
    assert len(world.client.objects(PODS)) == 2
