"""Rules of pods, and of the pod specs inside of workloads."""

from __future__ import annotations

import re
from typing import Any

from control.api.meta import Object
from control.api.validation import ip_forms, names
from control.api.validation.amounts import check_pod_resources, check_resources
from control.api.validation.containers import (
    Surroundings,
    check_containers,
    check_ephemeral_containers,
    check_init_containers,
)
from control.api.validation.faults import Faults
from control.api.validation.forms import metadata_of
from control.api.validation.metadata import check_annotations, check_labels, check_selector
from control.api.validation.nodeselectors import check_node_selector, check_node_term, check_tolerations
from control.api.validation.security import (
    check_host_process,
    check_host_users,
    check_operating_system,
    check_pod_context,
)
from control.api.validation.volumes import check_volumes

_RESTART_POLICIES = ("Always", "OnFailure", "Never")
_DNS_POLICIES = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
_SERVERS_MAX, _SEARCHES_MAX, _SEARCH_LETTERS_MAX = 3, 32, 2048
_DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_MIRROR = "kubernetes.io/config.mirror"


def check_pod(pod: Object, faults: Faults) -> None:
    """Check a new pod."""
    spec = pod.get("spec") or {}
    metadata = metadata_of(pod)
    if annotations := metadata.get("annotations"):
        check_pod_annotations(annotations, spec, "metadata.annotations", faults)
    check_pod_spec(spec, "spec", faults, pod_name=metadata.get("name") or "", is_pod=True)
    if not spec.get("serviceAccountName"):
        _check_tokens(spec, faults)
    if spec.get("ephemeralContainers"):
        faults.forbidden("spec.ephemeralContainers", "cannot be set on create")
    if spec.get("nodeName") and spec.get("schedulingGates"):
        faults.forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared")


def check_pod_annotations(annotations: dict[str, str], spec: dict[str, Any], path: str, faults: Faults) -> None:
    """Check annotations that mean something to Kubernetes."""
    if _MIRROR in annotations and not spec.get("nodeName"):
        text = "must set spec.nodeName if mirror pod annotation is set"
        faults.invalid(f"{path}[{_MIRROR}]", annotations[_MIRROR], text)
    cost = annotations.get(_DELETION_COST)
    if cost is not None and not _is_deletion_cost(cost):
        faults.invalid(f"{path}[{_DELETION_COST}]", cost, "must be a 32bit integer")


def _is_deletion_cost(text: str) -> bool:
    return bool(re.fullmatch("-?[1-9][0-9]*|0", text)) and -(2**31) <= int(text) < 2**31


def _check_tokens(spec: dict[str, Any], faults: Faults) -> None:
    for index, volume in enumerate(spec.get("volumes") or []):
        for position, source in enumerate((volume.get("projected") or {}).get("sources") or []):
            if source.get("serviceAccountToken") is not None:
                here = f"spec.volumes[{index}].projected.sources[{position}].serviceAccountToken"
                faults.forbidden(here, "must not be specified when serviceAccountName is not set")


def check_template(
    template: dict[str, Any] | None, path: str, faults: Faults, claims: frozenset[str] = frozenset()
) -> None:
    """Check a workload's pod template; ``claims`` are volumes that its pods get besides those in the template."""
    template = template or {}
    metadata = metadata_of(template)
    spec = template.get("spec") or {}
    check_labels(metadata.get("labels"), f"{path}.labels", faults)
    if annotations := metadata.get("annotations"):
        check_annotations(annotations, f"{path}.annotations", faults)
        check_pod_annotations(annotations, spec, f"{path}.annotations", faults)
    check_pod_spec(spec, f"{path}.spec", faults, claims)
    if spec.get("ephemeralContainers"):
        faults.forbidden(f"{path}.spec.ephemeralContainers", "ephemeral containers not allowed in pod template")


def surroundings(spec: dict[str, Any], volumes: dict[str, str], *, is_pod: bool) -> Surroundings:
    """Return what the rules of containers ask of a pod's spec."""
    return Surroundings(
        volumes,
        frozenset(claim.get("name") or "" for claim in spec.get("resourceClaims") or ()),
        spec.get("restartPolicy") or "",
        spec.get("terminationGracePeriodSeconds"),
        spec.get("hostUsers") is not False,
        is_pod,
    )


def check_pod_spec(
    spec: dict[str, Any],
    path: str,
    faults: Faults,
    claims: frozenset[str] = frozenset(),
    *,
    pod_name: str = "",
    is_pod: bool = False,
) -> None:
    """Check a pod's spec."""
    volumes = check_volumes(spec.get("volumes") or [], f"{path}.volumes", faults, pod_name, is_pod=is_pod)
    volumes.update(dict.fromkeys(claims, "persistentVolumeClaim"))
    around = surroundings(spec, volumes, is_pod=is_pod)
    if wanted := spec.get("resourceClaims"):
        _check_resource_claims(wanted, f"{path}.resourceClaims", faults)
    containers = spec.get("containers") or []
    if not containers:
        faults.required(f"{path}.containers")
    check_containers(containers, around, f"{path}.containers", faults)
    check_init_containers(spec.get("initContainers") or [], around, f"{path}.initContainers", faults)
    check_ephemeral_containers(spec.get("ephemeralContainers") or [], around, f"{path}.ephemeralContainers", faults)
    if spec.get("resources"):
        check_pod_resources(spec, f"{path}.resources", faults)
    _check_host_ports(spec, path, faults, is_pod)
    faults.one_of(f"{path}.restartPolicy", spec.get("restartPolicy"), _RESTART_POLICIES)
    faults.one_of(f"{path}.dnsPolicy", spec.get("dnsPolicy"), _DNS_POLICIES)
    if context := spec.get("securityContext"):
        check_pod_context(spec, context, path, faults)
    _check_scheduling(spec, path, faults)
    if spec.get("dnsConfig") is not None or spec.get("dnsPolicy") == "None":
        _check_dns(spec, f"{path}.dnsConfig", faults)
    check_host_process(spec, path, faults)
    check_host_users(spec, path, faults)
    _check_names(spec, path, faults)
    faults.within(f"{path}.activeDeadlineSeconds", spec.get("activeDeadlineSeconds"), 1, 2147483647)
    if (overhead := spec.get("overhead")) is not None:
        check_resources({"limits": overhead}, f"{path}.overhead", faults)
    if spec.get("os") is not None:
        check_operating_system(spec, path, faults)


def _check_resource_claims(claims: list[dict[str, Any]], path: str, faults: Faults) -> None:
    taken: set[str] = set()
    for index, claim in enumerate(claims):
        here, name = f"{path}[{index}]", claim.get("name") or ""
        if not name:
            faults.required(f"{here}.name")
        elif name in taken:
            faults.duplicate(f"{here}.name", name)
        else:
            faults.invalid_all(f"{here}.name", name, names.dns_label(name))
        taken.add(name)
        given = [field for field in ("resourceClaimName", "resourceClaimTemplateName") if claim.get(field) is not None]
        if len(given) == 2:
            text = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"
            faults.invalid(here, claim, text)
        elif not given:
            text = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"
            faults.invalid(here, claim, text)
        for field in given:
            faults.invalid_all(f"{here}.{field}", claim[field], names.dns_subdomain(claim[field]))


def _check_names(spec: dict[str, Any], path: str, faults: Faults) -> None:
    for field in ("serviceAccountName", "nodeName", "priorityClassName"):
        if value := spec.get(field):
            faults.invalid_all(f"{path}.{field}", value, names.dns_subdomain(value))
    for field in ("hostname", "subdomain"):
        if value := spec.get(field):
            faults.invalid_all(f"{path}.{field}", value, names.dns_label(value))
    if tolerations := spec.get("tolerations"):
        check_tolerations(tolerations, f"{path}.tolerations", faults)
    for index, alias in enumerate(spec.get("hostAliases") or ()):
        address = alias.get("ip") or ""
        faults.invalid_all(f"{path}.hostAliases[{index}].ip", address, ip_forms.address(address))
        for position, host in enumerate(alias.get("hostnames") or ()):
            faults.invalid_all(f"{path}.hostAliases[{index}].hostnames[{position}]", host, names.dns_subdomain(host))
    if (name := spec.get("runtimeClassName")) is not None:
        faults.invalid_all(f"{path}.runtimeClassName", name, names.dns_subdomain(name))
    if (policy := spec.get("preemptionPolicy")) is not None:
        faults.one_of(f"{path}.preemptionPolicy", policy, ["PreemptLowerPriority", "Never"])


def _check_host_ports(spec: dict[str, Any], path: str, faults: Faults, is_pod: bool) -> None:
    taken: set[str] = set()
    for kind in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(kind) or ()):
            if kind == "initContainers":
                taken = set()  # they run one after the other
            for position, port in enumerate(container.get("ports") or ()):
                here, host = f"{path}.{kind}[{index}].ports[{position}].hostPort", port.get("hostPort") or 0
                wrong = host != port.get("containerPort") and (is_pod or host)
                if spec.get("hostNetwork") and kind == "containers" and wrong:
                    faults.invalid(here, host, "must match `containerPort` when `hostNetwork` is true")
                key = f"{port.get('protocol')}/{port.get('hostIP') or ''}/{host}"
                if host and key in taken:
                    faults.duplicate(here, key)
                taken.add(key)


def _check_scheduling(spec: dict[str, Any], path: str, faults: Faults) -> None:
    check_labels(spec.get("nodeSelector"), f"{path}.nodeSelector", faults)
    if affinity := spec.get("affinity"):
        _check_affinity(affinity, f"{path}.affinity", faults)
    for index, gate in enumerate(spec.get("readinessGates") or ()):
        kind = gate.get("conditionType") or ""
        faults.invalid_all(f"{path}.readinessGates[{index}].conditionType", kind, names.qualified_name(kind))
    taken: set[str] = set()
    for index, gate in enumerate(spec.get("schedulingGates") or ()):
        name = gate.get("name") or ""
        faults.invalid_all(f"{path}.schedulingGates[{index}]", name, names.qualified_name(name))
        if name in taken:
            faults.duplicate(f"{path}.schedulingGates[{index}]", name)
        taken.add(name)
    constraints = spec.get("topologySpreadConstraints") or ()
    for index, constraint in enumerate(constraints):
        here = f"{path}.topologySpreadConstraints[{index}]"
        _check_spread(constraint, constraints[index + 1 :], here, faults)


def _check_affinity(affinity: dict[str, Any], path: str, faults: Faults) -> None:
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
        _check_pod_affinity(affinity.get(kind) or {}, f"{path}.{kind}", faults)


def _check_weight(weight: int, path: str, faults: Faults) -> None:
    if not 1 <= weight <= 100:
        faults.invalid(path, weight, "must be in the range 1-100")


def _check_pod_affinity(affinity: dict[str, Any], path: str, faults: Faults) -> None:
    required = f"{path}.requiredDuringSchedulingIgnoredDuringExecution"
    for index, term in enumerate(affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or []):
        _check_affinity_term(term, f"{required}[{index}]", faults)
    preferred = f"{path}.preferredDuringSchedulingIgnoredDuringExecution"
    for index, entry in enumerate(affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or []):
        _check_weight(entry.get("weight") or 0, f"{preferred}[{index}].weight", faults)
        _check_affinity_term(entry.get("podAffinityTerm") or {}, f"{preferred}[{index}].podAffinityTerm", faults)


def _check_affinity_term(term: dict[str, Any], path: str, faults: Faults) -> None:
    selector = term.get("labelSelector")
    check_selector(selector, f"{path}.labelSelector", faults)
    check_selector(term.get("namespaceSelector"), f"{path}.namespaceSelector", faults)
    for name in term.get("namespaces") or []:
        faults.invalid_all(f"{path}.namespace", name, names.dns_label(name))
    match, mismatch = term.get("matchLabelKeys") or [], term.get("mismatchLabelKeys") or []
    for field, keys in (("matchLabelKeys", match), ("mismatchLabelKeys", mismatch)):
        if keys and selector is None:
            faults.forbidden(f"{path}.{field}", "must not be specified when labelSelector is not set")
            continue
        for index, key in enumerate(keys):
            faults.invalid_all(f"{path}.{field}[{index}]", key, names.qualified_name(key))
    for index, key in enumerate(match):
        if key in mismatch:
            text = "exists in both matchLabelKeys and mismatchLabelKeys"
            faults.invalid(f"{path}.matchLabelKeys[{index}]", key, text)
    key = term.get("topologyKey") or ""
    if not key:
        faults.required(f"{path}.topologyKey", "can not be empty")
    faults.invalid_all(f"{path}.topologyKey", key, names.qualified_name(key))


def _check_spread(constraint: dict[str, Any], others: Any, path: str, faults: Faults) -> None:
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
    selector, keys = constraint.get("labelSelector"), constraint.get("matchLabelKeys") or []
    if keys and selector is None:
        faults.forbidden(f"{path}.matchLabelKeys", "must not be specified when labelSelector is not set")
    chosen = {*((selector or {}).get("matchLabels") or {})}
    chosen |= {entry.get("key") for entry in (selector or {}).get("matchExpressions") or ()}
    for index, name in enumerate(keys):
        faults.invalid_all(f"{path}.matchLabelKeys[{index}]", name, names.qualified_name(name))
        if name in chosen:
            text = "exists in both matchLabelKeys and labelSelector"
            faults.invalid(f"{path}.matchLabelKeys[{index}]", name, text)
    check_selector(selector, f"{path}.labelSelector", faults)


def _check_dns(spec: dict[str, Any], path: str, faults: Faults) -> None:
    config = spec.get("dnsConfig")
    servers = (config or {}).get("nameservers") or []
    if spec.get("dnsPolicy") == "None":
        if config is None:
            faults.required(path, "must provide `dnsConfig` when `dnsPolicy` is None")
            return
        if not servers:
            text = "must provide at least one DNS nameserver when `dnsPolicy` is None"
            faults.required(f"{path}.nameservers", text)
            return
    config = config or {}
    if len(servers) > _SERVERS_MAX:
        faults.invalid(f"{path}.nameservers", servers, f"must not have more than {_SERVERS_MAX} nameservers")
    for index, server in enumerate(servers):
        faults.invalid_all(f"{path}.nameservers[{index}]", server, ip_forms.address(server))
    searches = config.get("searches") or []
    if len(searches) > _SEARCHES_MAX:
        faults.invalid(f"{path}.searches", searches, f"must not have more than {_SEARCHES_MAX} search paths")
    if len(" ".join(searches)) > _SEARCH_LETTERS_MAX:
        text = f"must not have more than {_SEARCH_LETTERS_MAX} characters (including spaces) in the search list"
        faults.invalid(f"{path}.searches", searches, text)
    for index, search in enumerate(searches):
        if search != ".":
            text = search.removesuffix(".")
            faults.invalid_all(f"{path}.searches[{index}]", text, names.dns_subdomain_with_underscore(text))
    for index, option in enumerate(config.get("options") or ()):
        if not option.get("name"):
            faults.required(f"{path}.options[{index}]", "must not be empty")
