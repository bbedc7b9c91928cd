"""Rules of where pods run: beside which nodes and which other pods, and how they spread."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from control.api.validation import names
from control.api.validation.faults import Faults
from control.api.validation.metadata import check_selector
from control.api.validation.nodeselectors import check_node_selector, check_node_term


def check_affinity(affinity: dict[str, Any], path: str, faults: Faults, own: Container[str] = ()) -> None:
    """Check which nodes and which other pods a pod is to stand beside; ``own`` are the names of its labels."""
    node = affinity.get("nodeAffinity") or {}
    required = node.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is not None:
        here = f"{path}.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
        check_node_selector(required, here, faults)
    preferred = f"{path}.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution"
    for index, entry in enumerate(node.get("preferredDuringSchedulingIgnoredDuringExecution") or []):
        _check_weight(entry.get("weight") or 0, f"{preferred}[{index}].weight", faults)
        check_node_term(entry.get("preference") or {}, f"{preferred}[{index}].preference", faults, any_value=True)
    for kind in ("podAffinity", "podAntiAffinity"):
        if (found := affinity.get(kind)) is not None:
            _check_pod_affinity(found, f"{path}.{kind}", faults, own)


def _check_weight(weight: int, path: str, faults: Faults) -> None:
    if not 1 <= weight <= 100:
        faults.invalid(path, weight, "must be in the range 1-100")


def _check_pod_affinity(affinity: dict[str, Any], path: str, faults: Faults, own: Container[str]) -> None:
    required = f"{path}.requiredDuringSchedulingIgnoredDuringExecution"
    for index, term in enumerate(affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or []):
        _check_affinity_term(term, f"{required}[{index}]", faults, own)
    preferred = f"{path}.preferredDuringSchedulingIgnoredDuringExecution"
    for index, entry in enumerate(affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or []):
        _check_weight(entry.get("weight") or 0, f"{preferred}[{index}].weight", faults)
        _check_affinity_term(entry.get("podAffinityTerm") or {}, f"{preferred}[{index}].podAffinityTerm", faults, own)


def _check_affinity_term(term: dict[str, Any], path: str, faults: Faults, own: Container[str]) -> None:
    selector = term.get("labelSelector")
    check_selector(selector, f"{path}.labelSelector", faults)
    check_selector(term.get("namespaceSelector"), f"{path}.namespaceSelector", faults)
    for name in term.get("namespaces") or []:
        faults.invalid_all(f"{path}.namespace", name, names.dns_label(name))
    _check_label_keys(term, selector, path, faults, own)
    key = term.get("topologyKey") or ""
    if not key:
        faults.required(f"{path}.topologyKey", "can not be empty")
    faults.invalid_all(f"{path}.topologyKey", key, names.qualified_name(key))


def _check_label_keys(
    holder: dict[str, Any], selector: dict[str, Any] | None, path: str, faults: Faults, own: Container[str]
) -> None:
    """Check labels whose values a pod's own ones stand for in a selector.

    Kubernetes writes the values of a new pod into the selector before it looks at it, so such a label may not stand
    there already; a template has no values yet.
    """
    match, mismatch = holder.get("matchLabelKeys") or [], holder.get("mismatchLabelKeys") or []
    if not match and not mismatch:
        return
    for field, keys in (("matchLabelKeys", match), ("mismatchLabelKeys", mismatch)):
        if keys and selector is None:
            faults.forbidden(f"{path}.{field}", "must not be specified when labelSelector is not set")
            continue
        for index, key in enumerate(keys):
            faults.invalid_all(f"{path}.{field}[{index}]", key, names.qualified_name(key))
    if selector is not None:
        seen = set(selector.get("matchLabels") or ())
        written = [entry.get("key") or "" for entry in selector.get("matchExpressions") or ()]
        for key in (*written, *(key for key in match if key in own)):
            if key in match and key in seen:
                # Kubernetes names the holder of the lists here, not the list.
                faults.invalid(f"{path}[{match.index(key)}]", key, "exists in both matchLabelKeys and labelSelector")
            seen.add(key)
    for index, key in enumerate(match):
        if key in mismatch:
            text = "exists in both matchLabelKeys and mismatchLabelKeys"
            faults.invalid(f"{path}.matchLabelKeys[{index}]", key, text)


def check_spreads(constraints: list[dict[str, Any]], path: str, faults: Faults, own: Container[str] = ()) -> None:
    """Check how pods are to spread; ``own`` are the names of the pod's labels."""
    for index, constraint in enumerate(constraints):
        _check_spread(constraint, constraints[index + 1 :], f"{path}[{index}]", faults, own)


def _check_spread(constraint: dict[str, Any], others: Any, path: str, faults: Faults, own: Container[str]) -> None:
    key, action = constraint.get("topologyKey") or "", constraint.get("whenUnsatisfiable") or ""
    if int(constraint.get("maxSkew") or 0) <= 0:
        faults.invalid(f"{path}.maxSkew", constraint.get("maxSkew") or 0, "must be greater than zero")
    if not key:
        faults.required(f"{path}.topologyKey", "can not be empty")
    if action not in ("DoNotSchedule", "ScheduleAnyway"):
        faults.not_supported(f"{path}.whenUnsatisfiable", action, ["DoNotSchedule", "ScheduleAnyway"])
    if any((other.get("topologyKey"), other.get("whenUnsatisfiable")) == (key, action) for other in others):
        faults.duplicate(f"{path}.{{topologyKey, whenUnsatisfiable}}", f"{{{key}, {action}}}")
    if (least := constraint.get("minDomains")) is not None:
        if least <= 0:
            faults.invalid(f"{path}.minDomains", least, "must be greater than zero")
        if action != "DoNotSchedule":
            text = f"can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"
            faults.invalid(f"{path}.minDomains", least, text)
    for field in ("nodeAffinityPolicy", "nodeTaintsPolicy"):
        if (policy := constraint.get(field)) is not None and policy not in ("Honor", "Ignore"):
            faults.not_supported(f"{path}.{field}", policy, ["Honor", "Ignore"])
    selector = constraint.get("labelSelector")
    _check_label_keys(constraint, selector, path, faults, own)
    check_selector(selector, f"{path}.labelSelector", faults)
