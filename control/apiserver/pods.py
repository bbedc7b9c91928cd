"""Subresources of pods that write more than they look: binding and eviction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from control.api import resources, selectors, status
from control.api.meta import Object
from control.apiserver import deletion
from control.apiserver.cache import Filter
from control.apiserver.paging import ListQuery
from control.apiserver.registry import Context, Registry, now_text
from control.apiserver.request import Handlers, ResourceRequest

DISRUPTION_BUDGETS = resources.Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
BINDINGS = resources.Resource("", "v1", "bindings", "Binding")


class PodSubresources:
    """Binding and eviction over the registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._pods = registry.kinds.of(resources.PODS)

    def install(self, handlers: Handlers) -> None:
        """Register the handlers."""
        handlers.add_object(resources.PODS, "binding", "create", self.bind)
        handlers.add_object(BINDINGS, "", "create", self.bind)
        handlers.add_object(resources.PODS, "eviction", "create", self.evict)

    async def bind(self, request: ResourceRequest) -> Object:
        """Assign a pod to a node, once."""
        binding = request.object or {}
        metadata, target = binding.get("metadata") or {}, binding.get("target") or {}
        name = request.info.name or metadata.get("name") or ""
        node = target.get("name")
        if not node or target.get("kind") not in (None, "", "Node"):
            cause = status.Cause("FieldValueRequired", "Required value", "target.name")
            raise status.invalid("Binding", name, [cause])

        async def assign(pod: Object) -> Object:
            return _assigned(pod, name, node, metadata)

        await self._registry.update(
            self._pods, request.info.namespace, name, assign, Context(request.user, request.options), "binding"
        )
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}

    async def evict(self, request: ResourceRequest) -> Object:
        """Delete a pod if its disruption budgets allow it."""
        eviction = request.object or {}
        namespace, name = request.info.namespace, request.info.name
        context = Context(request.user, request.options, request.warnings)
        wish = deletion.read_options(eviction.get("deleteOptions"))
        if wish.dry_run or context.options.dry_run:
            # Said in the query or in the object: either way nothing may go.
            wish, context.options = replace(wish, dry_run=True), replace(context.options, dry_run=True)
        entry = await self._registry.get(self._pods, namespace, name)
        pod = entry.object()
        if (pod.get("status") or {}).get("phase") not in ("Pending", "Succeeded", "Failed"):
            await self._spend_budget(namespace, pod, context)
        await deletion.delete(self._registry, self._pods, namespace, name, wish, context)
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}

    async def _spend_budget(self, namespace: str, pod: Object, context: Context) -> None:
        kind = self._registry.kinds.of(DISRUPTION_BUDGETS)
        listed = await self._registry.list(kind, Filter(namespace), ListQuery())
        labels = pod["metadata"].get("labels") or {}
        budgets = [
            budget
            for entry in listed.entries
            if (selector := (budget := entry.object()).get("spec", {}).get("selector")) is not None
            and selectors.from_label_selector(selector).matches(labels)
        ]
        if len(budgets) > 1:
            text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
            raise status.internal_error(text)
        for budget in budgets:
            name = budget["metadata"]["name"]

            async def spend(old: Object) -> Object:
                return _spent(old, pod)

            await self._registry.update(kind, namespace, name, spend, context, "status")


def _assigned(pod: Object, name: str, node: str, metadata: dict[str, Any]) -> Object:
    if pod["metadata"].get("deletionTimestamp"):
        raise status.conflict("pods/binding", name, "", f"pod {name} is being deleted, cannot be assigned to a host")
    if assigned := pod["spec"].get("nodeName"):
        raise status.conflict("pods/binding", name, "", f'pod {name} is already assigned to node "{assigned}"')
    if pod["spec"].get("schedulingGates"):
        text = f"pod {name} has non-empty .spec.schedulingGates"
        raise status.conflict("pods/binding", name, "", text)
    uid = metadata.get("uid")
    if uid and uid != pod["metadata"]["uid"]:
        text = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {pod['metadata']['uid']}"
        raise status.conflict("pods/binding", name, "", text)
    found = pod.get("status") or {}
    kept = [entry for entry in found.get("conditions") or () if entry.get("type") != "PodScheduled"]
    scheduled = {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": now_text()}
    annotations = {**(pod["metadata"].get("annotations") or {}), **(metadata.get("annotations") or {})}
    labels = {**(pod["metadata"].get("labels") or {}), **(metadata.get("labels") or {})}
    made = {**pod["metadata"]}
    if annotations:
        made["annotations"] = annotations
    if labels:
        made["labels"] = labels
    return {
        **pod,
        "metadata": made,
        "spec": {**pod["spec"], "nodeName": node},
        "status": {**found, "conditions": [*kept, scheduled]},
    }


def _spent(budget: Object, pod: Object) -> Object:
    found = budget.get("status") or {}
    allowed = found.get("disruptionsAllowed") or 0
    outdated = (found.get("observedGeneration") or 0) < (budget["metadata"].get("generation") or 0)
    if outdated or allowed <= 0:
        name = budget["metadata"]["name"]
        healthy, desired = found.get("currentHealthy") or 0, found.get("desiredHealthy") or 0
        why = (
            f"The disruption budget {name} is still being processed by the server."
            if outdated
            else f"The disruption budget {name} needs {desired} healthy pods and has {healthy} currently"
        )
        error = status.too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", 10)
        error.status["details"]["causes"] = [{"reason": "DisruptionBudget", "message": why}]
        raise error
    disrupted = {**(found.get("disruptedPods") or {}), pod["metadata"]["name"]: now_text()}
    return {**budget, "status": {**found, "disruptionsAllowed": allowed - 1, "disruptedPods": disrupted}}
