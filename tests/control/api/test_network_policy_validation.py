"""NetworkPolicy's validation, in Kubernetes' words."""

from __future__ import annotations

from typing import Any

import pytest

from control.api.decode import clean
from control.api.defaulting import apply_defaults
from control.api.resources import by_plural
from control.api.validation.objects import validate

CIDR = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
SUBSET = "must be a strict subset of `cidr`"
RANGE = "must be between 1 and 65535, inclusive"


def faults_of(spec: dict[str, Any]) -> list[str]:
    served = by_plural("networking.k8s.io", "v1", "networkpolicies")
    assert served is not None
    obj = {"metadata": {"name": "x", "namespace": "default"}, "spec": {"podSelector": {}, **spec}}
    kept, unknown = clean(obj, served.definition)
    assert not unknown
    apply_defaults(kept, served.definition)
    return [f"{cause.field}: {cause.message}" for cause in validate(served.resource, kept)]


def port(**fields: Any) -> dict[str, Any]:
    return {"ingress": [{"ports": [fields]}]}


def block(cidr: str, *excepted: str) -> dict[str, Any]:
    return {"egress": [{"to": [{"ipBlock": {"cidr": cidr, "except": list(excepted)}}]}]}


GOOD: dict[str, dict[str, Any]] = {
    "nothing but a selector": {},
    "deny all": {"policyTypes": ["Ingress", "Egress"], "ingress": [], "egress": []},
    "an empty rule": {"ingress": [{}]},
    "a port without a protocol": port(port=80),
    "a protocol without a port": port(protocol="SCTP"),
    "a named port": port(port="http", protocol="TCP"),
    "endPort at the port": port(port=80, endPort=80),
    "both selectors": {"ingress": [{"from": [{"podSelector": {}, "namespaceSelector": {}}]}]},
    "a block with exceptions": block("10.0.0.0/8", "10.1.0.0/16", "10.2.3.4/32"),
    "a block of IPv6": block("2001:db8::/32", "2001:db8:1::/48"),
    "a block with an exception of one address": block("10.0.0.0/24", "10.0.0.7/32"),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_right_passes(name: str) -> None:
    assert faults_of(GOOD[name]) == []


PORT = "spec.ingress[0].ports[0]"
BLOCK = "spec.egress[0].to[0].ipBlock"
BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "protocol": (port(protocol="ICMP"), [f'{PORT}.protocol: Unsupported value: "ICMP": supported values: "TCP", "UDP", "SCTP"']),
    "port 0": (port(port=0), [f"{PORT}.port: Invalid value: 0: {RANGE}"]),
    "endPort below the port": (
        port(port=80, endPort=79), [f"{PORT}.endPort: Invalid value: 80: must be greater than or equal to `port`"]),
    "endPort beyond": (port(port=80, endPort=70000), [f"{PORT}.endPort: Invalid value: 70000: {RANGE}"]),
    "endPort with a name": (
        port(port="http", endPort=90), [f"{PORT}.endPort: Invalid value: 90: may not be specified when `port` is non-numeric"]),
    "endPort alone": (port(endPort=90), [f"{PORT}.endPort: Invalid value: 90: may not be specified when `port` is not specified"]),
    "no CIDR": (block(""), [f"{BLOCK}.cidr: Required value"]),
    "not a CIDR": (block("10.0.0.1"), [f'{BLOCK}.cidr: Invalid value: "10.0.0.1": {CIDR}']),
    "a netmask": (block("10.0.0.0/255.0.0.0"), [f'{BLOCK}.cidr: Invalid value: "10.0.0.0/255.0.0.0": {CIDR}']),
    "bits of a host": (block("10.0.0.7/24"), [f'{BLOCK}.cidr: Invalid value: "10.0.0.7/24": must not have bits set beyond the prefix length']),
    "zeros in front": (
        block("010.0.0.0/8", "10.0.0.0/016"),
        [f'{BLOCK}.cidr: Invalid value: "010.0.0.0/8": must not have leading 0s in IP or prefix length',
         f'{BLOCK}.except[0]: Invalid value: "10.0.0.0/016": must not have leading 0s in IP or prefix length']),
    "IPv4 within IPv6": (
        block("::ffff:10.0.0.0/104"), [f'{BLOCK}.cidr: Invalid value: "::ffff:10.0.0.0/104": must not have an IPv4-mapped IPv6 address']),
    "an exception that is none": (block("10.0.0.0/8", "x"), [f'{BLOCK}.except[0]: Invalid value: "x": {CIDR}']),
    "an exception outside": (block("10.0.0.0/8", "11.0.0.0/16"), [f'{BLOCK}.except[0]: Invalid value: "11.0.0.0/16": {SUBSET}']),
    "an exception of all": (block("10.0.0.0/8", "10.0.0.0/8"), [f'{BLOCK}.except[0]: Invalid value: "10.0.0.0/8": {SUBSET}']),
    "an exception of another version": (block("0.0.0.0/0", "::/96"), [f'{BLOCK}.except[0]: Invalid value: "::/96": {SUBSET}']),
    "a peer of nothing": ({"ingress": [{"from": [{}]}]}, ["spec.ingress[0].from[0]: Required value: must specify a peer"]),
    "a block beside a selector": (
        {"ingress": [{"from": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]}]},
        ["spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer"]),
    "a wrong block beside a selector": (
        {"ingress": [{"from": [{"podSelector": {}, "ipBlock": {}}]}]},
        ["spec.ingress[0].from[0].ipBlock.cidr: Required value",
         "spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer"]),
    "three types": (
        {"policyTypes": ["Ingress", "Egress", "Other"]},
        ['spec.policyTypes: Invalid value: ["Ingress","Egress","Other"]: may not specify more than two policyTypes']),
    "a type": ({"policyTypes": ["In"]}, ['spec.policyTypes[0]: Unsupported value: "In": supported values: "Ingress", "Egress"']),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_told_in_kubernetes_words(name: str) -> None:
    spec, wanted = BAD[name]
    assert faults_of(spec) == wanted
