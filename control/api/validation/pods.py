"""Rules of pods, and of the pod specs inside of workloads."""

from __future__ import annotations

from typing import Any

from control.api.meta import Object
from control.api.patch import copy_json
from control.api.validation import names
from control.api.validation.containers import (
    check_containers,
    check_ephemeral_containers,
    check_init_containers,
    check_resources,
)
from control.api.validation.faults import Faults, shown
from control.api.validation.metadata import check_annotations, check_labels, check_selector
from control.api.validation.volumes import check_volumes

_EFFECTS = ("NoExecute", "NoSchedule", "PreferNoSchedule")
_UPDATE_FORBIDDEN = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def check_pod(pod: Object, faults: Faults) -> None:
    """Check a new pod."""
    spec = pod.get("spec") or {}
    check_pod_spec(spec, "spec", faults)
    if spec.get("ephemeralContainers"):
        faults.forbidden("spec.ephemeralContainers", "cannot be set on create")


def check_ephemeral_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that ephemeral containers are only added, and are right."""
    spec = new.get("spec") or {}
    now, was = (
        {container.get("name"): container for container in (obj.get("spec") or {}).get("ephemeralContainers") or []}
        for obj in (new, old)
    )
    path = "spec.ephemeralContainers"
    for name, container in was.items():
        if name not in now:
            faults.forbidden(path, f'existing ephemeral containers "{name}" may not be removed\n')
        elif now[name] != container:
            faults.forbidden(path, f'existing ephemeral containers "{name}" may not be changed\n')
    others = [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
    taken = {container.get("name") or "" for container in others}
    volumes = {volume.get("name") or "" for volume in spec.get("volumes") or []}
    check_ephemeral_containers(spec.get("ephemeralContainers") or [], volumes, path, faults, taken, set(taken))


def check_template(
    template: dict[str, Any] | None, path: str, faults: Faults, claims: frozenset[str] = frozenset()
) -> None:
    """Check a workload's pod template; ``claims`` are volumes that its pods get besides those in the template."""
    template = template or {}
    metadata = template.get("metadata") or {}
    check_labels(metadata.get("labels"), f"{path}.labels", faults)
    check_annotations(metadata.get("annotations"), f"{path}.annotations", faults)
    check_pod_spec(template.get("spec") or {}, f"{path}.spec", faults, claims)
    if (template.get("spec") or {}).get("ephemeralContainers"):
        faults.forbidden(f"{path}.spec.ephemeralContainers", "ephemeral containers not allowed in pod template")


def check_pod_spec(spec: dict[str, Any], path: str, faults: Faults, claims: frozenset[str] = frozenset()) -> None:
    """Check a pod's spec."""
    volumes = check_volumes(spec.get("volumes") or [], f"{path}.volumes", faults) | claims
    taken: set[str] = set()
    containers = spec.get("containers") or []
    if not containers:
        faults.required(f"{path}.containers")
    check_containers(containers, volumes, f"{path}.containers", faults, taken)
    check_init_containers(spec.get("initContainers") or [], volumes, f"{path}.initContainers", faults, taken)
    check_ephemeral_containers(
        spec.get("ephemeralContainers") or [], volumes, f"{path}.ephemeralContainers", faults, taken, set(taken)
    )
    _check_host_ports(spec, path, faults)
    if (resources := spec.get("resources")) is not None:
        check_resources(resources, f"{path}.resources", faults)
    _check_scheduling(spec, path, faults)
    _check_names(spec, path, faults)
    faults.not_negative(f"{path}.terminationGracePeriodSeconds", spec.get("terminationGracePeriodSeconds"))
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline <= 2147483647:
        faults.invalid(f"{path}.activeDeadlineSeconds", deadline, "must be between 1 and 2147483647, inclusive")
    _check_dns(spec, path, faults)


def _check_names(spec: dict[str, Any], path: str, faults: Faults) -> None:
    for field in ("serviceAccountName", "nodeName", "runtimeClassName", "priorityClassName", "schedulerName"):
        if value := spec.get(field):
            check = names.qualified_name if field == "schedulerName" else names.dns_subdomain
            faults.invalid_all(f"{path}.{field}", value, check(value))
    for field in ("hostname", "subdomain"):
        if value := spec.get(field):
            faults.invalid_all(f"{path}.{field}", value, names.dns_label(value))
    for index, reference in enumerate(spec.get("imagePullSecrets") or []):
        if not reference.get("name"):
            faults.required(f"{path}.imagePullSecrets[{index}].name")
    for index, alias in enumerate(spec.get("hostAliases") or []):
        faults.invalid_all(f"{path}.hostAliases[{index}].ip", alias.get("ip", ""), names.address(alias.get("ip", "")))
        for host in alias.get("hostnames") or []:
            faults.invalid_all(f"{path}.hostAliases[{index}].hostnames", host, names.dns_subdomain(host))


def _check_host_ports(spec: dict[str, Any], path: str, faults: Faults) -> None:
    taken: set[tuple[Any, ...]] = set()
    for kind in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(kind) or []):
            for position, port in enumerate(container.get("ports") or []):
                here = f"{path}.{kind}[{index}].ports[{position}]"
                host = port.get("hostPort")
                if spec.get("hostNetwork") and host != port.get("containerPort"):
                    text = "must match `hostPort` when `hostNetwork` is true"
                    faults.invalid(f"{here}.containerPort", port.get("containerPort"), text)
                if host:
                    key = (port.get("protocol"), port.get("hostIP") or "", host)
                    if key in taken and kind == "containers":
                        faults.duplicate(f"{here}.hostPort", "/".join(str(part) for part in key))
                    taken.add(key)


def _check_scheduling(spec: dict[str, Any], path: str, faults: Faults) -> None:
    check_labels(spec.get("nodeSelector"), f"{path}.nodeSelector", faults)
    for index, toleration in enumerate(spec.get("tolerations") or []):
        _check_toleration(toleration, f"{path}.tolerations[{index}]", faults)
    _check_affinity(spec.get("affinity") or {}, f"{path}.affinity", faults)
    for index, constraint in enumerate(spec.get("topologySpreadConstraints") or []):
        _check_spread(constraint, f"{path}.topologySpreadConstraints[{index}]", faults)
    for index, gate in enumerate(spec.get("schedulingGates") or []):
        name = gate.get("name") or ""
        faults.invalid_all(f"{path}.schedulingGates[{index}]", name, names.qualified_name(name))


def _check_toleration(toleration: dict[str, Any], path: str, faults: Faults) -> None:
    key, operator, effect = (toleration.get(field) for field in ("key", "operator", "effect"))
    if key:
        faults.invalid_all(f"{path}.key", key, names.qualified_name(key))
    elif operator != "Exists":
        faults.invalid(
            f"{path}.operator",
            operator or "",
            'operator must be Exists when `key` is empty, which means "match all values and all keys"',
        )
    if toleration.get("tolerationSeconds") is not None and effect != "NoExecute":
        faults.invalid(f"{path}.effect", effect or "", "effect must be 'NoExecute' when `tolerationSeconds` is set")
    if operator in (None, "", "Equal"):
        faults.invalid_all(
            f"{path}.operator", toleration.get("value") or "", names.label_value(toleration.get("value") or "")
        )
    elif operator == "Exists":
        if toleration.get("value"):
            faults.invalid(f"{path}.operator", toleration["value"], "value must be empty when `operator` is 'Exists'")
    elif operator not in ("Gt", "Lt"):
        faults.not_supported(f"{path}.operator", operator, ["Equal", "Exists"])
    if effect and effect not in _EFFECTS:
        faults.not_supported(f"{path}.effect", effect, ["NoSchedule", "PreferNoSchedule", "NoExecute"])


def _check_affinity(affinity: dict[str, Any], path: str, faults: Faults) -> None:
    node = affinity.get("nodeAffinity") or {}
    required = node.get("requiredDuringSchedulingIgnoredDuringExecution")
    here = f"{path}.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
    if required is not None:
        if not required.get("nodeSelectorTerms"):
            faults.required(f"{here}.nodeSelectorTerms", "must have at least one node selector term")
        for index, term in enumerate(required.get("nodeSelectorTerms") or []):
            check_node_term(term, f"{here}.nodeSelectorTerms[{index}]", faults)
    preferred = f"{path}.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution"
    for index, entry in enumerate(node.get("preferredDuringSchedulingIgnoredDuringExecution") or []):
        _check_weight(entry.get("weight") or 0, f"{preferred}[{index}].weight", faults)
        check_node_term(entry.get("preference") or {}, f"{preferred}[{index}].preference", faults)
    for kind in ("podAffinity", "podAntiAffinity"):
        _check_pod_affinity(affinity.get(kind) or {}, f"{path}.{kind}", faults)


def _check_weight(weight: int, path: str, faults: Faults) -> None:
    if not 1 <= weight <= 100:
        faults.invalid(path, weight, "must be in the range 1-100")


def check_node_term(term: dict[str, Any], path: str, faults: Faults) -> None:
    """Check one term of a node selector."""
    for index, entry in enumerate(term.get("matchExpressions") or []):
        here = f"{path}.matchExpressions[{index}]"
        operator, values = entry.get("operator"), entry.get("values") or []
        if operator in ("In", "NotIn") and not values:
            faults.required(f"{here}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        elif operator in ("Exists", "DoesNotExist") and values:
            faults.forbidden(f"{here}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
        elif operator in ("Gt", "Lt") and len(values) != 1:
            faults.required(f"{here}.values", "must be specified single value when `operator` is 'Lt' or 'Gt'")
        elif operator not in ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"):
            faults.invalid(f"{here}.operator", operator or "", "not a valid selector operator")
        faults.invalid_all(f"{here}.key", entry.get("key") or "", names.qualified_name(entry.get("key") or ""))


def _check_pod_affinity(affinity: dict[str, Any], path: str, faults: Faults) -> None:
    required = f"{path}.requiredDuringSchedulingIgnoredDuringExecution"
    for index, term in enumerate(affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or []):
        _check_affinity_term(term, f"{required}[{index}]", faults)
    preferred = f"{path}.preferredDuringSchedulingIgnoredDuringExecution"
    for index, entry in enumerate(affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or []):
        _check_weight(entry.get("weight") or 0, f"{preferred}[{index}].weight", faults)
        _check_affinity_term(entry.get("podAffinityTerm") or {}, f"{preferred}[{index}].podAffinityTerm", faults)


def _check_affinity_term(term: dict[str, Any], path: str, faults: Faults) -> None:
    check_selector(term.get("labelSelector"), f"{path}.labelSelector", faults)
    check_selector(term.get("namespaceSelector"), f"{path}.namespaceSelector", faults)
    key = term.get("topologyKey")
    if not key:
        faults.required(f"{path}.topologyKey", "can not be empty")
    else:
        faults.invalid_all(f"{path}.topologyKey", key, names.qualified_name(key))


def _check_spread(constraint: dict[str, Any], path: str, faults: Faults) -> None:
    if int(constraint.get("maxSkew") or 0) <= 0:
        faults.invalid(f"{path}.maxSkew", constraint.get("maxSkew") or 0, "must be greater than zero")
    if not constraint.get("topologyKey"):
        faults.required(f"{path}.topologyKey", "can not be empty")
    faults.one_of(f"{path}.whenUnsatisfiable", constraint.get("whenUnsatisfiable"), ["DoNotSchedule", "ScheduleAnyway"])
    least = constraint.get("minDomains")
    if least is not None and least <= 0:
        faults.invalid(f"{path}.minDomains", least, "must be greater than zero")
    check_selector(constraint.get("labelSelector"), f"{path}.labelSelector", faults)


def _check_dns(spec: dict[str, Any], path: str, faults: Faults) -> None:
    servers = (spec.get("dnsConfig") or {}).get("nameservers") or []
    if spec.get("dnsPolicy") == "None" and not servers:
        text = "must provide at least one DNS nameserver when `dnsPolicy` is None"
        faults.required(f"{path}.dnsConfig" if not spec.get("dnsConfig") else f"{path}.dnsConfig.nameservers", text)
    if len(servers) > 3:
        faults.invalid(f"{path}.dnsConfig.nameservers", servers, "must not have more than 3 nameservers")
    for index, server in enumerate(servers):
        faults.invalid_all(f"{path}.dnsConfig.nameservers[{index}]", server, names.address(server))


def check_pod_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a pod's spec changes only where it may."""
    now, was = new.get("spec") or {}, old.get("spec") or {}
    for kind in ("containers", "initContainers"):
        if len(now.get(kind) or []) != len(was.get(kind) or []):
            faults.forbidden(f"spec.{kind}", "pod updates may not add or remove containers")
            return
        for index, container in enumerate(now.get(kind) or []):
            if not container.get("image", "").strip():
                faults.required(f"spec.{kind}[{index}].image")
    _check_deadline_update(now, was, faults)
    _check_tolerations_update(now, was, faults)
    permitted = _with_permitted_changes(now, was)
    if permitted != was:
        changed = sorted(key for key in {*permitted, *was} if permitted.get(key) != was.get(key))
        lines = "\n".join(f"  {key}: {shown(was.get(key))} -> {shown(now.get(key))}" for key in changed)
        faults.forbidden("spec", f"{_UPDATE_FORBIDDEN}\n{lines}\n")


def _check_deadline_update(now: dict[str, Any], was: dict[str, Any], faults: Faults) -> None:
    new, old = now.get("activeDeadlineSeconds"), was.get("activeDeadlineSeconds")
    path = "spec.activeDeadlineSeconds"
    if new is not None:
        if not 0 <= new <= 2147483647:
            faults.invalid(path, new, "must be between 0 and 2147483647, inclusive")
        elif old is not None and old < new:
            faults.invalid(path, new, "must be less than or equal to previous value")
    elif old is not None:
        faults.invalid(path, new, "must not update from a positive integer to nil value")


def _check_tolerations_update(now: dict[str, Any], was: dict[str, Any], faults: Faults) -> None:
    def without_seconds(toleration: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in toleration.items() if key != "tolerationSeconds"}

    new = [without_seconds(toleration) for toleration in now.get("tolerations") or []]
    for toleration in was.get("tolerations") or []:
        if without_seconds(toleration) not in new:
            faults.forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds")
            return


def _with_permitted_changes(now: dict[str, Any], was: dict[str, Any]) -> dict[str, Any]:
    """Return the new spec with the old values where a change is allowed."""
    result: dict[str, Any] = copy_json(now)
    for kind in ("containers", "initContainers"):
        for new, old in zip(result.get(kind) or [], was.get(kind) or [], strict=True):
            new["image"] = old.get("image")
    for field in ("activeDeadlineSeconds", "tolerations", "ephemeralContainers"):
        _restore(result, was, field)
    if was.get("terminationGracePeriodSeconds", 0) < 0 and now.get("terminationGracePeriodSeconds") == 1:
        _restore(result, was, "terminationGracePeriodSeconds")
    if was.get("schedulingGates"):
        # Pods that are held back may be steered to other nodes, and their gates taken away.
        for field in ("schedulingGates", "nodeSelector", "affinity"):
            _restore(result, was, field)
    return result


def _restore(result: dict[str, Any], was: dict[str, Any], field: str) -> None:
    if field in was:
        result[field] = was[field]
    else:
        result.pop(field, None)
