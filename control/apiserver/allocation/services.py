"""What a Service needs of addresses and ports, and how one write changes that: pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

from control.api.meta import Object, name
from control.api.status import ApiError, Cause, invalid
from control.apiserver.allocation import families

NONE = "None"
_ALLOCATING_TYPES = frozenset({"ClusterIP", "NodePort", "LoadBalancer"})


def service_type(service: Object) -> str:
    """The type, with its default."""
    return str(service.get("spec", {}).get("type") or "ClusterIP")


def cluster_ips(service: Object | None) -> tuple[str, ...]:
    """The addresses that the Service holds; none for headless and external ones."""
    spec = (service or {}).get("spec") or {}
    held = spec.get("clusterIPs") or [spec.get("clusterIP") or ""]
    return tuple(str(address) for address in held if address and address != NONE)


def cluster_ip(service: Object | None) -> str:
    """The first address that the Service holds; empty for headless and external ones."""
    return next(iter(cluster_ips(service)), "")


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


def settle(new: Object, old: Object | None, configured: Sequence[str] = ("IPv4",)) -> list[Cause]:
    """Bring a new or changed Service into order before anything is taken for it; return what is wrong with it.

    `configured` are the cluster's IP families, the default one first.
    """
    spec = new.setdefault("spec", {})
    if old is not None:
        _drop_what_the_type_lost(new, old)
        _carry_over(new, old)
    if not spec.get("clusterIPs") and spec.get("clusterIP"):
        spec["clusterIPs"] = [spec["clusterIP"]]
    if service_type(new) == "ExternalName":
        for field in ("ipFamilies", "ipFamilyPolicy", "clusterIP", "clusterIPs"):
            spec.pop(field, None)
        return []
    if found := families.settle(new, old, configured):
        return found
    if old is not None and needs_cluster_ip(old):
        return list(_changed_addresses(spec.get("clusterIPs") or [], cluster_ips(old)))
    return []


def _changed_addresses(addresses: list[str], held: tuple[str, ...]) -> Iterator[Cause]:
    for index, (address, before) in enumerate(zip_longest(addresses[: len(held)], held)):
        # The second one may go, which the policy decides; the first one stays as long as the Service.
        if address != before and (address or index == 0):
            yield _invalid_value(f"spec.clusterIPs[{index}]", addresses, "may not change once set")


def refusal(service: Object, *causes: Cause) -> ApiError:
    """The 422 of a Service."""
    return invalid("Service", name(service), list(causes))


def address_cause(addresses: list[str], address: str, text: str) -> Cause:
    """Why a cluster IP that was asked for cannot be had."""
    return _invalid_value("spec.clusterIPs", addresses, f"failed to allocate IP {address}: {text}")


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
            "name": families.canonical(address),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": families.family_of(address),
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
        elif not spec.get("clusterIP") and spec.get("clusterIPs"):
            spec["clusterIP"] = spec["clusterIPs"][0]
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
    for field, has in _OF_TYPES.items():
        if has(old) and not has(new) and spec.get(field) == before.get(field):
            spec.pop(field, None)


def _is_balanced(service: Object) -> bool:
    return service_type(service) == "LoadBalancer"


_OF_TYPES: dict[str, Callable[[Object], bool]] = {
    "healthCheckNodePort": needs_health_check_port,
    "externalTrafficPolicy": is_externally_accessible,
    "allocateLoadBalancerNodePorts": _is_balanced,
    "loadBalancerClass": _is_balanced,
    "internalTrafficPolicy": lambda service: service_type(service) != "ExternalName",
}
"""Fields that only some Services have, and which those are."""


def _invalid_value(field: str, value: object, text: str) -> Cause:
    shown = json.dumps(value, separators=(",", ":"))
    return Cause("FieldValueInvalid", f"Invalid value: {shown}: {text}", field)
