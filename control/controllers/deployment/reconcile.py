"""Decide a Deployment's next step: pure, from what is wished and what there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from control.api import meta
from control.api.meta import Object
from control.api.resources import DEPLOYMENTS, REPLICA_SETS
from control.client.actions import Create, Delete, Patch, Plan, Plans, Tell
from control.client.client import DeleteOptions
from control.controllers import pods as pod_facts
from control.controllers.deployment import conditions, numbers, revisions
from control.controllers.deployment.numbers import actual, replicas


@dataclass
class Step:
    """One look at one Deployment, while it is decided."""

    deployment: Object
    old: list[Object]
    new: Object | None
    now: datetime
    plans: Plans = field(default_factory=Plans)
    stored: Mapping[str, Any] = field(default_factory=dict)
    """The status that the server has."""

    @property
    def all(self) -> list[Object]:
        """All ReplicaSets of the Deployment."""
        return [*self.old, *([self.new] if self.new is not None else [])]

    def condition(self, reason: str, message: str) -> None:
        """Note progress in a condition of the Deployment."""
        if conditions.deadline_s(self.deployment) is not None:
            status = dict(self.deployment.get("status") or {})
            conditions.put(status, conditions.PROGRESSING, "True", reason, message, self.now)
            self.deployment = {**self.deployment, "status": status}

    def scale(self, replica_set: Object, size: int) -> None:
        """Plan a new size for a ReplicaSet, with the annotations that remember why."""
        before, noted = replicas(replica_set), revisions.size_annotations(self.deployment)
        if size == before and noted.items() <= meta.annotations(replica_set).items():
            return
        # The revision guards the patch: a size decided from an old cache must not be written.
        head = {"resourceVersion": meta.resource_version(replica_set), "annotations": noted}
        change = {"metadata": head, "spec": {"replicas": size}}
        self.plans.add(Patch(REPLICA_SETS, meta.namespace(replica_set), meta.name(replica_set), change))
        if size != before:
            direction = "up" if size > before else "down"
            text = f"Scaled {direction} replica set {meta.name(replica_set)} from {before} to {size}"
            self.plans.add(Tell(self.deployment, "Normal", "ScalingReplicaSet", text))


def reconcile(deployment: Object, replica_sets: Sequence[Object], pods: Sequence[Object], now: datetime) -> Plan:
    """Return what to do about a Deployment, its ReplicaSets and the pods of those."""
    spec = deployment.get("spec") or {}
    if not spec.get("selector"):
        return Plan()
    new = revisions.find_new(deployment, replica_sets)
    old = [found for found in replica_sets if new is None or meta.uid(found) != meta.uid(new)]
    step = Step(deployment, old, new, now, stored=deployment.get("status") or {})
    if meta.is_being_deleted(deployment):
        return _finish(step, rollout=False)
    status = {**(deployment.get("status") or {})}
    if conditions.pause_status(deployment, status, now):
        step.deployment = {**deployment, "status": status}
    if spec.get("paused") or _is_scaling(step):
        _follow_revision(step, create=False)
        _scale(step)
        if spec.get("paused"):
            _forget_old(step)
        return _finish(step, rollout=False)
    if numbers.is_rolling(deployment):
        _roll(step)
    else:
        _recreate(step, pods)
    return _finish(step, rollout=True)


def _is_scaling(step: Step) -> bool:
    """Tell whether the wish changed since the ReplicaSets were sized."""
    wished, active = replicas(step.deployment), numbers.active(step.all)
    if len(active) > 1 and not numbers.is_rolling(step.deployment):
        return False  # left by a rolling update: Recreate first ends the old ones
    sized = (numbers.annotated(found, numbers.DESIRED_REPLICAS) for found in active)
    return any(size is not None and size != wished for size in sized)


def _follow_revision(step: Step, *, create: bool) -> bool:
    """Number the current ReplicaSet, or make it; tell whether it was made in this look."""
    number = max((revisions.revision(found) for found in step.old), default=0) + 1
    if step.new is not None:
        _number_existing(step, step.new, number)
        return False
    if not create:
        return False
    size = numbers.new_set_size(step.deployment, [replicas(found) for found in step.old], 0)
    made = revisions.make_new(step.deployment, number, size)
    step.plans.add(Create(REPLICA_SETS, made))
    if size:
        text = f"Scaled up replica set {meta.name(made)} from 0 to {size}"
        step.plans.add(Tell(step.deployment, "Normal", "ScalingReplicaSet", text))
    step.condition(conditions.NEW_CREATED, f'Created new replica set "{meta.name(made)}"')
    _write_revision(step, str(number))
    return True


def _number_existing(step: Step, new: Object, number: int) -> None:
    annotations = revisions.new_annotations(step.deployment, new, number)
    seconds = int((step.deployment.get("spec") or {}).get("minReadySeconds") or 0)
    change: dict[str, Any] = {}
    if annotations != meta.annotations(new):
        change["metadata"] = {"annotations": annotations}
    if seconds != int((new.get("spec") or {}).get("minReadySeconds") or 0):
        change["spec"] = {"minReadySeconds": seconds}
    if change:
        head = {**change.get("metadata", {}), "resourceVersion": meta.resource_version(new)}
        step.plans.add(Patch(REPLICA_SETS, meta.namespace(new), meta.name(new), {**change, "metadata": head}))
    if conditions.find(step.deployment.get("status") or {}, conditions.PROGRESSING) is None:
        step.condition(conditions.FOUND_NEW, f'Found new replica set "{meta.name(new)}"')
    _write_revision(step, annotations[revisions.REVISION])
    if change:
        # The sizes are decided in the next look, against the ReplicaSet as this write leaves it.
        step.new = {**new, "metadata": {**new["metadata"], "annotations": annotations}}


def _write_revision(step: Step, number: str) -> None:
    deployment = step.deployment
    if meta.annotations(deployment).get(revisions.REVISION) != number:
        change = {"metadata": {"annotations": {revisions.REVISION: number}}}
        step.plans.add(Patch(DEPLOYMENTS, meta.namespace(deployment), meta.name(deployment), change))


def _writes_new(step: Step) -> bool:
    """Tell whether this look already changes the current ReplicaSet."""
    return step.new is not None and any(
        isinstance(action, Patch) and action.resource == REPLICA_SETS and action.name == meta.name(step.new)
        for action in step.plans.actions
    )


def _roll(step: Step) -> None:
    """Take one step of a rolling update: make the new larger, else the old smaller."""
    if _follow_revision(step, create=True) or _writes_new(step):
        return
    assert step.new is not None
    wished, current = replicas(step.deployment), replicas(step.new)
    if current != wished:
        if current > wished:
            size = wished
        else:
            size = numbers.new_set_size(step.deployment, [replicas(found) for found in step.all], current)
        if size != current:
            step.scale(step.new, size)
            return
    smaller = numbers.scale_down_old(step.deployment, step.new, numbers.active(step.old))
    for found in step.old:
        if meta.name(found) in smaller:
            step.scale(found, smaller[meta.name(found)])
    if not smaller and conditions.is_complete(step.deployment, step.deployment.get("status") or {}):
        _forget_old(step)


def _recreate(step: Step, pods: Sequence[Object]) -> None:
    """Take one step of a Recreate: all old pods end before the first new one starts."""
    _follow_revision(step, create=False)
    old_active = numbers.active(step.old)
    if old_active:
        for found in old_active:
            step.scale(found, 0)
        return
    if _old_pods_run(step, pods):
        return
    if step.new is None:
        _follow_revision(step, create=True)
        return
    if _writes_new(step):
        return
    step.scale(step.new, replicas(step.deployment))
    if conditions.is_complete(step.deployment, step.deployment.get("status") or {}):
        _forget_old(step)


def _old_pods_run(step: Step, pods: Sequence[Object]) -> bool:
    if any(actual(found) for found in step.old):
        return True
    new_uid = meta.uid(step.new) if step.new is not None else None
    return any(not pod_facts.is_finished(pod) and (meta.controller_of(pod) or {}).get("uid") != new_uid for pod in pods)


def _scale(step: Step) -> None:
    """Follow a changed wish without going on with a rollout."""
    if _writes_new(step):
        return
    wished = replicas(step.deployment)
    active = numbers.active(step.all)
    only = active[0] if len(active) == 1 else None
    if not active:
        only = step.new if step.new is not None else max(step.old, key=revisions.revision, default=None)
    if only is not None:
        if active or replicas(only) != wished:
            step.scale(only, wished)
        return
    if _is_saturated(step):
        for found in numbers.active(step.old):
            step.scale(found, 0)
        return
    if numbers.is_rolling(step.deployment):
        sizes = numbers.proportional(step.deployment, step.all)
        for found in step.all:
            if meta.name(found) in sizes:
                step.scale(found, sizes[meta.name(found)])


def _is_saturated(step: Step) -> bool:
    """Tell whether the current ReplicaSet alone has all pods available under the size it was given."""
    if step.new is None:
        return False
    wished = replicas(step.deployment)
    sized = numbers.annotated(step.new, numbers.DESIRED_REPLICAS)
    return replicas(step.new) == wished == sized and actual(step.new, "availableReplicas") == wished


def _forget_old(step: Step) -> None:
    for found in revisions.to_forget(step.deployment, step.old):
        options = DeleteOptions(uid=meta.uid(found), propagation_policy="Background")
        step.plans.add(Delete(REPLICA_SETS, meta.namespace(found), meta.name(found), options))


def _finish(step: Step, *, rollout: bool) -> Plan:
    """Add the status update that is needed and the moment of the next look."""
    status = conditions.counts(step.deployment, step.new, step.all, step.now)
    if rollout:
        conditions.rollout_status(step.deployment, step.new, step.all, status, step.now)
        step.plans.again_after(conditions.seconds_to_deadline(step.deployment, status, step.now))
    if _significant(status) != _significant(step.stored):
        deployment = step.deployment
        # A patch, because this look may have written the Deployment's revision before; nobody else writes status.
        change = {"status": status}
        step.plans.add(Patch(DEPLOYMENTS, meta.namespace(deployment), meta.name(deployment), change, "status"))
    return step.plans.plan()


def _significant(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return a status in which what is absent and what is zero are the same."""
    return {key: value for key, value in status.items() if value}
