"""Rules of services: their ports, addresses, families and the traffic that they take."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from control.api.meta import Object
from control.api.validation import ip_forms, names
from control.api.validation.faults import IMMUTABLE, Faults
from control.api.validation.forms import is_dual_stack, metadata_of
from control.api.validation.metadata import check_labels
from control.api.validation.probes import check_port_or_name

PROTOCOLS = ("SCTP", "TCP", "UDP")
_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_DISTRIBUTIONS = ("PreferClose", "PreferSameZone", "PreferSameNode")
_FAMILIES = ("IPv4", "IPv6")
_FAMILY_POLICIES = ("PreferDualStack", "RequireDualStack", "SingleStack")
_AFFINITY_S_MAX = 86400
_MODE_ANNOTATION = "service.kubernetes.io/topology-mode"
_HINTS_ANNOTATION = "service.kubernetes.io/topology-aware-hints"
_RANGES_ANNOTATION = "service.beta.kubernetes.io/load-balancer-source-ranges"
_LOCAL_MULTICAST_V4 = ip_network("224.0.0.0/24")
_LOCAL_MULTICAST_V6 = ip_network("ff02::/10", strict=False)
_ONLY_BALANCED = "may only be used when `type` is 'LoadBalancer'"
_SET_ONCE = "may not change once set"


def check_service(obj: Object, faults: Faults) -> None:
    """Check a Service."""
    spec = obj.get("spec") or {}
    kind = spec.get("type") or ""
    headless = _is_headless(spec)
    ports = spec.get("ports") or []
    _check_topology(metadata_of(obj).get("annotations") or {}, faults)
    if not ports and not headless and kind != "ExternalName":
        faults.required("spec.ports")
    if kind in ("LoadBalancer", "NodePort") and headless:
        faults.invalid("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {kind} services")
    if kind == "ExternalName":
        _check_external_name(spec, faults)
    _check_ports(ports, faults)
    check_labels(spec.get("selector"), "spec.selector", faults)
    faults.one_of("spec.sessionAffinity", spec.get("sessionAffinity"), ["ClientIP", "None"])
    _check_affinity(spec, faults)
    if kind != "ExternalName":
        _check_addresses(spec, headless, faults)
    for index, address in enumerate(spec.get("externalIPs") or []):
        if found := ip_forms.address(address):
            faults.invalid_all(f"spec.externalIPs[{index}]", address, found)
        else:
            check_unspecial_address(address, f"spec.externalIPs[{index}]", faults)
    faults.one_of("spec.type", kind, _TYPES)
    _check_node_ports(ports, kind, faults)
    _check_unique_ports(ports, faults)
    _check_source_ranges(obj, kind, faults)
    _check_balancer(spec, kind, faults)
    _check_traffic(spec, kind, faults)


def _check_topology(annotations: dict[str, str], faults: Faults) -> None:
    mode, hints = annotations.get(_MODE_ANNOTATION), annotations.get(_HINTS_ANNOTATION)
    if mode is not None and hints is not None and mode != hints:
        text = f"must match annotations[{_HINTS_ANNOTATION}] when both are specified"
        faults.invalid(f"metadata.annotations[{_MODE_ANNOTATION}]", mode, text)


def _is_headless(spec: dict[str, Any]) -> bool:
    return _addresses(spec) == ["None"]


def _addresses(spec: dict[str, Any]) -> list[str]:
    return spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else [])


def _check_external_name(spec: dict[str, Any], faults: Faults) -> None:
    if _addresses(spec):
        faults.forbidden("spec.clusterIPs", "may not be set for ExternalName services")
    if spec.get("ipFamilies"):
        faults.forbidden("spec.ipFamilies", "may not be set for ExternalName services")
    if spec.get("ipFamilyPolicy") is not None:
        faults.forbidden("spec.ipFamilyPolicy", "may not be set for ExternalName services")
    name = (spec.get("externalName") or "").removesuffix(".")
    if name:
        faults.invalid_all("spec.externalName", name, names.dns_subdomain(name))
    else:
        faults.required("spec.externalName")


def _check_ports(ports: list[dict[str, Any]], faults: Faults) -> None:
    taken: set[str] = set()
    for index, port in enumerate(ports):
        here, name = f"spec.ports[{index}]", port.get("name") or ""
        if name:
            faults.invalid_all(f"{here}.name", name, names.dns_label(name))
            if name in taken:
                faults.duplicate(f"{here}.name", name)
            taken.add(name)
        elif len(ports) > 1:
            faults.required(f"{here}.name")
        faults.invalid_all(f"{here}.port", port.get("port") or 0, names.port_number(port.get("port") or 0))
        faults.one_of(f"{here}.protocol", port.get("protocol"), PROTOCOLS)
        check_port_or_name(port.get("targetPort"), f"{here}.targetPort", faults)
        if (protocol := port.get("appProtocol")) is not None:
            faults.invalid_all(f"{here}.appProtocol", protocol, names.qualified_name(protocol))


def _check_node_ports(ports: list[dict[str, Any]], kind: str, faults: Faults) -> None:
    if kind == "ClusterIP":
        for index, port in enumerate(ports):
            if port.get("nodePort"):
                faults.forbidden(f"spec.ports[{index}].nodePort", "may not be used when `type` is 'ClusterIP'")
    taken: set[tuple[Any, int]] = set()
    for index, port in enumerate(ports):
        if not port.get("nodePort"):
            continue
        key = (port.get("protocol"), port["nodePort"])
        if key in taken:
            faults.duplicate(f"spec.ports[{index}].nodePort", port["nodePort"])
        taken.add(key)


def _check_unique_ports(ports: list[dict[str, Any]], faults: Faults) -> None:
    taken: set[tuple[Any, Any]] = set()
    for index, port in enumerate(ports):
        key = (port.get("protocol"), port.get("port"))
        if key in taken:
            # Kubernetes shows a whole port of its own making, of which two fields are filled.
            made = {"Name": "", "Protocol": key[0], "AppProtocol": None, "Port": key[1]}
            faults.duplicate(f"spec.ports[{index}]", {**made, "TargetPort": 0, "NodePort": 0})
        taken.add(key)


def _check_affinity(spec: dict[str, Any], faults: Faults) -> None:
    config = spec.get("sessionAffinityConfig")
    path = "spec.sessionAffinityConfig"
    if spec.get("sessionAffinity") == "None" and config is not None:
        faults.forbidden(path, "must not be set when session affinity is None")
    elif spec.get("sessionAffinity") == "ClientIP":
        told = "when session affinity type is ClientIP"
        by_client = (config or {}).get("clientIP")
        seconds = (by_client or {}).get("timeoutSeconds")
        if config is None:
            faults.required(path, told)
        elif by_client is None:
            faults.required(f"{path}.clientIP", told)
        elif seconds is None:
            faults.required(f"{path}.clientIP.timeoutSeconds", told)
        elif not 0 < seconds <= _AFFINITY_S_MAX:
            text = f"must be greater than 0 and less than {_AFFINITY_S_MAX}"
            faults.invalid(f"{path}.clientIP.timeoutSeconds", seconds, text)


def _check_addresses(spec: dict[str, Any], headless: bool, faults: Faults) -> None:
    """Check addresses, their families and how these fit together."""
    addresses, families = _addresses(spec), spec.get("ipFamilies") or []
    if spec.get("clusterIPs"):
        if not spec.get("clusterIP"):
            faults.invalid("spec.clusterIPs", addresses, "must be empty when `clusterIP` is not specified")
        elif spec["clusterIP"] != addresses[0]:
            faults.invalid("spec.clusterIPs", addresses, "first value must match `clusterIP`")
    for index, family in enumerate(families):
        if family not in _FAMILIES:
            faults.not_supported(f"spec.ipFamilies[{index}]", family, _FAMILIES)
        if family in families[:index]:
            faults.duplicate(f"spec.ipFamilies[{index}]", family)
    if (policy := spec.get("ipFamilyPolicy")) is not None and policy not in _FAMILY_POLICIES:
        faults.not_supported("spec.ipFamilyPolicy", policy, _FAMILY_POLICIES)
    if not _are_addresses(addresses, faults):
        return  # what follows compares addresses, and would be told of wrong ones in vain
    if len(addresses) > 1 and not is_dual_stack(addresses):
        faults.invalid("spec.clusterIPs", addresses, "may specify no more than one IP for each IP family")
    if headless:
        return
    for index, (address, family) in enumerate(zip(addresses, families, strict=False)):
        if family in _FAMILIES and (":" in address) is not (family == "IPv6"):
            text = f"expected an {family} value as indicated by `ipFamilies[{index}]`"
            faults.invalid(f"spec.clusterIPs[{index}]", address, text)


def _are_addresses(addresses: list[str], faults: Faults) -> bool:
    right = True
    for index, address in enumerate(addresses):
        if index == 0 and address == "None":
            if len(addresses) > 1:
                right = False
                faults.invalid("spec.clusterIPs", addresses, "'None' must be the first and only value")
        elif found := ip_forms.address(address):
            right = False
            faults.invalid_all(f"spec.clusterIPs[{index}]", address, found)
    if len(addresses) > 2:
        faults.invalid("spec.clusterIPs", addresses, "may only hold up to 2 values")
    return right


def check_unspecial_address(address: str, path: str, faults: Faults) -> None:
    """Check that an address is one that packets may be sent to from elsewhere."""
    parsed = ip_forms.parse_address(address)
    if parsed is None:
        faults.invalid(path, address, "must be a valid IP address")
        return
    for is_wrong, text in (
        (parsed.is_unspecified, f"may not be unspecified ({address})"),
        (parsed.is_loopback, "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (parsed.is_link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (
            parsed in _LOCAL_MULTICAST_V4 if parsed.version == 4 else parsed in _LOCAL_MULTICAST_V6,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        ),
    ):
        if is_wrong:
            faults.invalid(path, address, text)


def _check_source_ranges(obj: Object, kind: str, faults: Faults) -> None:
    """Check who may reach a load balancer; the field's path is written as Kubernetes does, with a capital letter."""
    ranges = (obj.get("spec") or {}).get("loadBalancerSourceRanges") or []
    annotation = (metadata_of(obj).get("annotations") or {}).get(_RANGES_ANNOTATION)
    if ranges:
        path = "spec.LoadBalancerSourceRanges"
        if kind != "LoadBalancer":
            faults.forbidden(path, _ONLY_BALANCED)
        for index, entry in enumerate(ranges):
            faults.invalid_all(f"{path}[{index}]", entry.strip(), ip_forms.cidr(entry.strip()))
    elif annotation is not None:
        path = f"metadata.annotations[{_RANGES_ANNOTATION}]"
        if kind != "LoadBalancer":
            faults.forbidden(path, _ONLY_BALANCED)
        for entry in annotation.split(",") if annotation.strip() else ():
            faults.invalid_all(path, entry.strip(), ip_forms.cidr(entry.strip()))


def _check_balancer(spec: dict[str, Any], kind: str, faults: Faults) -> None:
    allocates = spec.get("allocateLoadBalancerNodePorts")
    if kind == "LoadBalancer":
        if allocates is None:
            faults.required("allocateLoadBalancerNodePorts")
    elif allocates is not None:
        faults.forbidden("spec.allocateLoadBalancerNodePorts", _ONLY_BALANCED)
    _check_balancer_class(spec, faults)


def _check_balancer_class(spec: dict[str, Any], faults: Faults) -> None:
    if (name := spec.get("loadBalancerClass")) is None:
        return
    if spec.get("type") == "LoadBalancer":
        faults.invalid_all("spec.loadBalancerClass", name, names.qualified_name(name))
    else:
        faults.forbidden("spec.loadBalancerClass", _ONLY_BALANCED)


def _check_traffic(spec: dict[str, Any], kind: str, faults: Faults) -> None:
    external = spec.get("externalTrafficPolicy") or ""
    accessible = kind in ("LoadBalancer", "NodePort") or (kind == "ClusterIP" and spec.get("externalIPs"))
    if accessible:
        faults.one_of("spec.externalTrafficPolicy", external, ["Cluster", "Local"])
    elif external:
        faults.invalid("spec.externalTrafficPolicy", external, "may only be set for externally-accessible services")
    port = spec.get("healthCheckNodePort")
    if _needs_health_check(spec):
        if port:
            faults.invalid_all("spec.healthCheckNodePort", port, names.port_number(port))
        else:
            faults.required("spec.healthCheckNodePort")
    elif port:
        text = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        faults.invalid("spec.healthCheckNodePort", port, text)
    internal = spec.get("internalTrafficPolicy")
    if internal is None:
        if kind in ("ClusterIP", "LoadBalancer", "NodePort"):
            faults.required("spec.internalTrafficPolicy")
    elif internal not in ("Cluster", "Local"):
        faults.not_supported("spec.internalTrafficPolicy", internal, ["Cluster", "Local"])
    if (distribution := spec.get("trafficDistribution")) is not None and distribution not in _DISTRIBUTIONS:
        faults.not_supported("spec.trafficDistribution", distribution, _DISTRIBUTIONS)


def _needs_health_check(spec: dict[str, Any]) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def check_service_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a Service keeps its addresses and families while it has any; the second may come and go."""
    now, was = new.get("spec") or {}, old.get("spec") or {}
    if "ExternalName" not in (now.get("type"), was.get("type")):
        if not (_is_headless(now) and _is_headless(was)):
            _check_addresses_kept(now, was, faults)
        if not _is_headless(now) and not _is_headless(was):
            _check_families_kept(now, was, faults)
    balanced = now.get("type") == was.get("type") == "LoadBalancer"
    if balanced and now.get("loadBalancerClass") != was.get("loadBalancerClass"):
        faults.invalid("spec.loadBalancerClass", now.get("loadBalancerClass"), _SET_ONCE)
    _check_balancer_class(now, faults)
    both = _needs_health_check(now) and _needs_health_check(was)
    if both and was.get("healthCheckNodePort") != now.get("healthCheckNodePort"):
        faults.forbidden("spec.healthCheckNodePort", IMMUTABLE)


def _check_addresses_kept(now: dict[str, Any], was: dict[str, Any], faults: Faults) -> None:
    addresses, before = _addresses(now), _addresses(was)
    if len(addresses) == len(before):
        for index, (value, kept) in enumerate(zip(addresses, before, strict=True)):
            if value != kept:
                faults.invalid(f"spec.clusterIPs[{index}]", addresses, _SET_ONCE)
    elif not addresses:
        faults.invalid("spec.clusterIPs[0]", now.get("clusterIPs"), "primary clusterIP can not be unset")
    elif before and addresses[0] != before[0]:
        faults.invalid("spec.clusterIPs[0]", addresses, _SET_ONCE)
    if len(before) > len(addresses):
        _check_second_released(now, len(addresses), "clusterIP", faults)


def _check_families_kept(now: dict[str, Any], was: dict[str, Any], faults: Faults) -> None:
    """Check the order of families; where the first one changed with their number, Kubernetes shows the addresses."""
    families, before = now.get("ipFamilies") or [], was.get("ipFamilies") or []
    path = "spec.ipFamilies[0]"
    if len(families) == len(before):
        for value, kept in zip(families, before, strict=True):
            if value != kept:
                faults.invalid(path, families, _SET_ONCE)
    elif len(before) > len(families) and not _addresses(now):
        faults.invalid(path, now.get("ipFamilies"), "primary ipFamily can not be unset")
    elif before and families[:1] != before[:1]:
        faults.invalid(path, now.get("clusterIPs"), _SET_ONCE)
    if len(before) > len(families):
        _check_second_released(now, len(families), "ipFamily", faults)


def _check_second_released(spec: dict[str, Any], left: int, word: str, faults: Faults) -> None:
    if left == 1 and spec.get("ipFamilyPolicy") != "SingleStack":
        text = f"must be set to 'SingleStack' when releasing the secondary {word}"
        faults.invalid("spec.ipFamilyPolicy", spec.get("ipFamilyPolicy"), text)
