"""Deployments: whole rollouts, by hand and by chance, never outside the bounds that were promised."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.api import meta
from control.api.meta import Object
from control.api.resources import DEPLOYMENTS, EVENTS, PODS, REPLICA_SETS
from control.client.actions import Create, Delete, Patch, Plan
from control.controllers.deployment import numbers, revisions
from control.controllers.deployment.controller import DeploymentController
from control.controllers.deployment.reconcile import reconcile
from control.controllers.replicaset import ReplicaSetController
from tests.control.controllers.harness import START, World, until
from tests.control.controllers.test_deployment_numbers import deployment
from tests.fakes.fake_patch import merge_patch


class Cluster:
    """A Deployment and its ReplicaSets as values; the caches are as old as a test lets them be."""

    def __init__(self, wish: Object) -> None:
        self.wish = wish
        self.sets: dict[str, Object] = {}
        self.revision = 0

    def look(self) -> Plan:
        """Let the reconciler look, and do what it says."""
        plan = reconcile(self.wish, list(self.sets.values()), [], START)
        for action in plan.actions:
            self.do(action)
        return plan

    def do(self, action: object) -> None:
        match action:
            case Create(_, obj):
                self.revision += 1
                stamp = f"2026-01-01T00:00:{self.revision:02d}Z"
                head = {**obj["metadata"], "uid": meta.name(obj), "resourceVersion": "1", "creationTimestamp": stamp}
                self.sets[meta.name(obj)] = {**obj, "metadata": head, "status": {}}
            case Patch(resource, _, name, patch):
                if resource == REPLICA_SETS:
                    self.sets[name] = merge_patch(self.sets[name], patch)
                else:
                    self.wish = merge_patch(self.wish, patch)
            case Delete(_, _, name):
                del self.sets[name]

    def follow(self, name: str, ready: int) -> None:
        """Let the ReplicaSet controller and the kubelets catch up on one ReplicaSet."""
        found = self.sets[name]
        size = numbers.replicas(found)
        status = {"replicas": size, "readyReplicas": min(size, ready), "availableReplicas": min(size, ready)}
        generation = found["metadata"].get("generation") or 0
        self.sets[name] = {**found, "status": {**status, "observedGeneration": generation}}

    def roll_out(self, looks: int = 60) -> None:
        """Let everything catch up until nothing changes."""
        for _ in range(looks):
            before = (self.wish, dict(self.sets))
            self.look()
            for name in list(self.sets):
                self.follow(name, 10**6)
            if before == (self.wish, self.sets):
                return
        raise AssertionError("the rollout does not end")

    def sizes(self) -> list[int]:
        return [numbers.replicas(found) for found in self.sets.values()]


def with_image(wish: Object, image: str) -> Object:
    template = {
        "metadata": wish["spec"]["template"]["metadata"],
        "spec": {"containers": [{"name": "c", "image": image}]},
    }
    generation = wish["metadata"]["generation"] + 1
    return {
        **wish,
        "metadata": {**wish["metadata"], "generation": generation},
        "spec": {**wish["spec"], "template": template},
    }


def condition(wish: Object, kind: str) -> tuple[str, str]:
    entry = meta.condition(wish, kind) or {}
    return str(entry.get("status")), str(entry.get("reason"))


def test_the_first_rollout_and_its_words() -> None:
    cluster = Cluster(deployment(3))
    cluster.look()
    assert cluster.sizes() == [3]
    assert condition(cluster.wish, "Progressing") == ("True", "NewReplicaSetCreated")
    assert condition(cluster.wish, "Available") == ("False", "MinimumReplicasUnavailable")
    cluster.roll_out()
    assert condition(cluster.wish, "Progressing") == ("True", "NewReplicaSetAvailable")
    assert condition(cluster.wish, "Available") == ("True", "MinimumReplicasAvailable")
    assert meta.annotations(cluster.wish)[revisions.REVISION] == "1"
    entry = meta.condition(cluster.wish, "Progressing") or {}
    (name,) = cluster.sets
    assert entry["message"] == f'ReplicaSet "{name}" has successfully progressed.'
    assert cluster.wish["status"]["unavailableReplicas"] == 0


def test_an_update_and_its_undo_keep_their_sets() -> None:
    cluster = Cluster(deployment(4))
    cluster.roll_out()
    cluster.wish = with_image(cluster.wish, "b")
    cluster.roll_out()
    assert sorted(cluster.sizes()) == [0, 4]
    assert meta.annotations(cluster.wish)[revisions.REVISION] == "2"
    cluster.wish = with_image(cluster.wish, "a")
    cluster.roll_out()
    assert sorted(cluster.sizes()) == [0, 4]
    assert meta.annotations(cluster.wish)[revisions.REVISION] == "3"
    current = revisions.find_new(cluster.wish, list(cluster.sets.values()))
    assert current is not None
    assert meta.annotations(current)[revisions.REVISION_HISTORY] == "1"


def test_a_paused_rollout_stands_still_but_scales() -> None:
    cluster = Cluster(deployment(4))
    cluster.roll_out()
    cluster.wish = with_image(cluster.wish, "b")
    cluster.look()
    cluster.look()
    cluster.wish = {**cluster.wish, "spec": {**cluster.wish["spec"], "paused": True}}
    cluster.roll_out()
    assert cluster.sizes() == [4, 1], "up to the surge, and no further into the new"
    assert condition(cluster.wish, "Progressing") == ("Unknown", "DeploymentPaused")
    cluster.wish = {**cluster.wish, "spec": {**cluster.wish["spec"], "replicas": 8}}
    cluster.roll_out()
    assert sum(cluster.sizes()) == 8 + 2
    cluster.wish = {**cluster.wish, "spec": {**cluster.wish["spec"], "paused": False}}
    cluster.roll_out()
    assert sorted(cluster.sizes()) == [0, 8]
    assert condition(cluster.wish, "Progressing") == ("True", "NewReplicaSetAvailable")


def test_recreate_ends_all_old_before_the_first_new() -> None:
    cluster = Cluster(deployment(3, strategy={"type": "Recreate"}))
    cluster.roll_out()
    cluster.wish = with_image(cluster.wish, "b")
    cluster.look()
    assert cluster.sizes() == [0]
    cluster.look()
    assert cluster.sizes() == [0], "the old pods still run"
    cluster.roll_out()
    assert sorted(cluster.sizes()) == [0, 3]


def test_no_progress_within_the_deadline_is_said() -> None:
    from datetime import timedelta

    cluster = Cluster(deployment(1, progressDeadlineSeconds=30))
    cluster.look()
    plan = reconcile(cluster.wish, list(cluster.sets.values()), [], START)
    assert plan.again_after_s == pytest.approx(31.0)
    late = reconcile(cluster.wish, list(cluster.sets.values()), [], START + timedelta(seconds=40))
    (patch,) = [action for action in late.actions if isinstance(action, Patch)]
    entry = next(found for found in patch.patch["status"]["conditions"] if found["type"] == "Progressing")
    assert (entry["status"], entry["reason"]) == ("False", "ProgressDeadlineExceeded")


def test_a_settled_deployment_is_left_alone() -> None:
    cluster = Cluster(deployment(3))
    cluster.roll_out()
    assert cluster.look().actions == ()


BOUND = st.one_of(st.integers(0, 5), st.sampled_from(["0%", "10%", "25%", "50%", "100%"]))
STEP = st.tuples(
    st.sampled_from(["look", "follow", "follow", "update", "scale", "pause"]), st.integers(0, 12), st.integers(0, 12)
)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 8), BOUND, BOUND, st.lists(STEP, max_size=40))
def test_no_look_breaks_a_bound_and_every_rollout_ends(
    replicas: int, surge: Any, unavailable: Any, steps: list[tuple[str, int, int]]
) -> None:
    cluster = Cluster(deployment(replicas, surge, unavailable))
    for step, one, two in steps:
        match step:
            case "look":
                check_look(cluster)
            case "follow" if cluster.sets:
                cluster.follow(sorted(cluster.sets)[one % len(cluster.sets)], two)
            case "update":
                cluster.wish = with_image(cluster.wish, "abc"[one % 3])
            case "scale":
                cluster.wish = {**cluster.wish, "spec": {**cluster.wish["spec"], "replicas": one}}
            case "pause":
                cluster.wish = {**cluster.wish, "spec": {**cluster.wish["spec"], "paused": one % 2 == 0}}
    cluster.wish = {**cluster.wish, "spec": {**cluster.wish["spec"], "paused": False}}
    cluster.roll_out()
    wished = numbers.replicas(cluster.wish)
    current = revisions.find_new(cluster.wish, list(cluster.sets.values()))
    assert current is not None
    assert numbers.replicas(current) == wished
    assert sum(cluster.sizes()) == wished


def healthy(cluster: Cluster) -> int:
    """Count the pods that are available and not given up."""
    found = cluster.sets.values()
    return sum(min(numbers.replicas(entry), numbers.actual(entry, "availableReplicas")) for entry in found)


def check_look(cluster: Cluster) -> None:
    wish = cluster.wish
    wished, surge = numbers.replicas(wish), numbers.max_surge(wish)
    least = wished - numbers.max_unavailable(wish)
    before_total, before_healthy = sum(cluster.sizes()), healthy(cluster)
    scaling = any(
        numbers.annotated(found, numbers.DESIRED_REPLICAS) not in (None, wished) for found in cluster.sets.values()
    )
    cluster.look()
    assert sum(cluster.sizes()) <= max(before_total, wished + surge)
    if not scaling and not (wish["spec"].get("paused")):
        assert healthy(cluster) >= min(before_healthy, least)


async def test_a_rollout_through_the_api_keeps_its_promise() -> None:
    """Ten pods, none may be missing: at every single change enough are ready, and never too many exist."""
    world = World()
    client = world.client
    await client.create(DEPLOYMENTS, deployment(6, 2, 0))
    seen: list[tuple[int, int]] = []

    async def kubelets() -> None:
        while True:
            for pod in client.objects(PODS):
                if meta.is_being_deleted(pod):
                    client.remove(PODS, meta.name(pod), "n")
                elif not meta.condition(pod, "Ready"):
                    world.make_ready(pod)
                    break
            pods = [pod for pod in client.objects(PODS) if not meta.is_being_deleted(pod)]
            seen.append((sum(meta.condition_is_true(pod, "Ready") for pod in pods), len(pods)))
            await asyncio.sleep(0.001)

    def done(image: str) -> bool:
        stored = client.find(DEPLOYMENTS, "web", "n") or {}
        images = {pod["spec"]["containers"][0]["image"] for pod in client.objects(PODS)}
        return (
            images == {image}
            and condition(stored, "Progressing") == ("True", "NewReplicaSetAvailable")
            and stored["status"].get("observedGeneration") == stored["metadata"]["generation"]
            and len(client.objects(PODS)) == 6
        )

    async with (
        asyncio.TaskGroup() as group,
        world.running(lambda context: [DeploymentController(context), ReplicaSetController(context)]),
    ):
        kubelet = group.create_task(kubelets())
        await until(lambda: done("a"), 20)
        seen.clear()
        await client.patch(DEPLOYMENTS, "web", {"spec": with_image(deployment(6, 2, 0), "b")["spec"]}, "n")
        await until(lambda: done("b"), 20)
        kubelet.cancel()
        await world.context.recorder.drain()
    assert min(ready for ready, _ in seen) >= 6
    assert max(total for _, total in seen) <= 8
    reasons = {event["reason"] for event in client.objects(EVENTS)}
    assert "ScalingReplicaSet" in reasons


async def test_a_foreign_replica_set_of_the_same_name_is_gone_round() -> None:
    world = World()
    wish = deployment(1)
    name = revisions.make_new(wish, 1, 1)["metadata"]["name"]
    world.client.put(REPLICA_SETS, {"metadata": {"name": name, "namespace": "n"}, "spec": {"replicas": 0}})
    await world.client.create(DEPLOYMENTS, wish)
    async with world.running(lambda context: [DeploymentController(context)]):
        await until(lambda: len(world.client.objects(REPLICA_SETS)) == 2)
    stored = world.client.find(DEPLOYMENTS, "web", "n") or {}
    assert stored["status"]["collisionCount"] == 1
