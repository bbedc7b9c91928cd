"""DefaultTolerationSeconds, TaintNodesByCondition and Priority: small completions of pods and nodes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from control.api.meta import Object, name
from control.api.resources import NODES, PODS, PRIORITY_CLASSES
from control.apiserver.admission.plugin import Plugin, concerns, denied, spec_of
from control.apiserver.request import AdmissionRequest, Lookup

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
SYSTEM_PRIORITY_CLASSES = {
    "system-node-critical": (
        2000001000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    "system-cluster-critical": (
        2000000000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
}


def add_default_tolerations(pod: Object, not_ready_s: int, unreachable_s: int) -> None:
    """Let the pod stay for a while on a node that fails, unless it says otherwise itself."""
    spec = pod.setdefault("spec", {})
    tolerations: list[dict[str, Any]] = list(spec.get("tolerations") or ())
    missing = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}
        for key, seconds in ((NOT_READY, not_ready_s), (UNREACHABLE, unreachable_s))
        if not any(_tolerates(toleration, key) for toleration in tolerations)
    ]
    if missing:
        spec["tolerations"] = tolerations + missing


def _tolerates(toleration: dict[str, Any], key: str) -> bool:
    return toleration.get("key") in (key, "", None) and toleration.get("effect") in ("NoExecute", "", None)


class DefaultTolerationSeconds(Plugin):
    """Applies `add_default_tolerations` to new pods."""

    about = (PODS,)

    def __init__(self, not_ready_s: int, unreachable_s: int) -> None:
        self._seconds = (not_ready_s, unreachable_s)

    async def mutate(self, request: AdmissionRequest) -> None:
        """Complete a pod."""
        if concerns(request, PODS, "CREATE", "UPDATE") and request.object is not None:
            add_default_tolerations(request.object, *self._seconds)


class TaintNodesByCondition(Plugin):
    """A new node is not ready until somebody saw that it is."""

    about = (NODES,)

    async def mutate(self, request: AdmissionRequest) -> None:
        """Taint a new node."""
        if not concerns(request, NODES, "CREATE") or request.object is None:
            return
        spec = request.object.setdefault("spec", {})
        taints = list(spec.get("taints") or ())
        if not any(taint.get("key") == NOT_READY and taint.get("effect") == "NoSchedule" for taint in taints):
            spec["taints"] = [*taints, {"key": NOT_READY, "effect": "NoSchedule"}]


def default_priority_class(classes: Iterable[Object]) -> Object | None:
    """The class of pods that name none; of several that claim it, the one with the lowest value."""
    defaults = [entry for entry in classes if entry.get("globalDefault")]
    return min(defaults, key=lambda entry: int(entry.get("value") or 0), default=None)


class Priority(Plugin):
    """Turns a pod's priority class into its priority."""

    about = (PODS, PRIORITY_CLASSES)

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    async def mutate(self, request: AdmissionRequest) -> None:
        """Resolve the class of a new pod; an update keeps what was resolved then."""
        if request.object is None:
            return
        if concerns(request, PODS, "UPDATE"):
            old, spec = spec_of(request.old_object), request.object.setdefault("spec", {})
            if spec.get("priority") is None and old.get("priority") is not None:
                spec["priority"] = old["priority"]
            if spec.get("preemptionPolicy") is None and old.get("preemptionPolicy") is not None:
                spec["preemptionPolicy"] = old["preemptionPolicy"]
        elif concerns(request, PODS, "CREATE"):
            self._resolve(request, request.object.setdefault("spec", {}))

    async def validate(self, request: AdmissionRequest) -> None:
        """At most one class is the default of all pods."""
        if not concerns(request, PRIORITY_CLASSES, "CREATE", "UPDATE") or not (request.object or {}).get(
            "globalDefault"
        ):
            return
        for other in self._lookup.list(PRIORITY_CLASSES):
            if other.get("globalDefault") and name(other) != name(request.object or {}):
                text = f"PriorityClass {name(other)} is already marked as default. Only one default can exist"
                raise denied(request, text)

    def _resolve(self, request: AdmissionRequest, spec: Object) -> None:
        wanted = spec.get("priorityClassName") or ""
        if wanted:
            found = self._lookup.get(PRIORITY_CLASSES, wanted)
            if found is None:
                raise denied(request, f"no PriorityClass with name {wanted} was found")
        else:
            found = default_priority_class(self._lookup.list(PRIORITY_CLASSES))
            if found is not None:
                spec["priorityClassName"] = name(found)
        value = int((found or {}).get("value") or 0)
        policy = (found or {}).get("preemptionPolicy") or "PreemptLowerPriority"
        given = spec.get("priority")
        if given is not None and given != value:
            raise denied(
                request,
                f"the integer value of priority ({given}) must not be provided in pod spec;"
                f" priority admission controller computed {value} from the given PriorityClass name",
            )
        if spec.get("preemptionPolicy") not in (None, "", policy):
            raise denied(
                request,
                f"the string value of PreemptionPolicy ({spec['preemptionPolicy']}) must not be provided in pod spec;"
                f" priority admission controller computed {policy} from the given PriorityClass name",
            )
        spec["priority"] = value
        spec["preemptionPolicy"] = policy
