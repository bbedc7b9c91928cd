"""ReplicaSets: as many pods as wished, made from one template."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from control.api import meta
from control.api.meta import Object
from control.api.resources import PODS, REPLICA_SETS
from control.api.status import ApiError
from control.client.actions import Delete, Plan, Plans, Update, apply
from control.client.client import DeleteOptions
from control.client.informer import BY_NAMESPACE, by_namespace
from control.client.runner import Context, enqueue, is_namespace_terminating
from control.client.workqueue import WorkQueue
from control.controllers import pods as facts
from control.controllers.claims import claim
from control.controllers.expectations import Expectations

BURST = 500
"""How many pods one look may create or delete."""
SLOW_START = 1
"""How many creations go first; each batch that works is followed by one of twice its size."""
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"

PHASE_RANK = {"Pending": 0, "Unknown": 1, "Running": 2}


@dataclass(frozen=True)
class Scaling:
    """What must happen to the number of pods."""

    create: int = 0
    delete: tuple[Object, ...] = ()


def deletion_cost(pod: Object) -> int:
    """Return the pod's wish to be spared; an annotation that is no number counts as none."""
    try:
        return int(meta.annotations(pod).get(DELETION_COST, "0"))
    except ValueError:
        return 0


def age_rank(since: datetime | None, now: datetime) -> float:
    """Return the logarithm of an age: pods of about the same age are equal, so that chance decides among them."""
    if since is None:
        return -1.0
    return math.floor(math.log2(max(1.0, (now - since).total_seconds())))


def deletion_order(pod: Object, crowd: int, now: datetime) -> tuple[Any, ...]:
    """Return the sort key by which pods are deleted first to last.

    Unassigned before assigned, pending before running, not ready before ready, cheaper before dearer, crowded
    nodes before empty ones, recently ready before long ready, often restarted before seldom, new before old.
    """
    return (
        bool(facts.node_name(pod)),
        PHASE_RANK.get(facts.phase(pod), 1),
        facts.is_ready(pod),
        deletion_cost(pod),
        -crowd,
        age_rank(facts.ready_since(pod), now) if facts.is_ready(pod) else 0.0,
        -facts.restarts(pod),
        age_rank(facts.parse_time(facts.created(pod)), now),
        meta.uid(pod),
    )


def choose_victims(pods: Sequence[Object], count: int, crowds: Mapping[str, int], now: datetime) -> tuple[Object, ...]:
    """Return the pods to delete first; `crowds` says how many related pods each node has."""
    ranked = sorted(pods, key=lambda pod: deletion_order(pod, crowds.get(facts.node_name(pod), 0), now))
    return tuple(ranked[:count])


def scaling(replica_set: Object, active: Sequence[Object], crowds: Mapping[str, int], now: datetime) -> Scaling:
    """Return what must happen to reach spec.replicas."""
    wished = int((replica_set.get("spec") or {}).get("replicas", 1))
    missing = wished - len(active)
    if missing > 0:
        return Scaling(create=min(missing, BURST))
    if missing < 0:
        return Scaling(delete=choose_victims(active, min(-missing, BURST), crowds, now))
    return Scaling()


def is_fully_labelled(pod: Object, template: Mapping[str, Any]) -> bool:
    """Tell whether a pod carries all of the template's labels."""
    wanted = (template.get("metadata") or {}).get("labels") or {}
    return wanted.items() <= meta.labels(pod).items()


def next_status(
    replica_set: Object, owned: Sequence[Object], failure: tuple[str, str] | None, now: datetime
) -> tuple[Object, float | None]:
    """Return the status, and when a pod that is ready becomes available.

    `failure` is the reason and message of a creation or deletion that the server refused.
    """
    spec = replica_set.get("spec") or {}
    min_ready_seconds = int(spec.get("minReadySeconds") or 0)
    active = [pod for pod in owned if facts.is_active(pod)]
    waits = [facts.seconds_until_available(pod, min_ready_seconds, now) for pod in active]
    old = replica_set.get("status") or {}
    status: Object = {
        "replicas": len(active),
        "fullyLabeledReplicas": sum(is_fully_labelled(pod, spec.get("template") or {}) for pod in active),
        "readyReplicas": sum(facts.is_ready(pod) for pod in active),
        "availableReplicas": sum(wait == 0.0 for wait in waits),
        "terminatingReplicas": sum(meta.is_being_deleted(pod) and not facts.is_finished(pod) for pod in owned),
        "observedGeneration": int(replica_set["metadata"].get("generation") or 0),
    }
    conditions = [entry for entry in old.get("conditions") or [] if entry.get("type") != "ReplicaFailure"]
    if failure is not None:
        # The first refusal stands until the last one is over: each names another pod, and writing them all would make
        # this set's own changes ask for the next look.
        before = meta.condition(replica_set, "ReplicaFailure")
        entry = {"type": "ReplicaFailure", "status": "True", "lastTransitionTime": facts.format_time(now)}
        conditions.append(before or {**entry, "reason": failure[0], "message": failure[1]})
    if conditions:
        status["conditions"] = conditions
    return status, min((wait for wait in waits if wait), default=None)


def without_zeroes(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return a status in which what is absent and what is zero are the same, for comparison."""
    return {key: value for key, value in status.items() if value}


def plan_status(replica_set: Object, owned: Sequence[Object], failure: tuple[str, str] | None, now: datetime) -> Plan:
    """Return the status update that is needed, if any."""
    plans = Plans()
    status, wait = next_status(replica_set, owned, failure, now)
    plans.again_after(wait)
    if without_zeroes(status) != without_zeroes(replica_set.get("status") or {}):
        plans.add(Update(REPLICA_SETS, {**replica_set, "status": status}, "status"))
    return plans.plan()


class ReplicaSetController:
    """Keeps each ReplicaSet's pods at its number."""

    name = "replicaset"
    workers = 5

    def __init__(self, context: Context) -> None:
        self.queue: WorkQueue[str] = WorkQueue()
        self._context = context
        self._sets = context.informer(REPLICA_SETS)
        self._pods = context.informer(PODS)
        self._sets.add_indexer(BY_NAMESPACE, by_namespace)
        self._pods.add_indexer(BY_NAMESPACE, by_namespace)
        self._expectations = Expectations()
        self._sets.add_handler(enqueue(self.queue))
        self._pods.add_handler(self._pod_changed)

    def _now(self) -> float:
        return self._context.now().timestamp()

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        """Queue the ReplicaSets that a pod's change touches, and see what was expected."""
        for pod in (old, new):
            key = self._owner_key(pod) if pod is not None else None
            if key:
                self.queue.add(key)
        key = self._owner_key(new) if new is not None else None
        if old is None and new is not None and key:
            self._expectations.created(key)
        gone = old if new is None else (new if meta.is_being_deleted(new) else None)
        if gone is not None and (owner := self._owner_key(gone)):
            self._expectations.deleted(owner, meta.uid(gone))
        if new is not None and meta.controller_of(new) is None:
            for replica_set in self._sets.by_index(BY_NAMESPACE, meta.namespace(new)):
                self.queue.add(meta.key(replica_set))

    @staticmethod
    def _owner_key(pod: Object) -> str | None:
        reference = meta.controller_of(pod)
        if reference is None or reference.get("kind") != REPLICA_SETS.kind:
            return None
        return f"{meta.namespace(pod)}/{reference['name']}"

    async def background(self) -> None:
        """Nothing goes by time alone."""

    async def sync(self, key: str) -> float | None:
        """Bring one ReplicaSet's pods to its number and its status to the truth."""
        replica_set = self._sets.get(key)
        if replica_set is None:
            self._expectations.forget(key)
            return None
        context, now = self._context, self._context.now()
        owned = await claim(
            context.client, REPLICA_SETS, replica_set, PODS,
            self._pods.by_index(BY_NAMESPACE, meta.namespace(replica_set)), only=facts.is_active,
        )  # fmt: skip
        failure: tuple[str, str] | None = None
        if self._expectations.satisfied(key, now.timestamp()) and not meta.is_being_deleted(replica_set):
            active = [pod for pod in owned if facts.is_active(pod)]
            wished = scaling(replica_set, active, self._crowds(replica_set), now)
            failure = await self._scale(key, replica_set, wished)
        plan = plan_status(replica_set, owned, failure, now)
        await apply(context.client, context.recorder, plan.actions)
        if failure is not None:
            raise ApiError({"code": 500, "reason": failure[0], "message": failure[1]})
        return plan.again_after_s

    def _crowds(self, replica_set: Object) -> Mapping[str, int]:
        """Count the active pods on each node of all ReplicaSets that have the same controller."""
        controller = meta.controller_of(replica_set)
        related = {meta.uid(replica_set)}
        if controller is not None:
            for other in self._sets.by_index(BY_NAMESPACE, meta.namespace(replica_set)):
                if (meta.controller_of(other) or {}).get("uid") == controller["uid"]:
                    related.add(meta.uid(other))
        pods = self._pods.by_index(BY_NAMESPACE, meta.namespace(replica_set))
        return Counter(
            facts.node_name(pod)
            for pod in pods
            if facts.is_active(pod) and (meta.controller_of(pod) or {}).get("uid") in related
        )

    async def _scale(self, key: str, replica_set: Object, wished: Scaling) -> tuple[str, str] | None:
        """Create or delete pods; return the reason and message of a refusal."""
        self._expectations.expect(key, wished.create, [meta.uid(pod) for pod in wished.delete], self._now())
        if wished.create:
            return await self._create(key, replica_set, wished.create)
        for index, pod in enumerate(wished.delete):
            try:
                await self._delete(replica_set, pod)
            except ApiError as error:
                for left in wished.delete[index:]:
                    self._expectations.deleted(key, meta.uid(left))
                self._context.recorder.event(replica_set, "Warning", "FailedDelete", f"Error deleting: {error.message}")
                return "FailedDelete", error.message
        return None

    async def _create(self, key: str, replica_set: Object, count: int) -> tuple[str, str] | None:
        """Create pods in batches that double as long as they succeed, so that a sure refusal costs one call."""
        body = facts.from_template((replica_set.get("spec") or {}).get("template") or {}, replica_set)
        left, batch = count, SLOW_START
        while left:
            for _ in range(min(batch, left)):
                try:
                    pod = await self._context.client.create(PODS, body, meta.namespace(replica_set))
                except ApiError as error:
                    self._expectations.created(key, left)
                    if is_namespace_terminating(error):
                        return None  # nothing can be made there any more, and the set itself will go
                    self._context.recorder.event(
                        replica_set, "Warning", "FailedCreate", f"Error creating: {error.message}"
                    )
                    return "FailedCreate", error.message
                left -= 1
                text = f"Created pod: {meta.name(pod)}"
                self._context.recorder.event(replica_set, "Normal", "SuccessfulCreate", text)
            batch *= 2
        return None

    async def _delete(self, replica_set: Object, pod: Object) -> None:
        action = Delete(PODS, meta.namespace(pod), meta.name(pod), DeleteOptions(uid=meta.uid(pod)))
        await apply(self._context.client, self._context.recorder, (action,))
        text = f"Deleted pod: {meta.name(pod)}"
        self._context.recorder.event(replica_set, "Normal", "SuccessfulDelete", text)
