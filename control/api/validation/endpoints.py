"""Rules of endpoints: the addresses behind services, as slices and in the old form."""

from __future__ import annotations

from typing import Any

from control.api.meta import Object
from control.api.validation import ip_forms, names
from control.api.validation.faults import Faults
from control.api.validation.forms import check_fully_qualified_domain
from control.api.validation.metadata import check_labels
from control.api.validation.services import PROTOCOLS, check_unspecial_address

_ENDPOINTS_MAX, _ADDRESSES_MAX, _PORTS_MAX, _TOPOLOGY_MAX, _HINTS_MAX = 1000, 100, 20000, 16, 8


def check_endpoints(obj: Object, faults: Faults) -> None:
    """Check Endpoints."""
    for index, subset in enumerate(obj.get("subsets") or []):
        here = f"subsets[{index}]"
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            faults.required(here, "must specify `addresses` or `notReadyAddresses`")
        for field in ("addresses", "notReadyAddresses"):
            for position, entry in enumerate(subset.get(field) or []):
                _check_address(entry, f"{here}.{field}[{position}]", faults)
        ports = subset.get("ports") or []
        for position, port in enumerate(ports):
            _check_port(port, f"{here}.ports[{position}]", faults, named=len(ports) > 1)


def _check_address(entry: dict[str, Any], path: str, faults: Faults) -> None:
    address = entry.get("ip") or ""
    faults.invalid_all(f"{path}.ip", address, ip_forms.address(address))
    if name := entry.get("hostname"):
        faults.invalid_all(f"{path}.hostname", name, names.dns_label(name))
    _check_node_name(entry, path, faults)
    check_unspecial_address(address, f"{path}.ip", faults)


def _check_node_name(entry: dict[str, Any], path: str, faults: Faults) -> None:
    if (name := entry.get("nodeName")) is not None:
        faults.invalid_all(f"{path}.nodeName", name, names.dns_subdomain(name))


def _check_port(port: dict[str, Any], path: str, faults: Faults, *, named: bool) -> None:
    name = port.get("name") or ""
    if name:
        faults.invalid_all(f"{path}.name", name, names.dns_label(name))
    elif named:
        faults.required(f"{path}.name")
    faults.invalid_all(f"{path}.port", port.get("port") or 0, names.port_number(port.get("port") or 0))
    faults.one_of(f"{path}.protocol", port.get("protocol"), PROTOCOLS)
    _check_app_protocol(port, path, faults)


def _check_app_protocol(port: dict[str, Any], path: str, faults: Faults) -> None:
    if (protocol := port.get("appProtocol")) is not None:
        faults.invalid_all(f"{path}.appProtocol", protocol, names.qualified_name(protocol))


def check_endpoint_slice(obj: Object, faults: Faults) -> None:
    """Check an EndpointSlice."""
    kind = obj.get("addressType") or ""
    faults.one_of("addressType", kind, ["FQDN", "IPv4", "IPv6"])
    endpoints = obj.get("endpoints") or []
    if len(endpoints) > _ENDPOINTS_MAX:
        faults.too_many("endpoints", len(endpoints), _ENDPOINTS_MAX)
    else:
        for index, endpoint in enumerate(endpoints):
            _check_endpoint(endpoint, kind, f"endpoints[{index}]", faults)
    ports = obj.get("ports") or []
    if len(ports) > _PORTS_MAX:
        faults.too_many("ports", len(ports), _PORTS_MAX)
        return
    taken: set[str] = set()
    for index, port in enumerate(ports):
        here, name = f"ports[{index}]", port.get("name") or ""
        if name:
            faults.invalid_all(f"{here}.name", name, names.dns_label(name))
        if name in taken:
            faults.duplicate(f"{here}.name", name)
        taken.add(name)
        if port.get("protocol") is None:
            faults.required(f"{here}.protocol")
        elif port["protocol"] not in PROTOCOLS:
            faults.not_supported(f"{here}.protocol", port["protocol"], PROTOCOLS)
        _check_app_protocol(port, here, faults)


def _check_endpoint(endpoint: dict[str, Any], kind: str, path: str, faults: Faults) -> None:
    here, addresses = f"{path}.addresses", endpoint.get("addresses") or []
    if not addresses:
        faults.required(here, "must contain at least 1 address")
    elif len(addresses) > _ADDRESSES_MAX:
        faults.too_many(here, len(addresses), _ADDRESSES_MAX)
    for index, address in enumerate(addresses):
        _check_slice_address(address, kind, f"{here}[{index}]", faults)
    _check_node_name(endpoint, path, faults)
    topology = endpoint.get("deprecatedTopology") or {}
    if len(topology) > _TOPOLOGY_MAX:
        faults.too_many(f"{path}.deprecatedTopology", len(topology), _TOPOLOGY_MAX)
    check_labels(topology, f"{path}.deprecatedTopology", faults)
    if (name := endpoint.get("hostname")) is not None:
        faults.invalid_all(f"{path}.hostname", name, names.dns_label(name))
    if hints := endpoint.get("hints"):
        _check_hints(hints.get("forZones") or [], f"{path}.hints.forZones", faults)
        _check_hints(hints.get("forNodes") or [], f"{path}.hints.forNodes", faults)


def _check_slice_address(address: str, kind: str, path: str, faults: Faults) -> None:
    if kind == "FQDN":
        check_fully_qualified_domain(address, path, faults)
    elif kind in ("IPv4", "IPv6"):
        if found := ip_forms.address(address):
            faults.invalid_all(path, address, found)
            return
        if ip_forms.family(address) != int(kind[-1]):
            faults.invalid(path, address, f"must be an {kind} address")
        check_unspecial_address(address, path, faults)


def _check_hints(hints: list[dict[str, Any]], path: str, faults: Faults) -> None:
    if len(hints) > _HINTS_MAX:
        faults.too_many(path, len(hints), _HINTS_MAX)
        return
    check = names.label_value if path.endswith("forZones") else names.dns_subdomain
    taken: set[str] = set()
    for index, hint in enumerate(hints):
        here, name = f"{path}[{index}].name", hint.get("name") or ""
        if name in taken:
            faults.duplicate(here, name)
        taken.add(name)
        faults.invalid_all(here, name, check(name))


def check_endpoint_slice_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a slice keeps its kind of addresses."""
    faults.unchanged("addressType", new.get("addressType"), old.get("addressType"))
