"""Rules of resources and their amounts: requests and limits of containers and pods, and claims to devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from control.api import quantity
from control.api.pod_resources import of_containers
from control.api.validation import names
from control.api.validation.faults import NOT_NEGATIVE, Faults

HUGE_PAGES = "hugepages-"
_CONTAINER = frozenset({"cpu", "memory", "ephemeral-storage"})
_STANDARD = _CONTAINER | {
    "storage", "requests.cpu", "requests.memory", "requests.storage", "requests.ephemeral-storage", "limits.cpu",
    "limits.memory", "limits.ephemeral-storage", "pods", "services", "replicationcontrollers", "resourcequotas",
    "secrets", "configmaps", "persistentvolumeclaims", "services.nodeports", "services.loadbalancers",
}  # fmt: skip
"""Names that stand without a domain in objects of any kind."""
QUOTA = _STANDARD - {"storage"}
_WHOLE = frozenset({
    "pods", "services", "replicationcontrollers", "resourcequotas", "secrets", "configmaps", "persistentvolumeclaims",
    "services.nodeports", "services.loadbalancers",
})  # fmt: skip
_QUOTA_PREFIX = "requests."
CheckName = Callable[[str, str, Faults], bool]


def is_native(name: str) -> bool:
    """Tell whether a resource is Kubernetes' own."""
    return "/" not in name or "kubernetes.io/" in name


def is_extended(name: str) -> bool:
    """Tell whether a resource is one that a cluster's administrator or device plug-ins offer."""
    if is_native(name) or name.startswith(_QUOTA_PREFIX):
        return False
    return not names.qualified_name(_QUOTA_PREFIX + name)


def may_be_overcommitted(name: str) -> bool:
    """Tell whether requests of a resource may be less than its limit."""
    return is_native(name) and not name.startswith(HUGE_PAGES)


def check_resource_name(name: str, path: str, faults: Faults) -> bool:
    """Check a resource's name: a known short one, or a qualified one; tell whether it is right."""
    if found := names.qualified_name(name):
        faults.invalid_all(path, name, found)
        return False
    if "/" not in name and name not in _STANDARD and not _is_of_huge_pages(name):
        faults.invalid(path, name, "must be a standard resource type or fully qualified")
        return False
    return True


def _is_of_huge_pages(name: str) -> bool:
    return name.removeprefix(_QUOTA_PREFIX).startswith(HUGE_PAGES)


def check_container_resource_name(name: str, path: str, faults: Faults) -> bool:
    """Check the name of a resource that containers may ask for."""
    right = check_resource_name(name, path, faults)
    if "/" not in name:
        if name not in _CONTAINER and not name.startswith(HUGE_PAGES):
            faults.invalid(path, name, "must be a standard resource for containers")
            return False
    elif not is_native(name) and not is_extended(name):
        faults.invalid(path, name, "doesn't follow extended resource name standard")
        return False
    return right


def check_pod_resource_name(name: str, path: str, faults: Faults) -> bool:
    """Check the name of a resource that pods as a whole may ask for."""
    if not check_resource_name(name, path, faults):
        return False
    if name not in ("cpu", "memory") and not name.startswith(HUGE_PAGES):
        faults.not_supported(path, name, ["cpu", HUGE_PAGES, "memory"])
        return False
    return True


def check_amount(name: str, amount: Any, path: str, faults: Faults) -> None:
    """Check a quantity: not negative, and whole for what cannot be divided."""
    value = quantity.parse(amount)
    if value < 0:
        faults.invalid(path, str(amount), NOT_NEGATIVE)
    if (name in _WHOLE or is_extended(name)) and value != value.to_integral_value():
        faults.invalid(path, str(amount), "must be an integer")


def check_resources(
    resources: dict[str, Any],
    path: str,
    faults: Faults,
    claims: frozenset[str] = frozenset(),
    check_name: CheckName = check_container_resource_name,
) -> None:
    """Check requests and limits, and the claims that a container names."""
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for kind, amounts in (("limits", limits), ("requests", requests)):
        for name, amount in amounts.items():
            here = f"{path}.{kind}[{name}]"
            check_name(name, here, faults)
            check_amount(name, amount, here, faults)
            if kind == "requests":
                _check_against_limit(name, amount, limits.get(name), path, faults)
            if name.startswith(HUGE_PAGES):
                _check_pages(name, amount, here, faults)
    named = {*limits, *requests}
    if not named & {"cpu", "memory"} and any(name.startswith(HUGE_PAGES) for name in named):
        faults.forbidden(path, "HugePages require cpu or memory")
    if wanted := resources.get("claims"):
        _check_claims(wanted, claims, f"{path}.claims", faults)


def _check_against_limit(name: str, amount: Any, limit: Any, path: str, faults: Faults) -> None:
    if limit is None:
        if not may_be_overcommitted(name):
            faults.required(f"{path}.limits", "Limit must be set for non overcommitable resources")
        return
    wanted, most = quantity.parse(amount), quantity.parse(limit)
    if wanted != most and not may_be_overcommitted(name):
        faults.invalid(f"{path}.requests", str(amount), f"must be equal to {name} limit of {limit}")
    elif wanted > most:
        faults.invalid(f"{path}.requests", str(amount), f"must be less than or equal to {name} limit of {limit}")


def _check_pages(name: str, amount: Any, path: str, faults: Faults) -> None:
    try:
        size = quantity.parse(name.removeprefix(HUGE_PAGES))
    except quantity.QuantityError:
        size = quantity.parse("0")
    if size <= 0 or quantity.parse(amount) % size:
        faults.invalid(path, str(amount), f"{amount} is not positive integer multiple of {name}")


def _check_claims(wanted: list[dict[str, Any]], claims: frozenset[str], path: str, faults: Faults) -> None:
    seen: set[tuple[str, str]] = set()
    for index, claim in enumerate(wanted):
        here, name, request = f"{path}[{index}]", claim.get("name") or "", claim.get("request") or ""
        if not name:
            faults.required(here)
            continue
        if (name, "") in seen:
            faults.duplicate(here, name)
        else:
            if request:
                faults.invalid_all(f"{here}.request", request, names.dns_label(request))
            if (name, request) in seen:
                faults.duplicate(here, f"{name}/{request}")
            elif not request and any(other == name for other, _ in seen):
                faults.duplicate(here, name)
            seen.add((name, request))
        if name not in claims:
            which = f": {', '.join(sorted(claims))}" if claims else " which is empty"
            faults.not_found(here, name, f"must be one of the names in pod.spec.resourceClaims{which}")


def check_pod_resources(spec: dict[str, Any], path: str, faults: Faults) -> None:
    """Check what a pod asks for as a whole: no less than its containers ask for together."""
    resources = spec["resources"]
    if (spec.get("os") or {}).get("name") == "windows":
        faults.forbidden(path, "may not be set for a windows pod")
        return
    if resources.get("claims") is not None:
        faults.forbidden(f"{path}.claims", "claims may not be set for Resources at pod-level")
    check_resources(resources, path, faults, check_name=check_pod_resource_name)
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    for name, total in of_containers(spec, "requests").items():
        if name in requests and quantity.parse(total) > quantity.parse(requests[name]):
            text = f"must be greater than or equal to aggregate container requests of {total}"
            faults.invalid(f"{path}.requests[{name}]", str(requests[name]), text)
    for name, total in of_containers(spec, "limits").items():
        if not name.startswith(HUGE_PAGES) or name not in limits:
            continue
        if quantity.parse(total) > quantity.parse(limits[name]):
            text = f"must be greater than or equal to aggregate container limits of {total}"
            faults.invalid(f"{path}.limits[{name}]", str(limits[name]), text)
    for index, container in enumerate(spec.get("containers") or []):
        for name, amount in ((container.get("resources") or {}).get("limits") or {}).items():
            if name in limits and quantity.parse(amount) > quantity.parse(limits[name]):
                text = f"must be less than or equal to pod limits of {limits[name]}"
                faults.invalid(f"{path}.containers[{index}][{name}].limits", str(amount), text)
