"""Rules of network policies, of addresses that are taken and of the ranges that services take theirs from."""

from __future__ import annotations

from typing import Any

from control.api.meta import Object
from control.api.validation import ip_forms, names
from control.api.validation.faults import IMMUTABLE, Faults
from control.api.validation.forms import check_object_reference
from control.api.validation.internal import internal
from control.api.validation.metadata import check_selector
from control.api.validation.probes import check_port_or_name

_PROTOCOLS = ("TCP", "UDP", "SCTP")
_FAMILIES = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"


def check_ip_address(obj: Object, faults: Faults) -> None:
    """Check an IPAddress."""
    parent = (obj.get("spec") or {}).get("parentRef")
    path = "spec.parentRef"
    if parent is None:
        faults.required(path)
        return
    if group := parent.get("group"):
        faults.invalid_all(f"{path}.group", group, names.dns_subdomain(group))
    check_object_reference(parent, path, faults, ("resource", "name"))
    if namespace := parent.get("namespace"):
        faults.invalid_all(f"{path}.namespace", namespace, names.path_segment(namespace))


def check_ip_address_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that an address keeps its holder."""
    now, was = ((obj.get("spec") or {}).get("parentRef") for obj in (new, old))
    if now != was:
        faults.invalid("spec.parentRef", internal("networking.v1.ParentReference", now), IMMUTABLE)


def check_service_cidr(obj: Object, faults: Faults) -> None:
    """Check a ServiceCIDR: one range, or one of each family."""
    spec = obj.get("spec") or {}
    cidrs = spec.get("cidrs") or []
    if not cidrs:
        faults.required("spec.cidrs", "at least one CIDR required")
        return
    if len(cidrs) > 2:
        faults.invalid("spec.cidrs", internal("networking.v1.ServiceCIDRSpec", spec), "may only hold up to 2 values")
        return
    for index, cidr in enumerate(cidrs):
        faults.invalid_all(f"spec.cidrs[{index}]", cidr, ip_forms.canonical_cidr(cidr))
    families = [ip_forms.family(cidr) for cidr in cidrs]
    if len(cidrs) == 2 and families[0] == families[1] != 0:
        faults.invalid("spec.cidrs", cidrs, _FAMILIES)


def check_service_cidr_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that ranges stay; one of the other family may be added."""
    now, was = ((obj.get("spec") or {}).get("cidrs") or [] for obj in (new, old))
    if len(now) != len(was) and (len(now), len(was)) != (2, 1):
        faults.invalid("spec.cidrs", now, IMMUTABLE)
        return
    for index, (cidr, before) in enumerate(zip(now, was, strict=False)):
        faults.unchanged(f"spec.cidrs[{index}]", cidr, before)
    if len(now) != len(was):
        check_service_cidr(new, faults)


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
        return
    for index, kind in enumerate(kinds):
        if kind not in ("Ingress", "Egress"):
            faults.not_supported(f"spec.policyTypes[{index}]", kind, ["Ingress", "Egress"])


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
    if block is not None:
        _check_block(block, f"{path}.ipBlock", faults)
    if not given and block is None:
        faults.required(path, "must specify a peer")
    elif given and block is not None:
        faults.forbidden(path, "may not specify both ipBlock and another peer")


def _check_block(block: dict[str, Any], path: str, faults: Faults) -> None:
    text = block.get("cidr") or ""
    if not text:
        faults.required(f"{path}.cidr")
        return
    faults.invalid_all(f"{path}.cidr", text, ip_forms.cidr(text))
    outer = ip_forms.parse_cidr(text)
    if outer is None:
        return
    for index, entry in enumerate(block.get("except") or []):
        here = f"{path}.except[{index}]"
        faults.invalid_all(here, entry, ip_forms.cidr(entry))
        inner = ip_forms.parse_cidr(entry)
        if inner is not None and not ip_forms.is_strictly_within(inner, outer):
            faults.invalid(here, entry, "must be a strict subset of `cidr`")
