"""PodTopologyLabels: a pod carries the zone and region of the node that it is bound to."""

from __future__ import annotations

from control.api.meta import Object, labels
from control.api.resources import NODES, PODS
from control.apiserver.admission.plugin import Plugin, concerns, spec_of
from control.apiserver.request import AdmissionRequest, Lookup

COPIED = ("topology.kubernetes.io/zone", "topology.kubernetes.io/region")


class PodTopologyLabels(Plugin):
    """Copies the labels from the node, unless the pod or its binding says otherwise."""

    about = (PODS,)

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    async def mutate(self, request: AdmissionRequest) -> None:
        """Label a binding, or a pod that is made on its node."""
        if request.object is None:
            return
        if concerns(request, PODS, "CREATE", subresource="binding"):
            target = request.object.get("target") or {}
            if target.get("kind") == "Node":
                self._label(request.object, target.get("name") or "")
        elif concerns(request, PODS, "CREATE"):
            self._label(request.object, spec_of(request.object).get("nodeName") or "")

    def _label(self, obj: Object, node_name: str) -> None:
        node = self._lookup.get(NODES, node_name) if node_name else None
        found = {label: labels(node)[label] for label in COPIED if label in labels(node)} if node else {}
        if found:
            metadata = obj.setdefault("metadata", {})
            metadata["labels"] = {**found, **(metadata.get("labels") or {})}
