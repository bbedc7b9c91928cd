"""Rules of access, priorities and runtimes: roles and their bindings, priority and runtime classes."""

from __future__ import annotations

from typing import Any

from control.api.meta import Object
from control.api.validation import names
from control.api.validation.amounts import check_resources
from control.api.validation.faults import Faults
from control.api.validation.forms import metadata_of
from control.api.validation.internal import internal
from control.api.validation.metadata import check_selector
from control.api.validation.nodeselectors import check_scheduling

_RBAC = "rbac.authorization.k8s.io"
_VERB = "verbs must contain at least one value"
_SYSTEM = "system-"
_SYSTEM_CLASSES = {"system-node-critical": 2_000_001_000, "system-cluster-critical": 2_000_000_000}
_PRIORITY_MAX = 1_000_000_000


def _check_rules(rules: list[dict[str, Any]], namespaced: bool, faults: Faults) -> None:
    for index, rule in enumerate(rules):
        here = f"rules[{index}]"
        if not rule.get("verbs"):
            faults.required(f"{here}.verbs", _VERB)
        if rule.get("nonResourceURLs"):
            if namespaced:
                text = "namespaced rules cannot apply to non-resource URLs"
                faults.invalid(f"{here}.nonResourceURLs", rule["nonResourceURLs"], text)
            if rule.get("apiGroups") or rule.get("resources") or rule.get("resourceNames"):
                text = "rules cannot apply to both regular resources and non-resource URLs"
                faults.invalid(f"{here}.nonResourceURLs", rule["nonResourceURLs"], text)
            continue
        if not rule.get("apiGroups"):
            faults.required(f"{here}.apiGroups", "resource rules must supply at least one api group")
        if not rule.get("resources"):
            faults.required(f"{here}.resources", "resource rules must supply at least one resource")


def check_role(obj: Object, faults: Faults) -> None:
    """Check a Role."""
    _check_rules(obj.get("rules") or [], True, faults)


def check_cluster_role(obj: Object, faults: Faults) -> None:
    """Check a ClusterRole."""
    _check_rules(obj.get("rules") or [], False, faults)
    aggregation = obj.get("aggregationRule")
    if aggregation is not None:
        selectors = aggregation.get("clusterRoleSelectors") or []
        if not selectors:
            text = "at least one clusterRoleSelector required if aggregationRule is non-nil"
            faults.required("aggregationRule.clusterRoleSelectors", text)
        for index, selector in enumerate(selectors):
            check_selector(selector, f"aggregationRule.clusterRoleSelectors[{index}]", faults)


def check_role_binding(obj: Object, faults: Faults) -> None:
    """Check a RoleBinding."""
    _check_binding(obj, ("Role", "ClusterRole"), True, faults)


def check_cluster_role_binding(obj: Object, faults: Faults) -> None:
    """Check a ClusterRoleBinding."""
    _check_binding(obj, ("ClusterRole",), False, faults)


def _check_binding(obj: Object, kinds: tuple[str, ...], namespaced: bool, faults: Faults) -> None:
    role = obj.get("roleRef") or {}
    if role.get("apiGroup") != _RBAC:
        faults.not_supported("roleRef.apiGroup", role.get("apiGroup") or "", [_RBAC])
    if role.get("kind") not in kinds:
        faults.not_supported("roleRef.kind", role.get("kind") or "", kinds)
    if not role.get("name"):
        faults.required("roleRef.name")
    else:
        faults.invalid_all("roleRef.name", role["name"], names.path_segment(role["name"]))
    for index, subject in enumerate(obj.get("subjects") or []):
        _check_subject(subject, f"subjects[{index}]", faults, namespaced=namespaced)


def _check_subject(subject: dict[str, Any], path: str, faults: Faults, *, namespaced: bool) -> None:
    name, kind, group = subject.get("name") or "", subject.get("kind"), subject.get("apiGroup") or ""
    if not name:
        faults.required(f"{path}.name")
    if kind == "ServiceAccount":
        if name:
            faults.invalid_all(f"{path}.name", name, names.dns_subdomain(name))
        if group:
            faults.not_supported(f"{path}.apiGroup", group, [""])
        if not namespaced and not subject.get("namespace"):
            faults.required(f"{path}.namespace")
    elif kind in ("User", "Group"):
        if not name:
            faults.invalid(f"{path}.name", name, f"{kind.lower()} name cannot be empty")
        if group != _RBAC:
            faults.not_supported(f"{path}.apiGroup", group, [_RBAC])
    else:
        faults.not_supported(f"{path}.kind", kind or "", ["ServiceAccount", "User", "Group"])


def check_binding_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a binding keeps its role."""
    if new.get("roleRef") != old.get("roleRef"):
        faults.invalid("roleRef", internal("rbac.v1.RoleRef", new.get("roleRef")), "cannot change roleRef")


def check_priority_class(obj: Object, faults: Faults) -> None:
    """Check a PriorityClass."""
    name, value = metadata_of(obj).get("name") or "", obj.get("value") or 0
    if name.startswith(_SYSTEM):
        if (wrong := _wrong_system_class(name, value, bool(obj.get("globalDefault")))) is not None:
            text = f"priority class names with '{_SYSTEM}' prefix are reserved for system use only. error: {wrong}"
            faults.forbidden("metadata.name", text)
    elif value > _PRIORITY_MAX:
        faults.forbidden("value", f"maximum allowed value of a user defined priority is {_PRIORITY_MAX}")
    policy = obj.get("preemptionPolicy")
    faults.one_of("preemptionPolicy", policy, ["Never", "PreemptLowerPriority"], required=False)


def _wrong_system_class(name: str, value: int, is_default: bool) -> str | None:
    known = _SYSTEM_CLASSES.get(name)
    if known is None:
        return f"{name} is not a known system priority class"
    if value != known:
        return f"value of {name} PriorityClass must be {known}"
    return f"globalDefault of {name} PriorityClass must be false" if is_default else None


def check_priority_class_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a class keeps its weight."""
    if (new.get("value") or 0) != (old.get("value") or 0):
        faults.forbidden("value", "may not be changed in an update.")
    faults.unchanged("preemptionPolicy", new.get("preemptionPolicy"), old.get("preemptionPolicy"))


def check_runtime_class(obj: Object, faults: Faults) -> None:
    """Check a RuntimeClass."""
    handler = obj.get("handler") or ""
    faults.invalid_all("handler", handler, names.dns_label(handler))
    if amounts := (obj.get("overhead") or {}).get("podFixed"):
        check_resources({"limits": amounts}, "overhead.podFixed", faults)
    if scheduling := obj.get("scheduling"):
        check_scheduling(scheduling, "scheduling", faults)


def check_runtime_class_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a RuntimeClass keeps its handler."""
    faults.unchanged("handler", new.get("handler"), old.get("handler"))
