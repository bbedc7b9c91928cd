"""The eviction subresource: a pod is deleted if its PodDisruptionBudget has room for that.

The room is spent by compare-and-swap on the budget's status, before the pod goes; the disruption controller gives it
back when the pod has been replaced, or was not deleted after all.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from control.api import meta, resources, selectors, status
from control.api.meta import Object
from control.apiserver import deletion
from control.apiserver.cache import Filter
from control.apiserver.deletion import DeleteWish
from control.apiserver.paging import ListQuery
from control.apiserver.registry import Context, Registry, now_text
from control.apiserver.request import AdmissionRequest, Handlers, ResourceRequest

DISRUPTED_PODS_MAX = 2000
ATTEMPTS_MAX = 20
PAUSE_S = 0.05
TOO_MANY_TEXT = "Cannot evict pod as it would violate the pod's disruption budget."
TWO_BUDGETS_TEXT = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
_SUCCESS = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


class Evictions:
    """Serves pods/eviction over the registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._pods = registry.kinds.of(resources.PODS)
        self._budgets = registry.kinds.of(resources.DISRUPTION_BUDGETS)

    def install(self, handlers: Handlers) -> None:
        """Register the handler."""
        handlers.add_object(resources.PODS, "eviction", "create", self.evict)

    async def evict(self, request: ResourceRequest) -> Object:
        """Delete a pod if its disruption budget allows it."""
        eviction = request.object or {}
        namespace, name = request.info.namespace, request.info.name
        if meta.name(eviction) != name:
            raise status.bad_request("name in URL does not match name in Eviction object")
        wish = _wish(eviction, request.options.dry_run)
        context = Context(request.user, replace(request.options, dry_run=wish.dry_run), request.warnings)
        await self._admit(request, eviction, wish.dry_run)
        for attempt in range(ATTEMPTS_MAX):
            pod = (await self._registry.get(self._pods, namespace, name)).object()
            if not needs_no_budget(pod):
                break
            guarded = wish
            if not is_ending(pod) and not wish.resource_version:
                # It may become ready just now, and then the budget guards it.
                guarded = replace(wish, resource_version=meta.resource_version(pod))
            try:
                await self._delete(pod, guarded, context)
            except status.ApiError as error:
                if error.reason != "Conflict" or wish.resource_version or attempt == ATTEMPTS_MAX - 1:
                    raise
                await asyncio.sleep(PAUSE_S)
                continue
            return dict(_SUCCESS)
        return await self._within_budget(pod, wish, context)

    async def _admit(self, request: ResourceRequest, eviction: Object, dry_run: bool) -> None:
        """Let admission judge the eviction itself, as webhooks and node restriction expect."""
        asked = AdmissionRequest(
            "CREATE", resources.PODS, request.user, request.info.namespace, request.info.name, "eviction", eviction,
            dry_run=dry_run, warnings=request.warnings,
        )  # fmt: skip
        await self._registry.admission.mutate(asked)
        await self._registry.admission.validate(asked)

    async def _within_budget(self, pod: Object, wish: DeleteWish, context: Context) -> Object:
        budgets = await self._budgets_of(pod)
        if len(budgets) > 1:
            failed = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 500}
            raise status.ApiError({**failed, "message": TWO_BUDGETS_TEXT})
        guarded = wish
        for budget in budgets:
            if is_spared(pod, budget):
                guarded = replace(wish, resource_version=wish.resource_version or meta.resource_version(pod))
            else:
                await self._spend(budget, meta.name(pod), context)
        try:
            await self._delete(pod, guarded, context)
        except status.ApiError as error:
            if error.reason == "Conflict" and guarded != wish:
                raise still_processed(meta.name(budgets[0])) from error
            raise
        return dict(_SUCCESS)

    async def _budgets_of(self, pod: Object) -> list[Object]:
        listed = await self._registry.list(self._budgets, Filter(meta.namespace(pod)), ListQuery())
        found = []
        for entry in listed.entries:
            budget = entry.object()
            selector = (budget.get("spec") or {}).get("selector")
            if selector is not None and selectors.from_label_selector(selector).matches(meta.labels(pod)):
                found.append(budget)
        return found

    async def _spend(self, budget: Object, pod_name: str, context: Context) -> None:
        async def spend(old: Object) -> Object:
            return spent(old, pod_name, now_text())

        name, namespace = meta.name(budget), meta.namespace(budget)
        for _ in range(ATTEMPTS_MAX):
            try:
                await self._registry.update(self._budgets, namespace, name, spend, context, "status")
            except status.ApiError as error:
                if error.reason != "Conflict":
                    raise
                await asyncio.sleep(PAUSE_S)
                continue
            return
        text = f'couldn\'t update PodDisruptionBudget "{name}" due to conflicts'
        raise status.failure(504, "Timeout", f"Timeout: {text}", {"retryAfterSeconds": 10})

    async def _delete(self, pod: Object, wish: DeleteWish, context: Context) -> None:
        """Say in the pod's status why it goes, then delete it."""
        namespace, name = meta.namespace(pod), meta.name(pod)
        if not wish.dry_run:

            async def mark(old: Object) -> Object:
                _check(old, wish)
                return marked(old, now_text())

            made = await self._registry.update(self._pods, namespace, name, mark, context, "status")
            if wish.resource_version:
                wish = replace(wish, resource_version=meta.resource_version(made))
        await deletion.delete(self._registry, self._pods, namespace, name, wish, context)


def _wish(eviction: Object, dry_run: bool) -> DeleteWish:
    """Read the deletion that an eviction asks for; the request and the body must not differ in dryRun."""
    wish = deletion.read_options(eviction.get("deleteOptions"))
    return replace(wish, dry_run=wish.dry_run or dry_run)


def needs_no_budget(pod: Object) -> bool:
    """Tell whether a pod's going disrupts nothing: it has not begun, has ended, or is going already."""
    phase = (pod.get("status") or {}).get("phase")
    return phase in ("Pending", "Succeeded", "Failed") or meta.is_being_deleted(pod)


def is_ending(pod: Object) -> bool:
    """Tell whether a pod will never be ready again."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed") or meta.is_being_deleted(pod)


def is_spared(pod: Object, budget: Object) -> bool:
    """Tell whether a pod may go without a budget being spent: one that is not ready, where that does no harm."""
    if meta.condition_is_true(pod, "Ready"):
        return False
    if (budget.get("spec") or {}).get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return True
    found = budget.get("status") or {}
    desired = found.get("desiredHealthy") or 0
    return desired > 0 and (found.get("currentHealthy") or 0) >= desired


def spent(budget: Object, pod_name: str, stamp: str) -> Object:
    """Return the budget with one disruption less; raises TooManyRequests where there is none left."""
    found, name = budget.get("status") or {}, meta.name(budget)
    allowed, disrupted = found.get("disruptionsAllowed") or 0, found.get("disruptedPods") or {}
    if (found.get("observedGeneration") or 0) < (budget["metadata"].get("generation") or 0):
        raise still_processed(name)
    if allowed < 0:
        raise status.forbidden("poddisruptionbudget", name, "pdb disruptions allowed is negative", "policy")
    if len(disrupted) > DISRUPTED_PODS_MAX:
        text = "DisruptedPods map too big - too many evictions not confirmed by PDB controller"
        raise status.forbidden("poddisruptionbudget", name, text, "policy")
    if allowed == 0:
        desired, healthy = found.get("desiredHealthy") or 0, found.get("currentHealthy") or 0
        text = f"The disruption budget {name} needs {desired} healthy pods and has {healthy} currently"
        raise status.failure(429, "TooManyRequests", TOO_MANY_TEXT, {"causes": [_cause(text)]})
    made = {**found, "disruptionsAllowed": allowed - 1, "disruptedPods": {**disrupted, pod_name: stamp}}
    if allowed == 1:
        made["conditions"] = _without_room(found, stamp)
    return {**budget, "status": made}


def still_processed(name: str) -> status.ApiError:
    """Return the 429 of a budget that its controller has not looked at since it, or its pod, was changed."""
    error = status.too_many_requests(TOO_MANY_TEXT, 10)
    error.status["details"]["causes"] = [
        _cause(f"The disruption budget {name} is still being processed by the server.")
    ]
    return error


def _cause(text: str) -> dict[str, str]:
    return {"reason": "DisruptionBudget", "message": text}


def _without_room(found: Object, stamp: str) -> list[Object]:
    """Return the budget's conditions once the last disruption is spent."""
    old = [entry for entry in found.get("conditions") or () if entry.get("type") == "DisruptionAllowed"]
    since = old[0].get("lastTransitionTime", stamp) if old and old[0].get("status") == "False" else stamp
    made = {
        "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
        "lastTransitionTime": since, "observedGeneration": found.get("observedGeneration") or 0,
    }  # fmt: skip
    return [*(entry for entry in found.get("conditions") or () if entry.get("type") != "DisruptionAllowed"), made]


def marked(pod: Object, stamp: str) -> Object:
    """Return the pod with the condition that says that it was evicted."""
    found = pod.get("status") or {}
    wanted = {
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
    }  # fmt: skip
    others = [entry for entry in found.get("conditions") or () if entry.get("type") != wanted["type"]]
    old = meta.condition(pod, wanted["type"]) or {}
    since = old.get("lastTransitionTime", stamp) if old.get("status") == "True" else stamp
    made = {**old, **wanted, "lastTransitionTime": since}
    return {**pod, "status": {**found, "conditions": [*others, made]}}


def _check(pod: Object, wish: DeleteWish) -> None:
    held = meta.metadata(pod)
    for wanted, field, words in (
        (wish.uid, "uid", "The object might have been deleted and then recreated"),
        (wish.resource_version, "resourceVersion", "The object might have been modified"),
    ):
        if wanted and wanted != held[field]:
            about = "UID" if field == "uid" else "ResourceVersion"
            text = f"the {about} in the precondition ({wanted}) does not match the {about} in record ({held[field]}). "
            raise status.conflict("Pod", meta.name(pod), "", text + words)
