"""What a Service needs of addresses and ports, and how one write changes that: pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from control.api.meta import Object, name
from control.api.status import ApiError, Cause, invalid

NONE = "None"
_ALLOCATING_TYPES = frozenset({"ClusterIP", "NodePort", "LoadBalancer"})


def service_type(service: Object) -> str:
    """The type, with its default."""
    return str(service.get("spec", {}).get("type") or "ClusterIP")


def cluster_ip(service: Object | None) -> str:
    """The address that the Service holds; empty for headless and external ones."""
    spec = (service or {}).get("spec") or {}
    held = (spec.get("clusterIPs") or [spec.get("clusterIP") or ""])[0]
    return "" if held == NONE else str(held)


def needs_cluster_ip(service: Object) -> bool:
    """Whether the Service has a cluster IP, or is to get one."""
    return service_type(service) in _ALLOCATING_TYPES and not is_headless(service)


def is_headless(service: Object) -> bool:
    """Whether the Service asks for no address."""
    spec = service.get("spec", {})
    return spec.get("clusterIP") == NONE or NONE in (spec.get("clusterIPs") or ())


def needs_node_ports(service: Object) -> bool:
    """Whether ports without a node port get one."""
    kind = service_type(service)
    if kind == "LoadBalancer":
        return service["spec"].get("allocateLoadBalancerNodePorts") is not False
    return kind == "NodePort"


def may_have_node_ports(service: Object) -> bool:
    """Whether node ports make sense for the type."""
    return service_type(service) in ("NodePort", "LoadBalancer")


def is_externally_accessible(service: Object) -> bool:
    """Whether anything but a cluster IP leads to the Service."""
    kind = service_type(service)
    return kind in ("NodePort", "LoadBalancer") or (kind == "ClusterIP" and bool(service["spec"].get("externalIPs")))


def needs_health_check_port(service: Object) -> bool:
    """Whether load balancers ask each node if it has endpoints."""
    return service_type(service) == "LoadBalancer" and service["spec"].get("externalTrafficPolicy") == "Local"


def node_ports(service: Object | None) -> set[int]:
    """Every node port that the Service holds, its health check's included."""
    spec = (service or {}).get("spec") or {}
    ports = {int(port["nodePort"]) for port in spec.get("ports") or () if port.get("nodePort")}
    if spec.get("healthCheckNodePort"):
        ports.add(int(spec["healthCheckNodePort"]))
    return ports


def settle(new: Object, old: Object | None) -> None:
    """Bring a new or changed Service into order before anything is taken for it."""
    spec = new.setdefault("spec", {})
    if old is not None:
        _drop_what_the_type_lost(new, old)
        _carry_over(new, old)
    if not spec.get("clusterIPs") and spec.get("clusterIP"):
        spec["clusterIPs"] = [spec["clusterIP"]]
    if service_type(new) == "ExternalName":
        for field in ("ipFamilies", "ipFamilyPolicy", "clusterIP", "clusterIPs"):
            spec.pop(field, None)
        return
    _settle_families(spec)


def faults(new: Object, old: Object | None) -> list[Cause]:
    """What is wrong with the addresses of a settled Service, in upstream's words."""
    spec = new.get("spec", {})
    found: list[Cause] = []
    addresses = spec.get("clusterIPs") or []
    if service_type(new) == "ExternalName":
        return found
    if addresses and spec.get("clusterIP") and addresses[0] != spec["clusterIP"]:
        found.append(_invalid_value("spec.clusterIPs", addresses, "first value must match `clusterIP`"))
    if len(addresses) > 1:
        text = "may only hold up to 1 value in a single-stack cluster"
        found.append(_invalid_value("spec.clusterIPs", addresses, text))
    for index, family in enumerate(spec.get("ipFamilies") or ()):
        if family != "IPv4" and not is_headless(new):
            found.append(_invalid_value(f"spec.ipFamilies[{index}]", family, "not configured on this cluster"))
    if spec.get("ipFamilyPolicy") == "RequireDualStack" and not is_headless(new):
        text = "this cluster is not configured for dual-stack services"
        found.append(_invalid_value("spec.ipFamilyPolicy", "RequireDualStack", text))
    if old is not None and needs_cluster_ip(old) and service_type(new) != "ExternalName":
        held = cluster_ip(old)
        if held and (addresses or [""])[0] != held:
            found.append(_invalid_value("spec.clusterIPs[0]", addresses, "may not change once set"))
    return found


def refusal(service: Object, *causes: Cause) -> ApiError:
    """The 422 of a Service."""
    return invalid("Service", name(service), list(causes))


def address_cause(addresses: list[str], text: str) -> Cause:
    """Why a cluster IP that was asked for cannot be had."""
    return _invalid_value("spec.clusterIPs", addresses, f"failed to allocate IP {addresses[0]}: {text}")


def port_cause(field: str, port: int, text: str) -> Cause:
    """Why a node port that was asked for cannot be had."""
    return _invalid_value(field, port, text)


def unset_ports(service: Object) -> Iterator[dict[str, Any]]:
    """The ports that still need a node port."""
    if needs_node_ports(service):
        for port in service["spec"].get("ports") or ():
            if not port.get("nodePort"):
                yield port


def set_ports(service: Object) -> Iterator[tuple[str, int]]:
    """(field, port) of every node port that is named."""
    for index, port in enumerate(service["spec"].get("ports") or ()):
        if port.get("nodePort"):
            yield f"spec.ports[{index}].nodePort", int(port["nodePort"])
    if service["spec"].get("healthCheckNodePort"):
        yield "spec.healthCheckNodePort", int(service["spec"]["healthCheckNodePort"])


def ip_address_object(address: str, service: Object) -> Object:
    """The IPAddress object that makes an address a Service's own."""
    metadata = service["metadata"]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": address,
            "labels": {
                "ipaddress.kubernetes.io/ip-family": "IPv4",
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {
            "parentRef": {
                "group": "",
                "resource": "services",
                "namespace": metadata.get("namespace", ""),
                "name": metadata.get("name", ""),
            }
        },
    }


def is_held_by(ip_address: Object, service: Object) -> bool:
    """Whether an IPAddress names this Service as its holder."""
    parent = ip_address.get("spec", {}).get("parentRef") or {}
    metadata = service.get("metadata", {})
    return (
        parent.get("resource") == "services"
        and parent.get("namespace") == metadata.get("namespace")
        and parent.get("name") == metadata.get("name")
    )


def _settle_families(spec: dict[str, Any]) -> None:
    headless = spec.get("clusterIP") == NONE
    if headless and not spec.get("selector") and not spec.get("ipFamilyPolicy") and not spec.get("ipFamilies"):
        # Upstream's special case: somebody else makes the endpoints, of whatever family.
        spec["ipFamilyPolicy"], spec["ipFamilies"] = "RequireDualStack", ["IPv4", "IPv6"]
        return
    if not spec.get("ipFamilyPolicy"):
        spec["ipFamilyPolicy"] = "SingleStack"
    if not spec.get("ipFamilies"):
        spec["ipFamilies"] = ["IPv4"]


def _carry_over(new: Object, old: Object) -> None:
    """Keep what was allocated where an update leaves it out, as `kubectl replace` does."""
    spec, before = new["spec"], old.get("spec", {})
    if needs_cluster_ip(old) and needs_cluster_ip(new):
        if not spec.get("clusterIP") and not spec.get("clusterIPs"):
            spec["clusterIP"] = before.get("clusterIP")
        if not spec.get("clusterIPs") and spec.get("clusterIP") == before.get("clusterIP"):
            spec["clusterIPs"] = list(before.get("clusterIPs") or [before.get("clusterIP")])
        elif spec.get("clusterIP") and spec.get("clusterIPs") == before.get("clusterIPs"):
            # A change of the one field means the other, too.
            spec["clusterIPs"] = [spec["clusterIP"], *spec["clusterIPs"][1:]]
    if needs_node_ports(old) and needs_node_ports(new):
        used = node_ports(new)
        held = {
            (port.get("protocol") or "TCP", port.get("port")): port["nodePort"]
            for port in before.get("ports") or ()
            if port.get("nodePort")
        }
        for port in spec.get("ports") or ():
            known = held.get((port.get("protocol") or "TCP", port.get("port")))
            if not port.get("nodePort") and known and known not in used:
                port["nodePort"] = known
                used.add(known)
    if needs_health_check_port(old) and needs_health_check_port(new) and not spec.get("healthCheckNodePort"):
        spec["healthCheckNodePort"] = before.get("healthCheckNodePort")
    for field in ("ipFamilies", "ipFamilyPolicy"):
        if not spec.get(field) and before.get(field) and service_type(new) != "ExternalName":
            spec[field] = before[field]


def _drop_what_the_type_lost(new: Object, old: Object) -> None:
    """Clear what only the old type had, unless the update names a value of its own."""
    spec, before = new["spec"], old.get("spec", {})
    if service_type(new) == "ExternalName" and service_type(old) != "ExternalName":
        for field in ("clusterIP", "clusterIPs"):
            if spec.get(field) == before.get(field):
                spec.pop(field, None)
    if may_have_node_ports(old) and not may_have_node_ports(new) and node_ports(new) <= node_ports(old):
        for port in spec.get("ports") or ():
            port.pop("nodePort", None)
    if needs_health_check_port(old) and not needs_health_check_port(new):
        spec.pop("healthCheckNodePort", None)
    if is_externally_accessible(old) and not is_externally_accessible(new):
        _drop_if_same("externalTrafficPolicy", spec, before)
    if service_type(old) == "LoadBalancer" != service_type(new):
        _drop_if_same("allocateLoadBalancerNodePorts", spec, before)
        _drop_if_same("loadBalancerClass", spec, before)


def _drop_if_same(field: str, spec: Object, before: Object) -> None:
    if spec.get(field) == before.get(field):
        spec.pop(field, None)


def _invalid_value(field: str, value: object, text: str) -> Cause:
    shown = json.dumps(value, separators=(",", ":"))
    return Cause("FieldValueInvalid", f"Invalid value: {shown}: {text}", field)
