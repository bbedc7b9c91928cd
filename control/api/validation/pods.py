"""Rules of pods, and of the pod specs inside of workloads."""

from __future__ import annotations

from typing import Any

from control.api.meta import Object
from control.api.validation import ip_forms, names
from control.api.validation.amounts import check_pod_resources, check_resources
from control.api.validation.containers import (
    Surroundings,
    check_containers,
    check_ephemeral_containers,
    check_image,
    check_init_containers,
)
from control.api.validation.environment import check_file_volumes
from control.api.validation.faults import Faults
from control.api.validation.forms import metadata_of
from control.api.validation.internal import internal
from control.api.validation.metadata import check_annotations, check_labels
from control.api.validation.nodeselectors import check_tolerations
from control.api.validation.podannotations import MIRROR, check_pod_annotations, check_profiles_match
from control.api.validation.scheduling import check_affinity, check_spreads
from control.api.validation.security import (
    check_host_process,
    check_host_users,
    check_operating_system,
    check_pod_context,
)
from control.api.validation.volumes import check_volumes

_RESTART_POLICIES = ("Always", "OnFailure", "Never")
_DNS_POLICIES = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
_HOST_NAME_MAX = 64
_SERVERS_MAX, _SEARCHES_MAX, _SEARCH_LETTERS_MAX = 3, 32, 2048


def check_pod(pod: Object, faults: Faults) -> None:
    """Check a new pod."""
    spec = pod.get("spec") or {}
    check_pod_metadata_and_spec(pod, faults)
    if spec.get("ephemeralContainers"):
        faults.forbidden("spec.ephemeralContainers", "cannot be set on create")
    if spec.get("nodeName") and spec.get("schedulingGates"):
        faults.forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared")
    if annotations := metadata_of(pod).get("annotations"):
        check_profiles_match(annotations, spec, "spec", faults)


def check_pod_metadata_and_spec(pod: Object, faults: Faults) -> None:
    """Check what holds for a pod whenever it is written."""
    spec, metadata = pod.get("spec") or {}, metadata_of(pod)
    if annotations := metadata.get("annotations"):
        check_pod_annotations(annotations, spec, "metadata.annotations", faults)
    check_pod_spec(spec, "spec", faults, pod=metadata)
    if not spec.get("serviceAccountName"):
        _check_tokens(spec, faults)
    for kind in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(kind) or ()):
            check_image(container, f"spec.{kind}[{index}]", faults)


def _check_tokens(spec: dict[str, Any], faults: Faults) -> None:
    for index, volume in enumerate(spec.get("volumes") or []):
        for position, source in enumerate((volume.get("projected") or {}).get("sources") or []):
            if source.get("serviceAccountToken") is not None:
                here = f"spec.volumes[{index}].projected.sources[{position}].serviceAccountToken"
                faults.forbidden(here, "must not be specified when serviceAccountName is not set")


def check_template(template: dict[str, Any] | None, path: str, faults: Faults) -> None:
    """Check a workload's pod template."""
    template = template or {}
    metadata = metadata_of(template)
    spec = template.get("spec") or {}
    check_labels(metadata.get("labels"), f"{path}.labels", faults)
    annotations = metadata.get("annotations")
    if annotations:
        check_annotations(annotations, f"{path}.annotations", faults)
        check_pod_annotations(annotations, spec, f"{path}.annotations", faults)
    check_pod_spec(spec, f"{path}.spec", faults)
    if annotations:
        check_profiles_match(annotations, spec, f"{path}.spec", faults)
    if spec.get("ephemeralContainers"):
        faults.forbidden(f"{path}.spec.ephemeralContainers", "ephemeral containers not allowed in pod template")


def surroundings(spec: dict[str, Any], volumes: dict[str, str]) -> Surroundings:
    """Return what the rules of containers ask of a pod's spec."""
    return Surroundings(
        volumes,
        frozenset(claim.get("name") or "" for claim in spec.get("resourceClaims") or ()),
        spec.get("restartPolicy") or "",
        spec.get("terminationGracePeriodSeconds"),
        spec.get("hostUsers") is not False,
    )


def check_pod_spec(
    spec: dict[str, Any],
    path: str,
    faults: Faults,
    *,
    pod: dict[str, Any] | None = None,
) -> None:
    """Check a pod's spec; ``pod`` is the metadata of the pod itself, None for a template's."""
    metadata = pod or {}
    is_pod = pod is not None
    volumes = check_volumes(
        spec.get("volumes") or [], f"{path}.volumes", faults, metadata.get("name") or "", is_pod=is_pod
    )
    around = surroundings(spec, volumes)
    if wanted := spec.get("resourceClaims"):
        _check_resource_claims(wanted, f"{path}.resourceClaims", faults, metadata)
    containers = spec.get("containers") or []
    if not containers:
        faults.required(f"{path}.containers")
    check_containers(containers, around, f"{path}.containers", faults)
    if steps := spec.get("initContainers"):
        check_init_containers(steps, around, f"{path}.initContainers", faults)
    if helpers := spec.get("ephemeralContainers"):
        check_ephemeral_containers(helpers, around, f"{path}.ephemeralContainers", faults)
    if spec.get("resources") is not None:
        check_pod_resources(spec, f"{path}.resources", faults)
    if spec.get("hostNetwork"):
        _check_host_ports(containers, f"{path}.containers", faults, is_pod)
    if (policy := spec.get("restartPolicy")) not in _RESTART_POLICIES:
        faults.one_of(f"{path}.restartPolicy", policy, _RESTART_POLICIES)
    if (policy := spec.get("dnsPolicy")) not in _DNS_POLICIES:
        faults.one_of(f"{path}.dnsPolicy", policy, _DNS_POLICIES)
    check_labels(spec.get("nodeSelector"), f"{path}.nodeSelector", faults)
    if (context := spec.get("securityContext")) or spec.get("shareProcessNamespace"):
        check_pod_context(spec, context or {}, path, faults)
    own = metadata.get("labels") or ()
    if affinity := spec.get("affinity"):
        check_affinity(affinity, f"{path}.affinity", faults, own)
    if spec.get("dnsConfig") is not None or spec.get("dnsPolicy") == "None":
        _check_dns(spec, f"{path}.dnsConfig", faults)
    _check_gates(spec, path, faults)
    if constraints := spec.get("topologySpreadConstraints"):
        check_spreads(constraints, f"{path}.topologySpreadConstraints", faults, own)
    check_host_process(spec, path, faults)
    check_host_users(spec, path, faults)
    _check_names(spec, path, faults)
    if spec.get("os") is not None:
        check_operating_system(spec, path, faults)
    check_file_volumes(spec, path, faults)


def _check_resource_claims(claims: list[dict[str, Any]], path: str, faults: Faults, metadata: dict[str, Any]) -> None:
    if MIRROR in (metadata.get("annotations") or ()):
        for _ in claims:
            faults.forbidden("", "static pods do not support resource claims")
        return
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
            faults.invalid(here, internal("core.v1.PodResourceClaim", claim), text)
        elif not given:
            text = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"
            faults.invalid(here, internal("core.v1.PodResourceClaim", claim), text)
        for field in given:
            faults.invalid_all(f"{here}.{field}", claim[field], names.dns_subdomain(claim[field]))


def _check_gates(spec: dict[str, Any], path: str, faults: Faults) -> None:
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


def _check_names(spec: dict[str, Any], path: str, faults: Faults) -> None:
    """Check the small fields of a spec, in Kubernetes' order."""
    if (name := spec.get("hostnameOverride")) is not None:
        _check_host_name(spec, name, f"{path}.hostnameOverride", faults)
    _check_name(spec, "serviceAccountName", path, faults)
    _check_name(spec, "nodeName", path, faults)
    faults.within(f"{path}.activeDeadlineSeconds", spec.get("activeDeadlineSeconds"), 1, 2147483647)
    for field in ("hostname", "subdomain"):
        if (value := spec.get(field)) and (found := names.dns_label(value)):
            faults.invalid_all(f"{path}.{field}", value, found)
    if tolerations := spec.get("tolerations"):
        check_tolerations(tolerations, f"{path}.tolerations", faults)
    for index, alias in enumerate(spec.get("hostAliases") or ()):
        address = alias.get("ip") or ""
        faults.invalid_all(f"{path}.hostAliases[{index}].ip", address, ip_forms.address(address))
        for position, host in enumerate(alias.get("hostnames") or ()):
            faults.invalid_all(f"{path}.hostAliases[{index}].hostnames[{position}]", host, names.dns_subdomain(host))
    _check_name(spec, "priorityClassName", path, faults)
    if (name := spec.get("runtimeClassName")) is not None:
        faults.invalid_all(f"{path}.runtimeClassName", name, names.dns_subdomain(name))
    if (policy := spec.get("preemptionPolicy")) is not None:
        faults.one_of(f"{path}.preemptionPolicy", policy, ["PreemptLowerPriority", "Never"])
    if (overhead := spec.get("overhead")) is not None:
        check_resources({"limits": overhead}, f"{path}.overhead", faults)


def _check_name(spec: dict[str, Any], field: str, path: str, faults: Faults) -> None:
    if (value := spec.get(field)) and (found := names.dns_subdomain(value)):
        faults.invalid_all(f"{path}.{field}", value, found)


def _check_host_name(spec: dict[str, Any], name: str, path: str, faults: Faults) -> None:
    for field in ("setHostnameAsFQDN", "hostNetwork"):
        if spec.get(field):
            faults.forbidden(path, f"may not be specified when {field} is true")
    if len(name) > _HOST_NAME_MAX:
        faults.too_long(path, _HOST_NAME_MAX)
    faults.invalid_all(path, name, names.dns_subdomain(name))


def _check_host_ports(containers: list[dict[str, Any]], path: str, faults: Faults, is_pod: bool) -> None:
    for index, container in enumerate(containers):
        for position, port in enumerate(container.get("ports") or ()):
            host = port.get("hostPort") or 0
            if host != (port.get("containerPort") or 0) and (is_pod or host):
                here = f"{path}[{index}].ports[{position}].hostPort"
                faults.invalid(here, host, "must match `containerPort` when `hostNetwork` is true")


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
