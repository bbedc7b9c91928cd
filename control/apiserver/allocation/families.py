"""Which IP families a Service has: what its fields say, what the cluster has, and what Kubernetes makes of both. Pure.

A Service says it by three fields, each of which may be left out: ipFamilyPolicy (SingleStack, PreferDualStack,
RequireDualStack), ipFamilies and clusterIPs. What is left out follows from the rest, else from the cluster: its first
--service-cluster-ip-range gives the default family. Nothing turns into two families, or back, without being asked to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any

from control.api.meta import Object
from control.api.status import Cause
from control.api.validation import ip_forms
from control.api.validation.faults import Faults

NONE = "None"
SINGLE, PREFER, REQUIRE = "SingleStack", "PreferDualStack", "RequireDualStack"
FAMILIES = ("IPv4", "IPv6")
_WITH_ADDRESSES = ("ClusterIP", "NodePort", "LoadBalancer")
_POLICY = "spec.ipFamilyPolicy"


def family_of(address: str) -> str:
    """Return the family of an address."""
    return "IPv6" if ":" in address else "IPv4"


def settle(new: Object, old: Object | None, configured: Sequence[str]) -> list[Cause]:
    """Complete the families of a Service that is no alias; return what is wrong, in upstream's words.

    `configured` are the families of the cluster, the default one first.
    """
    spec, before = new["spec"], (old or {}).get("spec") or {}
    if _still_prefers_both(spec, before):
        return []
    selectorless = spec.get("clusterIP") == NONE and not spec.get("selector")
    if not spec.get("ipFamilyPolicy"):
        spec["ipFamilyPolicy"] = before.get("ipFamilyPolicy") or (REQUIRE if selectorless else SINGLE)
    checks: tuple[Callable[[Faults], None], ...] = (
        lambda faults: _check_fields(spec, faults),
        lambda faults: _check_policy(spec, before, configured, faults),
    )
    for check in checks:
        faults = Faults()
        check(faults)
        if faults:
            return faults.causes
    if selectorless:
        # Somebody else makes the endpoints, of whatever family.
        families = spec["ipFamilies"] = spec.get("ipFamilies") or [configured[0]]
        if len(families) < 2 and spec["ipFamilyPolicy"] != SINGLE:
            families.append(_other(families[0]))
        return []
    return _settle_with_cluster(spec, configured)


def _settle_with_cluster(spec: dict[str, Any], configured: Sequence[str]) -> list[Cause]:
    faults = Faults()
    policy = spec["ipFamilyPolicy"]
    if policy == REQUIRE and len(configured) < 2:
        faults.invalid(_POLICY, policy, "this cluster is not configured for dual-stack services")
    for index, family in enumerate(spec.get("ipFamilies") or ()):
        if family not in configured:
            faults.invalid(f"spec.ipFamilies[{index}]", family, "not configured on this cluster")
    if faults:
        return faults.causes
    families = spec["ipFamilies"] = spec.get("ipFamilies") or [configured[0]]
    if policy != SINGLE and len(families) == 1 and len(configured) == 2:
        families.append(_other(families[0]))
    return []


def _other(family: str) -> str:
    return FAMILIES[family == FAMILIES[0]]


def _still_prefers_both(spec: dict[str, Any], before: dict[str, Any]) -> bool:
    """Tell whether an update leaves a PreferDualStack Service's addresses alone: a changed cluster does, too."""
    return (
        bool(before)
        and spec.get("ipFamilyPolicy") == before.get("ipFamilyPolicy") == PREFER
        and (spec.get("type") or "ClusterIP") == (before.get("type") or "ClusterIP")
        and (spec.get("type") or "ClusterIP") in _WITH_ADDRESSES
        and _same(spec, before, "clusterIPs")
        and _same(spec, before, "ipFamilies")
    )


def _same(spec: dict[str, Any], before: dict[str, Any], field: str) -> bool:
    return (spec.get(field) or []) == (before.get(field) or [])


def _check_fields(spec: dict[str, Any], faults: Faults) -> None:
    """Check each field alone, and that they do not contradict each other."""
    addresses = spec.get("clusterIPs") or []
    families = spec.get("ipFamilies") or []
    if spec.get("clusterIP") and addresses and addresses[0] != spec["clusterIP"]:
        faults.invalid("spec.clusterIPs", addresses, "first value must match `clusterIP`")
    if addresses and not spec.get("clusterIP"):
        faults.invalid("spec.clusterIPs", addresses, "must be empty when `clusterIP` is not specified")
    for index, family in enumerate(families):
        faults.one_of(f"spec.ipFamilies[{index}]", family, list(FAMILIES))
        if family in families[:index]:
            faults.duplicate(f"spec.ipFamilies[{index}]", family)
    faults.one_of(_POLICY, spec["ipFamilyPolicy"], [PREFER, REQUIRE, SINGLE])
    if addresses[:1] == [NONE]:
        if len(addresses) > 1:
            faults.invalid("spec.clusterIPs", addresses, "'None' must be the first and only value")
        return
    wrong = {index: ip_forms.address(address) for index, address in enumerate(addresses)}
    for index, details in wrong.items():
        faults.invalid_all(f"spec.clusterIPs[{index}]", addresses[index], details)
    if len(addresses) > 2:
        faults.invalid("spec.clusterIPs", addresses, "may only hold up to 2 values")
    if any(wrong.values()):
        return
    if len(addresses) != len({family_of(address) for address in addresses}):
        faults.invalid("spec.clusterIPs", addresses, "may specify no more than one IP for each IP family")
    for index, (address, family) in enumerate(zip(addresses, families, strict=False)):
        if family in FAMILIES and family_of(address) != family:
            text = f"expected an {family} value as indicated by `ipFamilies[{index}]`"
            faults.invalid(f"spec.clusterIPs[{index}]", address, text)


def _check_policy(spec: dict[str, Any], before: dict[str, Any], configured: Sequence[str], faults: Faults) -> None:
    """Check that policy, families and addresses go together; infer families from addresses."""
    policy = spec["ipFamilyPolicy"]
    plurals = (("clusterIPs", "cluster IP", "cluster IPs"), ("ipFamilies", "IP family", "IP families"))
    for field, singular, plural in plurals:
        if before and policy == SINGLE and _same(spec, before, field):
            spec[field] = (spec.get(field) or [])[:1]
        elif before and policy != SINGLE and _is_reduced(spec, before, field):
            faults.invalid(_POLICY, policy, f"must be 'SingleStack' to release the secondary {singular}")
        if policy == SINGLE and len(spec.get(field) or ()) == 2:
            text = f"must be 'RequireDualStack' or 'PreferDualStack' when multiple {plural} are specified"
            faults.invalid(_POLICY, policy, text)
    addresses = spec.get("clusterIPs") or []
    families = list(spec.get("ipFamilies") or ())
    for index, address in enumerate(addresses):
        if address == NONE:
            break
        if index >= len(families):
            family = family_of(address)
            if family in configured:
                families.append(family)
            else:
                text = f"{family} is not configured on this cluster"
                faults.invalid(f"spec.clusterIPs[{index}]", addresses, text)
    spec["ipFamilies"] = families


def _is_reduced(spec: dict[str, Any], before: dict[str, Any], field: str) -> bool:
    """Tell whether an update takes the second value away and leaves the first one."""
    now, was = spec.get(field) or [], before.get(field) or []
    return len(was) == 2 and len(now) == 1 and now[0] == was[0]


def canonical(address: str) -> str:
    """Return an address in the spelling that names its IPAddress object."""
    return str(ip_address(address))
