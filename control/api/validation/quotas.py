"""Rules of resource quotas and limit ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from control.api import quantity
from control.api.meta import Object
from control.api.validation import names
from control.api.validation.amounts import (
    HUGE_PAGES,
    QUOTA,
    check_amount,
    check_container_resource_name,
    check_resource_name,
    may_be_overcommitted,
)
from control.api.validation.faults import IMMUTABLE, Faults
from control.api.validation.internal import internal

_COMPUTE = frozenset({"cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"})
_OF_PODS = _COMPUTE | {"pods"}
_SCOPES = {
    "BestEffort": frozenset({"pods"}),
    "CrossNamespacePodAffinity": _OF_PODS,
    "NotBestEffort": _OF_PODS,
    "NotTerminating": _OF_PODS,
    "PriorityClass": _OF_PODS,
    "Terminating": _OF_PODS,
    "VolumeAttributesClass": frozenset({"persistentvolumeclaims", "requests.storage"}),
}
"""Scope → Kubernetes' own resources that may be limited within it."""
_WITHOUT_VALUES = ("BestEffort", "NotBestEffort", "Terminating", "NotTerminating", "CrossNamespacePodAffinity")
_CONFLICTS = (("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating"))
_MUST_EXIST = (
    "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, "
    "ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"
)
_LIMIT_TYPES = ("Container", "PersistentVolumeClaim", "Pod")
_ORDER = (
    ("min", "max", "min", "min", "max"),
    ("min", "defaultRequest", "defaultRequest", "min", "default request"),
    ("defaultRequest", "max", "defaultRequest", "default request", "max"),
    ("defaultRequest", "default", "defaultRequest", "default request", "default limit"),
    ("min", "default", "default", "min", "default"),
    ("default", "max", "default", "default", "max"),
)
"""(the lower amount, the higher one, the field that is told, and both names in the text)."""


def check_quota(obj: Object, faults: Faults) -> None:
    """Check a ResourceQuota."""
    spec = obj.get("spec") or {}
    hard = spec.get("hard") or {}
    _check_hard(hard, "spec.hard", faults)
    if scopes := spec.get("scopes"):
        for scope in scopes:
            _check_scope(scope, hard, "spec.scopes", scopes, faults)
        _check_conflicts(scopes, "spec.scopes", scopes, faults)
    if (selector := spec.get("scopeSelector")) is not None:
        _check_scope_selector(selector, hard, spec.get("scopes"), faults)
    _check_status(obj, faults)


def _check_hard(amounts: Mapping[str, Any], path: str, faults: Faults) -> None:
    for name, amount in amounts.items():
        here = f"{path}[{name}]"
        check_resource_name(name, here, faults)
        if "/" not in name and not _is_known(name):
            faults.invalid(here, name, "must be a standard resource for quota")
        check_amount(name, amount, here, faults)


def _is_known(name: str) -> bool:
    return name in QUOTA or name.removeprefix("requests.").startswith(HUGE_PAGES)


def _check_scope(scope: str, hard: Mapping[str, Any], path: str, shown: Any, faults: Faults) -> None:
    if scope not in _SCOPES and path == "spec.scopes":
        faults.invalid(path, shown, "unsupported scope")
    if (allowed := _SCOPES.get(scope)) is None:
        return
    for name in sorted(hard):
        if _is_known(name) and name not in allowed:
            faults.invalid(path, shown, "unsupported scope applied to resource")


def _check_conflicts(scopes: Sequence[str], path: str, shown: Any, faults: Faults) -> None:
    for pair in _CONFLICTS:
        if set(pair) <= set(scopes):
            faults.invalid(path, shown, "conflicting scopes")


def _check_scope_selector(
    selector: dict[str, Any], hard: Mapping[str, Any], scopes: list[str] | None, faults: Faults
) -> None:
    path, entries = "spec.scopeSelector.matchExpressions", selector.get("matchExpressions") or []
    for entry in entries:
        scope, operator, values = (entry.get(field) or "" for field in ("scopeName", "operator", "values"))
        if scope not in _SCOPES:
            faults.invalid(f"{path}.scopeName", scope, "unsupported scope")
        _check_scope(scope, hard, path, internal("core.v1.ScopeSelector", selector), faults)
        if scope in _WITHOUT_VALUES and operator != "Exists":
            faults.invalid(f"{path}.operator", operator, _MUST_EXIST)
        if operator in ("In", "NotIn"):
            if not values:
                text = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"
                faults.required(f"{path}.values", text)
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                text = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"
                faults.invalid(f"{path}.values", values, text)
        else:
            faults.invalid(f"{path}.operator", operator, "not a valid selector operator")
    # Kubernetes shows the other list of scopes here.
    _check_conflicts([entry.get("scopeName") or "" for entry in entries], path, scopes, faults)


def check_quota_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a quota keeps its scopes."""
    now, was = ((obj.get("spec") or {}).get("scopes") or [] for obj in (new, old))
    if set(now) != set(was):
        faults.invalid("spec.scopes", now, IMMUTABLE)


def check_quota_status(new: Object, old: Object, faults: Faults) -> None:
    """Check what was counted for a quota."""
    _check_status(new, faults)


def _check_status(obj: Object, faults: Faults) -> None:
    status = obj.get("status") or {}
    for field in ("hard", "used"):
        _check_hard(status.get(field) or {}, f"status.{field}", faults)


def check_limit_range(obj: Object, faults: Faults) -> None:
    """Check a LimitRange."""
    taken: set[str] = set()
    for index, limit in enumerate((obj.get("spec") or {}).get("limits") or []):
        here, kind = f"spec.limits[{index}]", limit.get("type") or ""
        faults.invalid_all(f"{here}.type", kind, names.qualified_name(kind))
        if "/" not in kind and kind not in _LIMIT_TYPES:
            faults.invalid(f"{here}.type", kind, "must be a standard limit type or fully qualified")
        if kind in taken:
            faults.duplicate(f"{here}.type", kind)
        taken.add(kind)
        _check_limit(limit, kind, here, faults)


def _check_limit(limit: dict[str, Any], kind: str, path: str, faults: Faults) -> None:
    check_name = check_container_resource_name if kind in ("Pod", "Container") else check_resource_name
    known: dict[str, None] = {}
    for field in ("max", "min", "default", "defaultRequest", "maxLimitRequestRatio"):
        amounts = limit.get(field) or {}
        if kind == "Pod" and field.startswith("default"):
            if amounts:
                faults.forbidden(f"{path}.{field}", "may not be specified when `type` is 'Pod'")
            continue
        for name in amounts:
            check_name(name, f"{path}.{field}[{name}]", faults)
            known[name] = None
    if kind == "PersistentVolumeClaim" and not any("storage" in (limit.get(field) or {}) for field in ("min", "max")):
        text = "either minimum or maximum storage value is required, but neither was provided"
        faults.required(f"{path}.limits", text)
    for name in known:
        _check_order(limit, name, path, faults)
        _check_ratio(limit, name, path, faults)
        _check_equal(limit, name, path, faults)


def _check_order(limit: dict[str, Any], name: str, path: str, faults: Faults) -> None:
    """Check that min ≤ defaultRequest ≤ default ≤ max for one resource."""
    amounts = {field: (limit.get(field) or {}).get(name) for field in ("min", "defaultRequest", "default", "max")}
    for lower, higher, told, lower_word, higher_word in _ORDER:
        below, above = amounts[lower], amounts[higher]
        if below is not None and above is not None and quantity.parse(below) > quantity.parse(above):
            # Kubernetes shows the amount of the field, but for defaults the other one.
            shown = amounts[told] if told != "default" else (below if lower == "min" else above)
            text = f"{lower_word} value {below} is greater than {higher_word} value {above}"
            faults.invalid(f"{path}.{told}[{name}]", str(shown), text)


def _check_equal(limit: dict[str, Any], name: str, path: str, faults: Faults) -> None:
    default, request = ((limit.get(field) or {}).get(name) for field in ("default", "defaultRequest"))
    if default is None or request is None or may_be_overcommitted(name):
        return
    if quantity.parse(default) != quantity.parse(request):
        text = f"default value {default} must equal to defaultRequest value {request} in {name}"
        faults.invalid(f"{path}.defaultRequest[{name}]", str(request), text)


def _check_ratio(limit: dict[str, Any], name: str, path: str, faults: Faults) -> None:
    ratio = (limit.get("maxLimitRequestRatio") or {}).get(name)
    if ratio is None:
        return
    here, wanted = f"{path}.maxLimitRequestRatio[{name}]", quantity.parse(ratio)
    if wanted < 1:
        faults.invalid(here, str(ratio), f"ratio {ratio} is less than 1")
    least, most = ((limit.get(field) or {}).get(name) for field in ("min", "max"))
    if least is None or most is None or quantity.parse(least) <= 0:
        return
    possible = quantity.parse(most) / quantity.parse(least)
    if wanted > possible:
        faults.invalid(here, str(ratio), f"ratio {ratio} is greater than max/min = {float(possible):f}")
