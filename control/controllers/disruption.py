"""PodDisruptionBudgets: how many of their pods may be disrupted now, for evictions to spend.

What an eviction has spent stays spent until its pod is gone or two minutes have passed without that.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from control.api import meta, selectors
from control.api.meta import Object
from control.api.resources import (
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    PODS,
    REPLICA_SETS,
    REPLICATION_CONTROLLERS,
    STATEFUL_SETS,
    Resource,
)
from control.api.status import ApiError
from control.client.actions import Plan, Plans, Tell, Update
from control.client.informer import BY_NAMESPACE, by_namespace
from control.client.runner import Context, enqueue
from control.client.workqueue import WorkQueue
from control.controllers import pods as facts
from control.controllers.deployment.numbers import replicas, resolve
from control.controllers.discovery import discover

log = logging.getLogger(__name__)

DELETION_TIMEOUT_S = 120.0
"""How long an evicted pod may take until its deletion is seen."""
LOOK_AGAIN_S = 30.0
"""When a budget whose pods have no known controller is looked at again."""
STALE_TARGET_S = 120.0
"""How long a pod may be marked as a target of disruption without being deleted."""
ALLOWED, TARGET = "DisruptionAllowed", "DisruptionTarget"
_KNOWN = {(r.group, r.kind): r for r in (REPLICATION_CONTROLLERS, STATEFUL_SETS, DEPLOYMENTS, REPLICA_SETS)}


@dataclass(frozen=True)
class Expectation:
    """How many pods there should be, and how many of them must be healthy."""

    expected: int
    desired: int


class NoControllerError(Exception):
    """The wished number of pods cannot be known; the text says why."""


def selects(budget: Object, pod: Object) -> bool:
    """Tell whether a budget is about a pod."""
    selector = (budget.get("spec") or {}).get("selector")
    return selector is not None and selectors.from_label_selector(selector).matches(meta.labels(pod))


def needs_scales(budget: Object) -> bool:
    """Tell whether the wished number of pods must be asked of their controllers."""
    spec = budget.get("spec") or {}
    return spec.get("maxUnavailable") is not None or isinstance(spec.get("minAvailable"), str)


def expectation(budget: Object, pods: Sequence[Object], scales: Mapping[str, int]) -> Expectation:
    """Return what a budget asks for; `scales` are the wished replicas by the uids of the pods' controllers."""
    spec, expected = budget.get("spec") or {}, sum(scales.values())
    if (unavailable := spec.get("maxUnavailable")) is not None:
        return Expectation(expected, max(0, expected - resolve(unavailable, expected, up=True)))
    available = spec.get("minAvailable")
    if isinstance(available, str):
        return Expectation(expected, resolve(available, expected, up=True))
    if available is None:
        return Expectation(0, 0)
    return Expectation(len(pods), int(available))


def still_disrupted(budget: Object, pods: Sequence[Object], now: datetime) -> tuple[dict[str, str], float | None]:
    """Return the evictions whose pods' deletion is still awaited, and when the first of them is given up."""
    known = (budget.get("status") or {}).get("disruptedPods") or {}
    waits: dict[str, str] = {}
    first: float | None = None
    for pod in pods:
        since = facts.parse_time(known.get(meta.name(pod)))
        if since is None or meta.is_being_deleted(pod):
            continue
        left_s = (since + timedelta(seconds=DELETION_TIMEOUT_S) - now).total_seconds()
        if left_s >= 0:
            waits[meta.name(pod)] = known[meta.name(pod)]
            first = left_s if first is None else min(first, left_s)
    return waits, first


def healthy(pods: Sequence[Object], disrupted: Mapping[str, str]) -> int:
    """Count the pods that serve and are to stay."""
    return sum(
        not meta.is_being_deleted(pod) and meta.name(pod) not in disrupted and facts.is_ready(pod) for pod in pods
    )


def condition(budget: Object, reason: str, message: str, now: datetime) -> list[Object]:
    """Return the budget's conditions with DisruptionAllowed as it is now."""
    old = meta.condition(budget, ALLOWED) or {}
    holds = "True" if reason == "SufficientPods" else "False"
    since = old.get("lastTransitionTime") if old.get("status") == holds else None
    made = {
        "type": ALLOWED, "status": holds, "reason": reason, "message": message,
        "observedGeneration": int(budget["metadata"].get("generation") or 0),
        "lastTransitionTime": since or facts.format_time(now),
    }  # fmt: skip
    others = [entry for entry in (budget.get("status") or {}).get("conditions") or () if entry.get("type") != ALLOWED]
    return [*others, made]


def next_status(
    budget: Object, pods: Sequence[Object], wanted: Expectation, now: datetime
) -> tuple[Object, float | None]:
    """Return the status of a budget, and when it must be looked at again."""
    disrupted, again_after_s = still_disrupted(budget, pods, now)
    current = healthy(pods, disrupted)
    # A budget without pods has no room: the first ones may appear before this status is renewed.
    allowed = max(0, current - wanted.desired) if wanted.expected > 0 else 0
    status: Object = {
        "currentHealthy": current,
        "desiredHealthy": wanted.desired,
        "expectedPods": wanted.expected,
        "disruptionsAllowed": allowed,
        "observedGeneration": int(budget["metadata"].get("generation") or 0),
        "conditions": condition(budget, "SufficientPods" if allowed else "InsufficientPods", "", now),
    }
    if disrupted:
        status["disruptedPods"] = disrupted
    return status, again_after_s


def reconcile(
    budget: Object, pods: Sequence[Object], wanted: Expectation, unmanaged: Sequence[str], now: datetime
) -> Plan:
    """Return what brings a budget's status up to date."""
    plans = Plans()
    status, again_after_s = next_status(budget, pods, wanted, now)
    plans.again_after(again_after_s)
    if _comparable(status) == _comparable(budget.get("status") or {}):
        return plans.plan()
    plans.add(Update(DISRUPTION_BUDGETS, {**budget, "status": status}, "status"))
    if not pods:
        plans.add(Tell(budget, "Normal", "NoPods", "No matching pods found"))
    if unmanaged and needs_scales(budget):
        text = (
            "Pods of this budget have no controller, so that how many there should be is not known and they do not"
            f" count; give .spec.minAvailable as an integer instead: {', '.join(sorted(unmanaged))}"
        )
        plans.add(Tell(budget, "Warning", "UnmanagedPods", text))
    return plans.plan()


def _comparable(status: Object) -> Object:
    return {key: value for key, value in status.items() if value or key == "conditions"}


def failed_status(budget: Object, why: str, now: datetime) -> Object:
    """Return the status of a budget that cannot be computed: nothing may be evicted."""
    status = budget.get("status") or {}
    return {**status, "disruptionsAllowed": 0, "conditions": condition(budget, "SyncFailed", why, now)}


class DisruptionController:
    """Keeps the status of PodDisruptionBudgets."""

    name = "disruption"
    workers = 2

    def __init__(self, context: Context) -> None:
        self.queue: WorkQueue[str] = WorkQueue()
        self._context = context
        self._budgets = context.informer(DISRUPTION_BUDGETS)
        self._pods = context.informer(PODS)
        self._replica_sets = context.informer(REPLICA_SETS)
        self._deployments = context.informer(DEPLOYMENTS)
        for informer in (self._budgets, self._pods):
            informer.add_indexer(BY_NAMESPACE, by_namespace)
        self._kinds: dict[tuple[str, str], Resource] = dict(_KNOWN)
        self._budgets.add_handler(enqueue(self.queue))
        self._pods.add_handler(self._pod_changed)

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        for pod in (old, new):
            if pod is None:
                continue
            for budget in self._budgets.by_index(BY_NAMESPACE, meta.namespace(pod)):
                if selects(budget, pod):
                    self.queue.add(meta.key(budget))

    async def background(self) -> None:
        """Nothing goes by time alone."""

    async def sync(self, key: str) -> float | None:
        """Bring one budget's status up to date."""
        budget = self._budgets.get(key)
        if budget is None:
            return None
        now = self._context.now()
        found = self._pods.by_index(BY_NAMESPACE, meta.namespace(budget))
        pods = sorted((pod for pod in found if selects(budget, pod)), key=meta.name)
        try:
            scales = await self._scales(pods) if needs_scales(budget) else {}
        except NoControllerError as error:
            await self._fail(budget, str(error), now)
            return LOOK_AGAIN_S
        except ApiError as error:
            await self._fail(budget, str(error), now)
            raise
        unmanaged = [meta.name(pod) for pod in pods if meta.controller_of(pod) is None]
        plan = reconcile(budget, pods, expectation(budget, pods, scales), unmanaged, now)
        await self._context.apply(plan)
        return plan.again_after_s

    async def _fail(self, budget: Object, why: str, now: datetime) -> None:
        """Let nothing be evicted while the budget cannot be computed."""
        status = failed_status(budget, why, now)
        if _comparable(status) != _comparable(budget.get("status") or {}):
            text = f"Failed to calculate the number of expected pods: {why}"
            await self._context.write(Tell(budget, "Warning", "CalculateExpectedPodCountFailed", text))
            await self._context.write(Update(DISRUPTION_BUDGETS, {**budget, "status": status}, "status"))

    async def _scales(self, pods: Sequence[Object]) -> dict[str, int]:
        """Return the wished replicas of the pods' controllers, each once."""
        found: dict[str, int] = {}
        asked: set[str] = set()
        for pod in pods:
            reference = meta.controller_of(pod)
            if reference is None or reference["uid"] in asked:
                continue
            asked.add(reference["uid"])
            scale = await self._scale(reference, meta.namespace(pod))
            if scale is None:
                raise NoControllerError(f'found no controllers for pod "{meta.name(pod)}"')
            found[scale[0]] = scale[1]
        return found

    async def _scale(self, reference: Object, namespace: str) -> tuple[str, int] | None:
        """Return (uid, wished replicas) of what decides about a pod's number: a Deployment rather than its sets."""
        group = str(reference.get("apiVersion") or "").rpartition("/")[0]
        key = f"{namespace}/{reference.get('name')}"
        if (group, reference.get("kind")) == (REPLICA_SETS.group, REPLICA_SETS.kind):
            replica_set = self._replica_sets.get(key)
            if replica_set is None or meta.uid(replica_set) != reference["uid"]:
                return None
            above = meta.controller_of(replica_set)
            if above is None or above.get("kind") != DEPLOYMENTS.kind:
                return meta.uid(replica_set), replicas(replica_set)
            deployment = self._deployments.get(f"{namespace}/{above.get('name')}")
            if deployment is None or meta.uid(deployment) != above["uid"]:
                return None
            return meta.uid(deployment), replicas(deployment)
        resource = await self._resource(group, str(reference.get("kind")))
        try:
            scale = await self._context.client.get(resource, str(reference["name"]), namespace, subresource="scale")
        except ApiError as error:
            if error.code != 404:
                raise
            return None
        if meta.uid(scale) != reference["uid"]:
            return None
        # A Scale leaves zero out.
        return meta.uid(scale), int((scale.get("spec") or {}).get("replicas") or 0)

    async def _resource(self, group: str, kind: str) -> Resource:
        if (group, kind) not in self._kinds:
            served, _ = await discover(self._context.client)
            found_kinds = {(each.resource.group, each.resource.kind): each.resource for each in served}
            self._kinds = {**found_kinds, **_KNOWN}
        found = self._kinds.get((group, kind))
        if found is None:
            raise NoControllerError(f'no matches for kind "{kind}" in group "{group}"')
        return found


def stale_after_s(pod: Object, now: datetime) -> float | None:
    """Return when the mark of a pod that was to be disrupted is void, 0 for now; None where it stands or is absent."""
    mark = meta.condition(pod, TARGET)
    if mark is None or mark.get("status") != "True" or meta.is_being_deleted(pod) or facts.is_finished(pod):
        return None
    if mark.get("reason") == "TerminationByKubelet":
        return None
    since = facts.parse_time(mark.get("lastTransitionTime")) or now
    return max(0.0, STALE_TARGET_S - (now - since).total_seconds())


class DisruptionTargetController:
    """Takes the mark of a coming disruption off pods that were not deleted after all."""

    name = "disruption-target"
    workers = 1

    def __init__(self, context: Context) -> None:
        self.queue: WorkQueue[str] = WorkQueue()
        self._context = context
        self._pods = context.informer(PODS)
        self._pods.add_handler(self._pod_changed)

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        if new is not None and meta.condition(new, TARGET) is not None:
            self.queue.add(meta.key(new))

    async def background(self) -> None:
        """Nothing goes by time alone."""

    async def sync(self, key: str) -> float | None:
        """Look at one marked pod."""
        pod, now = self._pods.get(key), self._context.now()
        wait_s = stale_after_s(pod, now) if pod is not None else None
        if pod is None or wait_s is None or wait_s > 0:
            return wait_s
        status = pod.get("status") or {}
        stamp = facts.format_time(now)
        conditions = [
            {"type": TARGET, "status": "False", "lastTransitionTime": stamp} if entry.get("type") == TARGET else entry
            for entry in status.get("conditions") or ()
        ]
        await self._context.write(Update(PODS, {**pod, "status": {**status, "conditions": conditions}}, "status"))
        return None
