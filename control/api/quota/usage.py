"""What one object counts for in quotas, and which names of a quota a kind of objects is counted by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import ceil
from typing import Any

from control.api import meta, pod_resources, quantity
from control.api.amounts import Amounts, total
from control.api.meta import Object
from control.api.times import parse_time

STORAGE_CLASS = ".storageclass.storage.k8s.io/"
DEVICE_CLASS = ".deviceclass.resource.k8s.io/devices"
DEVICES_OF_ALL = 32
"""Devices that a request for all of a class can be given at most."""
PRIORITY_CLASS, ATTRIBUTES_CLASS = "PriorityClass", "VolumeAttributesClass"
_CLAIM_CLASS_ANNOTATION = "volume.beta.kubernetes.io/storage-class"
_COMPUTE = ("cpu", "memory", "ephemeral-storage")
_HUGE_PAGES = pod_resources.HUGE_PAGES
_ALIASES = {
    ("", "configmaps"): "configmaps",
    ("", "replicationcontrollers"): "replicationcontrollers",
    ("", "resourcequotas"): "resourcequotas",
    ("", "secrets"): "secrets",
}
"""Names beside ``count/…`` that some kinds have always been counted by."""
_POD_NAMES = frozenset({
    "pods", "count/pods", *_COMPUTE, *(f"{part}.{name}" for part in ("requests", "limits") for name in _COMPUTE),
})  # fmt: skip
_SERVICE_NAMES = frozenset({"services", "count/services", "services.nodeports", "services.loadbalancers"})
_CLAIM_NAMES = ("persistentvolumeclaims", "requests.storage")
IGNORED = frozenset({
    ("", "bindings"), ("", "componentstatuses"), ("", "events"), ("events.k8s.io", "events"),
    ("authentication.k8s.io", "tokenreviews"), ("authentication.k8s.io", "selfsubjectreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"), ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"), ("authorization.k8s.io", "selfsubjectrulesreviews"),
})  # fmt: skip
"""Kinds that no quota counts."""

Name = tuple[str, str]
"""(group, plural)."""
PODS: Name = ("", "pods")
SERVICES: Name = ("", "services")
CLAIMS: Name = ("", "persistentvolumeclaims")
RESOURCE_CLAIMS: Name = ("resource.k8s.io", "resourceclaims")


@dataclass(frozen=True, slots=True)
class Measure:
    """What one object counts for, and what decides which quotas it falls under."""

    always: Amounts
    """While it is stored."""
    whole: Amounts
    """While it lives, too: an ended pod needs no more processors."""
    lives_until: datetime | None = None
    """When it ends to live by time alone: a pod that outstays its grace on a lost node. None: not by time."""
    scopes: frozenset[str] = frozenset()
    """Scopes that it is in."""
    selected: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By scope that selects names: the names that it has."""

    def usage(self, now: datetime) -> Amounts:
        """Return what it counts for now."""
        return self.always if self.lives_until is not None and now > self.lives_until else self.whole


def count_name(name: Name) -> str:
    """Return the name by which objects of a kind are counted."""
    group, plural = name
    return f"count/{plural}.{group}" if group else f"count/{plural}"


def tracks(kind: Name, name: str) -> bool:
    """Tell whether a quota's name counts objects of this kind."""
    if kind == PODS:
        prefixed = name.startswith((_HUGE_PAGES, f"requests.{_HUGE_PAGES}"))
        return name in _POD_NAMES or prefixed or (not is_native(name) and name.startswith("requests."))
    if kind == SERVICES:
        return name in _SERVICE_NAMES
    if kind == CLAIMS:
        by_class = any(name.endswith(STORAGE_CLASS + part) for part in _CLAIM_NAMES)
        return name == count_name(CLAIMS) or name in _CLAIM_NAMES or by_class
    if kind == RESOURCE_CLAIMS and name.endswith(DEVICE_CLASS):
        return True
    return name == count_name(kind) or name == _ALIASES.get(kind)


def kinds_of(name: str) -> list[Name]:
    """Return the kinds that a quota's name counts."""
    if name.startswith("count/"):
        plural, _, group = name.removeprefix("count/").partition(".")
        return [] if (group, plural) in IGNORED else [(group, plural)]
    known = (PODS, SERVICES, CLAIMS, RESOURCE_CLAIMS, *_ALIASES)
    return [kind for kind in known if tracks(kind, name)]


def is_native(name: str) -> bool:
    """Tell whether a resource's name is Kubernetes' own."""
    return "/" not in name or "kubernetes.io/" in name


def measure(kind: Name, obj: Object) -> Measure:
    """Return what an object of a kind counts for."""
    if kind == PODS:
        return _pod(obj)
    if kind == SERVICES:
        return _fixed(_service(obj))
    if kind == CLAIMS:
        amounts = _claim(obj)
        return Measure(amounts, amounts, selected={ATTRIBUTES_CLASS: _attributes_classes(obj)})
    if kind == RESOURCE_CLAIMS:
        return _fixed(_resource_claim(obj))
    alias = _ALIASES.get(kind)
    return _fixed({count_name(kind): "1", **({alias: "1"} if alias else {})})


def _fixed(amounts: Amounts) -> Measure:
    return Measure(amounts, amounts)


def _pod(pod: Object) -> Measure:
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    always = {"count/pods": "1"}
    ended = status.get("phase") in ("Succeeded", "Failed")
    asked = {} if ended else compute_usage(pod_resources.requests(pod), pod_resources.limits(pod))
    scopes = {
        "BestEffort" if status.get("qosClass") == "BestEffort" else "NotBestEffort",
        "NotTerminating" if spec.get("activeDeadlineSeconds") is None else "Terminating",
    }
    if _looks_into_other_namespaces(spec.get("affinity") or {}):
        scopes.add("CrossNamespacePodAffinity")
    chosen = spec.get("priorityClassName")
    return Measure(
        always,
        always if ended else {**always, **asked},
        _end_of_grace(pod),
        frozenset(scopes),
        {PRIORITY_CLASS: frozenset([chosen]) if chosen else frozenset()},
    )


def _end_of_grace(pod: Object) -> datetime | None:
    grace_s, deleted = (meta.metadata(pod).get(name) for name in ("deletionGracePeriodSeconds", "deletionTimestamp"))
    return parse_time(deleted) + timedelta(seconds=grace_s) if deleted and grace_s is not None else None


def compute_usage(requests: Amounts, limits: Amounts) -> dict[str, str]:
    """Return requests and limits by the names that quotas have for them."""
    found = {"pods": "1"}
    for name in _COMPUTE:
        if name in requests:
            found[name] = found[f"requests.{name}"] = requests[name]
        if name in limits:
            found[f"limits.{name}"] = limits[name]
    for name, text in requests.items():
        if name.startswith(_HUGE_PAGES):
            found[name] = text
        if name.startswith(_HUGE_PAGES) or (not is_native(name) and not name.startswith("requests.")):
            found[f"requests.{name}"] = text
    return found


def _looks_into_other_namespaces(affinity: Object) -> bool:
    for part in ("podAffinity", "podAntiAffinity"):
        rules = affinity.get(part) or {}
        preferred = rules.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
        terms = [
            *(rules.get("requiredDuringSchedulingIgnoredDuringExecution") or ()),
            *(entry.get("podAffinityTerm") or {} for entry in preferred),
        ]
        if any(term.get("namespaces") or term.get("namespaceSelector") is not None for term in terms):
            return True
    return False


def _service(service: Object) -> dict[str, str]:
    spec = service.get("spec") or {}
    ports, kind = spec.get("ports") or (), spec.get("type")
    if kind == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is False:
        ports = [port for port in ports if port.get("nodePort")]
    elif kind not in ("NodePort", "LoadBalancer"):
        ports = ()
    return {
        "count/services": "1",
        "services": "1",
        "services.nodeports": str(len(ports)),
        "services.loadbalancers": "1" if kind == "LoadBalancer" else "0",
    }


def _claim(claim: Object) -> dict[str, str]:
    spec, status = claim.get("spec") or {}, claim.get("status") or {}
    found = {"persistentvolumeclaims": "1", count_name(CLAIMS): "1"}
    wanted = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    if wanted is not None:
        given = (status.get("allocatedResources") or {}).get("storage")
        larger = given if given is not None and quantity.parse(given) > quantity.parse(wanted) else wanted
        value = quantity.parse(larger)
        # Quotas count whole bytes.
        found["requests.storage"] = larger if value == int(value) else str(ceil(value))
    annotated = meta.annotations(claim).get(_CLAIM_CLASS_ANNOTATION)
    chosen = annotated if annotated is not None else spec.get("storageClassName")
    if chosen:
        found |= {f"{chosen}{STORAGE_CLASS}{name}": found[name] for name in _CLAIM_NAMES if name in found}
    return found


def _attributes_classes(claim: Object) -> frozenset[str]:
    spec, status = claim.get("spec") or {}, claim.get("status") or {}
    change = status.get("modifyVolumeStatus") or {}
    names = (
        spec.get("volumeAttributesClassName"),
        status.get("currentVolumeAttributesClassName"),
        change.get("targetVolumeAttributesClassName"),
    )
    return frozenset(name for name in names if name)


def needs_recount(new: Object, old: Object) -> bool:
    """Tell whether a change of a claim's status changes what it counts for."""
    return _claim(new) != _claim(old) or _attributes_classes(new) != _attributes_classes(old)


def _resource_claim(claim: Object) -> dict[str, str]:
    devices: list[Amounts] = []
    for request in ((claim.get("spec") or {}).get("devices") or {}).get("requests") or ():
        if choices := request.get("firstAvailable"):
            most: dict[str, int] = {}
            for choice in choices:
                name = f"{choice.get('deviceClassName')}{DEVICE_CLASS}"
                most[name] = max(most.get(name, 0), _devices(choice))
            devices.append({name: str(count) for name, count in most.items()})
        else:
            exact = request.get("exactly") or request
            devices.append({f"{exact.get('deviceClassName')}{DEVICE_CLASS}": str(_devices(exact))})
    return {count_name(RESOURCE_CLAIMS): "1", **total(devices)}


def _devices(request: dict[str, Any]) -> int:
    if request.get("allocationMode") == "All":
        return DEVICES_OF_ALL
    return int(request.get("count") or 1)
