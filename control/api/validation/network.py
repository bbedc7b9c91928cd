"""Rules of services, endpoints, ingresses and network policies."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from control.api.meta import Object
from control.api.validation import names
from control.api.validation.containers import check_port_or_name
from control.api.validation.faults import IMMUTABLE, Faults
from control.api.validation.metadata import check_labels, check_selector

_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_DISTRIBUTIONS = ("PreferClose", "PreferSameNode", "PreferSameZone")
_AFFINITY_S_MAX = 86400


def check_service(obj: Object, faults: Faults) -> None:
    """Check a Service."""
    spec = obj.get("spec") or {}
    kind = spec.get("type")
    addresses = spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else [])
    headless = addresses[:1] == ["None"]
    ports = spec.get("ports") or []
    if not ports and not headless and kind != "ExternalName":
        faults.required("spec.ports")
    if kind == "LoadBalancer" and headless:
        faults.invalid("spec.clusterIPs[0]", "None", "may not be set to 'None' for LoadBalancer services")
    if kind == "NodePort" and headless:
        faults.invalid("spec.clusterIPs[0]", "None", "may not be set to 'None' for NodePort services")
    if kind == "ExternalName":
        _check_external_name(spec, faults)
    _check_service_ports(ports, headless, kind or "", faults)
    check_labels(spec.get("selector"), "spec.selector", faults)
    faults.one_of("spec.sessionAffinity", spec.get("sessionAffinity"), ["ClientIP", "None"])
    _check_affinity(spec, faults)
    faults.one_of("spec.type", kind, _TYPES)
    _check_addresses(spec, addresses, faults)
    _check_traffic(spec, kind or "", faults)


def _check_external_name(spec: dict[str, Any], faults: Faults) -> None:
    name = (spec.get("externalName") or "").removesuffix(".")
    if name:
        faults.invalid_all("spec.externalName", name, names.dns_subdomain(name))
    else:
        faults.required("spec.externalName")
    if spec.get("clusterIP") or spec.get("clusterIPs"):
        faults.forbidden("spec.clusterIPs", "may not be set for ExternalName services")


def _check_service_ports(ports: list[dict[str, Any]], headless: bool, kind: str, faults: Faults) -> None:
    taken_names: set[str] = set()
    taken: set[tuple[Any, Any]] = set()
    taken_nodes: set[tuple[Any, Any]] = set()
    for index, port in enumerate(ports):
        here = f"spec.ports[{index}]"
        name = port.get("name") or ""
        if len(ports) > 1 and not name:
            faults.required(f"{here}.name")
        elif name:
            faults.invalid_all(f"{here}.name", name, names.dns_label(name))
            if name in taken_names:
                faults.duplicate(f"{here}.name", name)
            taken_names.add(name)
        faults.invalid_all(f"{here}.port", port.get("port") or 0, names.port_number(port.get("port") or 0))
        faults.one_of(f"{here}.protocol", port.get("protocol"), _PROTOCOLS)
        check_port_or_name(port.get("targetPort"), f"{here}.targetPort", faults)
        if port.get("appProtocol"):
            faults.invalid_all(f"{here}.appProtocol", port["appProtocol"], names.qualified_name(port["appProtocol"]))
        key = (port.get("protocol"), port.get("port"))
        if key in taken:
            faults.duplicate(here, {"protocol": key[0], "port": key[1]})
        taken.add(key)
        node = port.get("nodePort")
        if node:
            if kind in ("ClusterIP", "ExternalName"):
                faults.forbidden(f"{here}.nodePort", f"may not be used when `type` is '{kind}'")
            if (port.get("protocol"), node) in taken_nodes:
                faults.duplicate(f"{here}.nodePort", node)
            taken_nodes.add((port.get("protocol"), node))


def _check_affinity(spec: dict[str, Any], faults: Faults) -> None:
    config = spec.get("sessionAffinityConfig")
    path = "spec.sessionAffinityConfig"
    if spec.get("sessionAffinity") == "None" and config is not None:
        faults.forbidden(path, "must not be set when session affinity is None")
    elif spec.get("sessionAffinity") == "ClientIP":
        seconds = ((config or {}).get("clientIP") or {}).get("timeoutSeconds")
        if seconds is None:
            faults.required(path, "when session affinity type is ClientIP")
        elif not 0 < seconds <= _AFFINITY_S_MAX:
            text = f"must be greater than 0 and less than {_AFFINITY_S_MAX}"
            faults.invalid(f"{path}.clientIP.timeoutSeconds", seconds, text)


def _check_addresses(spec: dict[str, Any], addresses: list[str], faults: Faults) -> None:
    if spec.get("clusterIP") and spec.get("clusterIPs") and spec["clusterIP"] != spec["clusterIPs"][0]:
        faults.invalid("spec.clusterIPs", spec["clusterIPs"], "first value must match `clusterIP`")
    if len(addresses) > 2:
        faults.invalid("spec.clusterIPs", addresses, "may only hold up to 2 values")
    for index, address in enumerate(addresses):
        if address != "None":
            faults.invalid_all(f"spec.clusterIPs[{index}]", address, names.address(address))
        elif len(addresses) > 1:
            faults.invalid("spec.clusterIPs[0]", address, "must be 'None' or a valid IP address")
    for index, address in enumerate(spec.get("externalIPs") or []):
        faults.invalid_all(f"spec.externalIPs[{index}]", address, names.address(address))
    ranges = spec.get("loadBalancerSourceRanges") or []
    if ranges and spec.get("type") != "LoadBalancer":
        text = "may only be used when `type` is 'LoadBalancer'"
        faults.forbidden("spec.LoadBalancerSourceRanges", text)
    for index, entry in enumerate(ranges):
        faults.invalid_all(f"spec.loadBalancerSourceRanges[{index}]", entry, names.cidr(entry.strip()))


def _check_traffic(spec: dict[str, Any], kind: str, faults: Faults) -> None:
    external = spec.get("externalTrafficPolicy")
    accessible = kind in ("LoadBalancer", "NodePort") or (kind == "ClusterIP" and spec.get("externalIPs"))
    if external:
        if not accessible:
            text = "may only be set for externally-accessible services"
            faults.invalid("spec.externalTrafficPolicy", external, text)
        else:
            faults.one_of("spec.externalTrafficPolicy", external, ["Cluster", "Local"])
    port = spec.get("healthCheckNodePort")
    if port and not (kind == "LoadBalancer" and external == "Local"):
        text = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        faults.invalid("spec.healthCheckNodePort", port, text)
    if distribution := spec.get("trafficDistribution"):
        faults.one_of("spec.trafficDistribution", distribution, _DISTRIBUTIONS)
    if kind != "LoadBalancer":
        for field in ("allocateLoadBalancerNodePorts", "loadBalancerClass"):
            if spec.get(field) is not None:
                faults.forbidden(f"spec.{field}", "may only be used when `type` is 'LoadBalancer'")
    if (internal := spec.get("internalTrafficPolicy")) is not None:
        faults.one_of("spec.internalTrafficPolicy", internal, ["Cluster", "Local"])


def check_service_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a Service keeps its addresses while it has any."""
    now, was = new.get("spec") or {}, old.get("spec") or {}
    if "ExternalName" in (now.get("type"), was.get("type")):
        return
    first = (was.get("clusterIPs") or [was.get("clusterIP")])[0]
    here = (now.get("clusterIPs") or [now.get("clusterIP")])[0]
    if first and not here:
        faults.invalid("spec.clusterIPs[0]", None, "primary clusterIP can not be unset")
    elif first and here != first:
        faults.invalid("spec.clusterIPs[0]", now.get("clusterIPs") or [here], "may not change once set")
    second, before_that = (now.get("clusterIPs") or [])[1:], (was.get("clusterIPs") or [])[1:]
    if second and before_that and second != before_that:
        faults.invalid("spec.clusterIPs[1]", now["clusterIPs"], "may not change once set")
    if now.get("type") == was.get("type") == "LoadBalancer":
        if now.get("loadBalancerClass") != was.get("loadBalancerClass"):
            faults.invalid("spec.loadBalancerClass", now.get("loadBalancerClass"), "may not change once set")
        both_local = now.get("externalTrafficPolicy") == was.get("externalTrafficPolicy") == "Local"
        if both_local and was.get("healthCheckNodePort") != now.get("healthCheckNodePort"):
            faults.forbidden("spec.healthCheckNodePort", IMMUTABLE)
    families, before = now.get("ipFamilies") or [], was.get("ipFamilies") or []
    if before and families[:1] != before[:1]:
        faults.invalid("spec.ipFamilies[0]", families, "may not change once set")


def check_endpoints(obj: Object, faults: Faults) -> None:
    """Check Endpoints."""
    for index, subset in enumerate(obj.get("subsets") or []):
        here = f"subsets[{index}]"
        addresses, waiting = subset.get("addresses") or [], subset.get("notReadyAddresses") or []
        if not addresses and not waiting:
            faults.required(here, "must specify `addresses` or `notReadyAddresses`")
        for field, entries in (("addresses", addresses), ("notReadyAddresses", waiting)):
            for position, entry in enumerate(entries):
                path = f"{here}.{field}[{position}].ip"
                check_endpoint_address(entry.get("ip") or "", path, faults)
        for position, port in enumerate(subset.get("ports") or []):
            path = f"{here}.ports[{position}]"
            if len(subset["ports"]) > 1 and not port.get("name"):
                faults.required(f"{path}.name")
            elif port.get("name"):
                faults.invalid_all(f"{path}.name", port["name"], names.dns_label(port["name"]))
            faults.invalid_all(f"{path}.port", port.get("port") or 0, names.port_number(port.get("port") or 0))
            faults.one_of(f"{path}.protocol", port.get("protocol"), _PROTOCOLS)


def check_endpoint_address(address: str, path: str, faults: Faults) -> None:
    """Check that an endpoint is an address that packets may be sent to from elsewhere."""
    from ipaddress import ip_address

    found = names.address(address)
    faults.invalid_all(path, address, found)
    if found:
        return
    parsed = ip_address(address)
    for is_wrong, text in (
        (parsed.is_unspecified, "may not be unspecified (0.0.0.0 or ::)"),
        (parsed.is_loopback, "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (parsed.is_link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (parsed.is_multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ):
        if is_wrong:
            faults.invalid(path, address, text)


def check_endpoint_slice(obj: Object, faults: Faults) -> None:
    """Check an EndpointSlice."""
    kind = obj.get("addressType")
    faults.one_of("addressType", kind, ["FQDN", "IPv4", "IPv6"])
    endpoints = obj.get("endpoints") or []
    if len(endpoints) > 1000:
        faults.too_many("endpoints", len(endpoints), 1000)
    for index, endpoint in enumerate(endpoints):
        here = f"endpoints[{index}].addresses"
        addresses = endpoint.get("addresses") or []
        if not addresses:
            faults.required(here, "must contain at least 1 address")
        for position, address in enumerate(addresses):
            if kind == "FQDN":
                faults.invalid_all(f"{here}[{position}]", address, names.dns_subdomain(address))
            else:
                check_endpoint_address(address, f"{here}[{position}]", faults)
    taken: set[str] = set()
    for index, port in enumerate(obj.get("ports") or []):
        name = port.get("name") or ""
        if name:
            faults.invalid_all(f"ports[{index}].name", name, names.dns_label(name))
        if name in taken:
            faults.duplicate(f"ports[{index}].name", name)
        taken.add(name)
        if port.get("protocol") is None:
            faults.required(f"ports[{index}].protocol")
        elif port["protocol"] not in _PROTOCOLS:
            faults.not_supported(f"ports[{index}].protocol", port["protocol"], _PROTOCOLS)


def check_endpoint_slice_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a slice keeps its kind of addresses."""
    faults.unchanged("addressType", new.get("addressType"), old.get("addressType"))


def check_ingress(obj: Object, faults: Faults) -> None:
    """Check an Ingress."""
    spec = obj.get("spec") or {}
    if not spec.get("rules") and spec.get("defaultBackend") is None:
        faults.invalid("spec", spec.get("rules") or [], "either `defaultBackend` or `rules` must be specified")
    if (backend := spec.get("defaultBackend")) is not None:
        _check_backend(backend, "spec.defaultBackend", faults)
    for index, rule in enumerate(spec.get("rules") or []):
        here = f"spec.rules[{index}]"
        if host := rule.get("host"):
            if host.startswith("*."):
                faults.invalid_all(f"{here}.host", host, names.dns_subdomain(host[2:]))
            else:
                faults.invalid_all(f"{here}.host", host, names.dns_subdomain(host))
        if (http := rule.get("http")) is not None:
            _check_paths(http.get("paths") or [], f"{here}.http.paths", faults)
    if name := spec.get("ingressClassName"):
        faults.invalid_all("spec.ingressClassName", name, names.dns_subdomain(name))


def _check_paths(paths: list[dict[str, Any]], path: str, faults: Faults) -> None:
    if not paths:
        faults.required(path)
    for index, entry in enumerate(paths):
        here = f"{path}[{index}]"
        kind, text = entry.get("pathType"), entry.get("path") or ""
        if kind is None:
            faults.required(f"{here}.pathType", "pathType must be specified")
        elif kind in ("Exact", "Prefix"):
            if not text.startswith("/"):
                faults.invalid(f"{here}.path", text, "must be an absolute path")
            for wrong in ("//", "/./", "/../", "%2f", "%2F"):
                if wrong in text:
                    faults.invalid(f"{here}.path", text, f"must not contain '{wrong}'")
        elif kind == "ImplementationSpecific":
            if text and not text.startswith("/"):
                faults.invalid(f"{here}.path", text, "must be an absolute path")
        else:
            faults.not_supported(f"{here}.pathType", kind, ["Exact", "ImplementationSpecific", "Prefix"])
        _check_backend(entry.get("backend") or {}, f"{here}.backend", faults)


def _check_backend(backend: dict[str, Any], path: str, faults: Faults) -> None:
    service, resource = backend.get("service"), backend.get("resource")
    if service is not None and resource is not None:
        faults.invalid(path, "", "cannot set both resource and service backends")
    elif resource is None:
        if service is None:
            faults.required(f"{path}.service.name")
            return
        name, port = service.get("name") or "", service.get("port") or {}
        if not name:
            faults.required(f"{path}.service.name")
        else:
            faults.invalid_all(f"{path}.service.name", name, names.dns_1035_label(name))
        if port.get("name") and port.get("number"):
            faults.invalid(path, "", "cannot set both port name & port number")
        elif port.get("name"):
            faults.invalid_all(f"{path}.service.port.name", port["name"], names.port_name(port["name"]))
        elif port.get("number"):
            faults.invalid_all(f"{path}.service.port.number", port["number"], names.port_number(port["number"]))
        else:
            faults.required(path, "port name or number is required")


def check_network_policy(obj: Object, faults: Faults) -> None:
    """Check a NetworkPolicy."""
    spec = obj.get("spec") or {}
    check_selector(spec.get("podSelector"), "spec.podSelector", faults)
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(spec.get(direction) or []):
            here = f"spec.{direction}[{index}]"
            for position, port in enumerate(rule.get("ports") or []):
                _check_policy_port(port, f"{here}.ports[{position}]", faults)
            for position, peer in enumerate(rule.get(peers) or []):
                _check_peer(peer, f"{here}.{peers}[{position}]", faults)
    kinds = spec.get("policyTypes") or []
    if len(kinds) > 2:
        faults.invalid("spec.policyTypes", kinds, "may not specify more than two policyTypes")
    for index, kind in enumerate(kinds):
        if kind not in ("Ingress", "Egress"):
            faults.not_supported(f"spec.policyTypes[{index}]", kind, ["Egress", "Ingress"])


def _check_policy_port(port: dict[str, Any], path: str, faults: Faults) -> None:
    if port.get("protocol") not in (None, *_PROTOCOLS):
        faults.not_supported(f"{path}.protocol", port["protocol"], _PROTOCOLS)
    if port.get("port") is not None:
        check_port_or_name(port["port"], f"{path}.port", faults)
        end = port.get("endPort")
        if end is not None:
            if isinstance(port["port"], str):
                faults.invalid(f"{path}.endPort", end, "may not be specified when `port` is non-numeric")
                return
            if end < port["port"]:
                # Kubernetes shows the port here, not the endPort.
                faults.invalid(f"{path}.endPort", port["port"], "must be greater than or equal to `port`")
            faults.invalid_all(f"{path}.endPort", end, names.port_number(end))
    elif port.get("endPort") is not None:
        faults.invalid(f"{path}.endPort", port["endPort"], "may not be specified when `port` is not specified")


def _check_peer(peer: dict[str, Any], path: str, faults: Faults) -> None:
    block = peer.get("ipBlock")
    given = [key for key in ("podSelector", "namespaceSelector") if peer.get(key) is not None]
    for key in given:
        check_selector(peer[key], f"{path}.{key}", faults)
    if not given and block is None:
        faults.required(path, "must specify a peer")
    elif given and block is not None:
        faults.forbidden(path, "may not specify both ipBlock and another peer")
    if block is None:
        return
    if not block.get("cidr"):
        faults.required(f"{path}.ipBlock.cidr")
        return
    wrong = names.cidr(block["cidr"])
    faults.invalid_all(f"{path}.ipBlock.cidr", block["cidr"], wrong)
    if wrong:
        return
    network = ip_network(block["cidr"], strict=False)
    for index, entry in enumerate(block.get("except") or []):
        wrong = names.cidr(entry)
        faults.invalid_all(f"{path}.ipBlock.except[{index}]", entry, wrong)
        if not wrong and not _is_strictly_within(ip_network(entry, strict=False), network):
            faults.invalid(f"{path}.ipBlock.except[{index}]", entry, "must be a strict subset of `cidr`")


def _is_strictly_within(inner: IPv4Network | IPv6Network, outer: IPv4Network | IPv6Network) -> bool:
    if inner.version != outer.version or inner.prefixlen <= outer.prefixlen:
        return False
    return inner.network_address in outer
