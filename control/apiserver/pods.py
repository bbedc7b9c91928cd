"""Subresources of pods that write more than they look: binding here, eviction in a module of its own."""

from __future__ import annotations

from typing import Any

from control.api import resources, status
from control.api.meta import Object
from control.apiserver.eviction import Evictions
from control.apiserver.registry import Context, Registry, now_text
from control.apiserver.request import AdmissionRequest, Handlers, ResourceRequest

BINDINGS = resources.Resource("", "v1", "bindings", "Binding")


class PodSubresources:
    """Binding over the registry, and what else pods have."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._pods = registry.kinds.of(resources.PODS)

    def install(self, handlers: Handlers) -> None:
        """Register the handlers."""
        handlers.add_object(resources.PODS, "binding", "create", self.bind)
        handlers.add_object(BINDINGS, "", "create", self.bind)
        Evictions(self._registry).install(handlers)

    async def bind(self, request: ResourceRequest) -> Object:
        """Assign a pod to a node, once."""
        binding = request.object or {}
        metadata, target = binding.get("metadata") or {}, binding.get("target") or {}
        name, namespace = request.info.name or metadata.get("name") or "", request.info.namespace
        if metadata.get("name") not in (None, name):
            raise status.bad_request("name in URL does not match name in Binding object")
        node = str(target.get("name") or "")
        if causes := _target_faults(target):
            raise status.invalid("Binding", name, causes)
        context = Context(request.user, request.options, request.warnings)
        asked = AdmissionRequest(
            "CREATE", resources.PODS, request.user, namespace, name, "binding", binding,
            dry_run=request.options.dry_run, warnings=request.warnings,
        )  # fmt: skip
        await self._registry.admission.mutate(asked)
        await self._registry.admission.validate(asked)
        admitted = (asked.object or binding).get("metadata") or {}

        async def assign(pod: Object) -> Object:
            return _assigned(pod, name, node, admitted)

        await self._registry.update(self._pods, namespace, name, assign, context, "binding")
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def _target_faults(target: Object) -> list[status.Cause]:
    causes = []
    if target.get("kind") not in (None, "", "Node"):
        text = f'Unsupported value: "{target["kind"]}": supported values: "Node", "<empty>"'
        causes.append(status.Cause("FieldValueNotSupported", text, "target.kind"))
    if not target.get("name"):
        causes.append(status.Cause("FieldValueRequired", "Required value", "target.name"))
    return causes


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
