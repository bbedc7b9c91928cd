"""LimitRanger: a namespace's LimitRanges give containers their defaults and bound what pods and claims may ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from control.api import quantity
from control.api.meta import Object
from control.api.resources import LIMIT_RANGES, PERSISTENT_VOLUME_CLAIMS, PODS
from control.apiserver.admission.plugin import Plugin, concerns, denied, spec_of
from control.apiserver.request import AdmissionRequest, Lookup

ANNOTATION = "kubernetes.io/limit-ranger"
Amounts = Mapping[str, str]


def defaults_of(ranges: Iterable[Object]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the limits and requests that containers get where they name none."""
    limits: dict[str, str] = {}
    requests: dict[str, str] = {}
    for entry in ranges:
        for item in spec_of(entry).get("limits") or ():
            if item.get("type") == "Container":
                limits.update(item.get("default") or {})
                requests.update(item.get("defaultRequest") or {})
    return limits, requests


def add_defaults(pod: Object, limits: Amounts, requests: Amounts) -> None:
    """Give containers the defaults and note in an annotation what was set."""
    told: list[str] = []
    spec = pod.setdefault("spec", {})
    for field, kind in (("containers", "container"), ("initContainers", "init container")):
        for container in spec.get(field) or ():
            resources = container.get("resources") or {}
            for part, word, given in (("requests", "request", requests), ("limits", "limit", limits)):
                set_now = [name for name in sorted(given) if name not in (resources.get(part) or {})]
                if not set_now:
                    continue
                resources[part] = {**{name: given[name] for name in set_now}, **(resources.get(part) or {})}
                container["resources"] = resources
                told.append(f"{', '.join(set_now)} {word} for {kind} {container.get('name')}")
    if told:
        annotations = pod["metadata"].setdefault("annotations", {})
        annotations[ANNOTATION] = "LimitRanger plugin set: " + "; ".join(told)


def pod_faults(pod: Object, ranges: Iterable[Object]) -> list[str]:
    """Return what of a pod is out of bounds."""
    spec = spec_of(pod)
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    faults: list[str] = []
    for entry in ranges:
        for item in spec_of(entry).get("limits") or ():
            if item.get("type") == "Container":
                for container in containers:
                    faults += _item_faults(item, container.get("resources") or {})
            elif item.get("type") == "Pod":
                faults += _item_faults(item, _sums(spec))
    return faults


def claim_faults(claim: Object, ranges: Iterable[Object]) -> list[str]:
    """Return what of a PersistentVolumeClaim is out of bounds."""
    asked = (spec_of(claim).get("resources") or {}).get("requests") or {}
    faults: list[str] = []
    for entry in ranges:
        for item in spec_of(entry).get("limits") or ():
            if item.get("type") == "PersistentVolumeClaim":
                faults += _item_faults({"min": item.get("min"), "type": item["type"]}, {"requests": asked})
                # A claim has no limit: what it asks for is what it gets.
                faults += _item_faults({"max": item.get("max"), "type": item["type"]}, {"limits": asked})
    return faults


def _item_faults(item: Mapping[str, Any], resources: Mapping[str, Any]) -> list[str]:
    requests, limits, kind = resources.get("requests") or {}, resources.get("limits") or {}, item.get("type")
    faults: list[str] = []
    for name, bound in (item.get("min") or {}).items():
        about = f"minimum {name} usage per {kind} is {bound}"
        if name not in requests:
            faults.append(f"{about}.  No request is specified")
        elif quantity.parse(requests[name]) < quantity.parse(bound):
            faults.append(f"{about}, but request is {requests[name]}")
        elif name in limits and quantity.parse(limits[name]) < quantity.parse(bound):
            faults.append(f"{about}, but limit is {limits[name]}")
    for name, bound in (item.get("max") or {}).items():
        about = f"maximum {name} usage per {kind} is {bound}"
        if name not in limits:
            faults.append(f"{about}.  No limit is specified")
        elif quantity.parse(limits[name]) > quantity.parse(bound):
            faults.append(f"{about}, but limit is {limits[name]}")
        elif name in requests and quantity.parse(requests[name]) > quantity.parse(bound):
            faults.append(f"{about}, but request is {requests[name]}")
    for name, bound in (item.get("maxLimitRequestRatio") or {}).items():
        if fault := _ratio_fault(name, bound, requests, limits):
            faults.append(f"{name} max limit to request ratio per {kind} is {bound}, but {fault}")
    return faults


def _ratio_fault(name: str, bound: str, requests: Amounts, limits: Amounts) -> str:
    request = quantity.parse(requests.get(name, "0"))
    limit = quantity.parse(limits.get(name, "0"))
    if not request:
        return "no request is specified or request is 0"
    if not limit:
        return "no limit is specified or limit is 0"
    ratio = limit / request
    return f"provided ratio is {ratio:.6f}" if ratio > quantity.parse(bound) else ""


def _sums(spec: Object) -> dict[str, dict[str, str]]:
    """Return what a pod asks for as a whole: the sum of its containers, or its largest init container."""
    made: dict[str, dict[str, str]] = {}
    for part in ("requests", "limits"):
        totals: dict[str, Decimal] = {}
        for container in spec.get("containers") or ():
            for name, amount in ((container.get("resources") or {}).get(part) or {}).items():
                totals[name] = totals.get(name, Decimal(0)) + quantity.parse(amount)
        for container in spec.get("initContainers") or ():
            for name, amount in ((container.get("resources") or {}).get(part) or {}).items():
                totals[name] = max(totals.get(name, Decimal(0)), quantity.parse(amount))
        made[part] = {name: quantity.canonical(format(total, "f")) for name, total in totals.items()}
    return made


class LimitRanger(Plugin):
    """Applies the LimitRanges of the object's namespace."""

    about = (PODS, PERSISTENT_VOLUME_CLAIMS)

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    async def mutate(self, request: AdmissionRequest) -> None:
        """Give a new pod's containers their defaults."""
        if not concerns(request, PODS, "CREATE") or request.object is None:
            return
        limits, requests = defaults_of(self._lookup.list(LIMIT_RANGES, request.namespace))
        if limits or requests:
            add_defaults(request.object, limits, requests)

    async def validate(self, request: AdmissionRequest) -> None:
        """Refuse what is out of bounds."""
        if request.object is None:
            return
        if concerns(request, PODS, "CREATE") or concerns(request, PODS, "UPDATE", subresource="resize"):
            faults = pod_faults(request.object, self._lookup.list(LIMIT_RANGES, request.namespace))
        elif concerns(request, PERSISTENT_VOLUME_CLAIMS, "CREATE", "UPDATE"):
            faults = claim_faults(request.object, self._lookup.list(LIMIT_RANGES, request.namespace))
        else:
            return
        if faults:
            raise denied(request, faults[0] if len(faults) == 1 else f"[{', '.join(faults)}]")
