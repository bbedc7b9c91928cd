"""Behaviour 46 with real packets: NetworkPolicy between pods, the node and the world, in both families."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from control.api.meta import Object
from tests.net.policy_packets import Cluster, Probe, wrong
from tests.net.topology import closing_all

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with closing_all() as made:
        found = Cluster(made)
        try:
            found.fill()
            yield found
        finally:
            found.close()


@pytest.fixture(autouse=True)
def _fresh(cluster: Cluster) -> None:
    cluster.apply()


def policy(spec: Object, name: str = "p", namespace: str = "default") -> Object:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


def app(name: str) -> Object:
    return {"matchLabels": {"app": name}}


def ingress(*rules: Object) -> Object:
    return policy({"podSelector": app("web"), "ingress": list(rules)})


def egress(*rules: Object) -> Object:
    return policy({"podSelector": app("web"), "policyTypes": ["Egress"], "egress": list(rules)})


DENY_IN = policy({"podSelector": {}, "policyTypes": ["Ingress"]}, "deny-in")
DENY_OUT = policy({"podSelector": {}, "policyTypes": ["Egress"]}, "deny-out")
BLOCKS = [
    {"ipBlock": {"cidr": "203.0.113.0/24", "except": ["203.0.113.8/29"]}},
    {"ipBlock": {"cidr": "2001:db8::/32", "except": ["2001:db8::8/125"]}},
]

Case = tuple[list[Object], Callable[[Cluster], list[Probe]]]
CASES: dict[str, Case] = {
    "46 no policy": ([], lambda c: [
        Probe(c.far, c.web), Probe(c.web, c.far), Probe(c.db, c.web, "udp"), Probe(c.far, c.web, "sctp"), Probe(c.node_host, c.web)]),
    "46 default deny ingress": ([DENY_IN], lambda c: [
        Probe(c.far, c.web, passes=False), Probe(c.far, c.web, "udp", passes=False), Probe(c.far, c.web, "sctp", passes=False),
        Probe(c.db, c.web, passes=False), Probe(c.web, c.far), Probe(c.web, c.guest)]),
    "46 default deny egress": ([DENY_OUT], lambda c: [
        Probe(c.web, c.far, passes=False), Probe(c.web, c.db, passes=False), Probe(c.web, c.far, "sctp", passes=False),
        Probe(c.far, c.web), Probe(c.guest, c.web)]),
    "46 the node reaches its pods, and they it": ([DENY_IN, DENY_OUT], lambda c: [
        Probe(c.node_host, c.web), Probe(c.node_host, c.db, "udp"), Probe(c.web, c.node_host), Probe(c.web, c.web)]),
    "46 hostNetwork pods are not isolated": ([DENY_IN, DENY_OUT], lambda c: [Probe(c.far, c.node_host), Probe(c.node_host, c.far)]),
    "46 pods of the same node": ([ingress({"from": [{"podSelector": app("db")}]})], lambda c: [
        Probe(c.db, c.web), Probe(c.guest, c.web, passes=False), Probe(c.far, c.web, passes=False)]),
    "46 namespace and pod selectors": (
        [ingress({"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}}, "podSelector": app("guest")}]})], lambda c: [
        Probe(c.guest, c.web), Probe(c.db, c.web, passes=False)]),
    "46 namespace selector": ([ingress({"from": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}]})], lambda c: [
        Probe(c.far, c.web), Probe(c.db, c.web), Probe(c.guest, c.web, passes=False)]),
    "46 ipBlock with except": ([ingress({"from": BLOCKS})], lambda c: [
        Probe(c.far, c.web, source_addresses=c.world), Probe(c.far, c.web, "udp", source_addresses=c.world),
        Probe(c.far, c.web, passes=False, source_addresses=c.excepted), Probe(c.far, c.web, passes=False)]),
    "46 ipBlock out": ([egress({"to": [{"ipBlock": {"cidr": "10.244.2.0/24"}}, {"ipBlock": {"cidr": "fd00:244:2::/64"}}]})], lambda c: [
        Probe(c.web, c.far), Probe(c.web, c.db, passes=False)]),
    "46 ports and endPort": ([ingress({"ports": [{"port": 80}, {"port": 8000, "endPort": 9000}]})], lambda c: [
        Probe(c.far, c.web, port=80), Probe(c.far, c.web, port=8080), Probe(c.far, c.web, port=9090, passes=False),
        Probe(c.far, c.web, "udp", port=80, passes=False)]),
    "46 sctp and udp": ([ingress({"ports": [{"port": 80, "protocol": "SCTP"}, {"port": 81, "protocol": "UDP"}]})], lambda c: [
        Probe(c.far, c.web, "sctp"), Probe(c.far, c.web, "sctp", 81, passes=False), Probe(c.far, c.web, "udp", 81),
        Probe(c.far, c.web, "udp", 80, passes=False), Probe(c.far, c.web, passes=False)]),
    "46 named port in": ([policy({"podSelector": {}, "ingress": [{"ports": [{"port": "http"}]}]})], lambda c: [
        Probe(c.far, c.web, port=8080), Probe(c.far, c.web, port=9090, passes=False),
        Probe(c.far, c.db, port=9090), Probe(c.far, c.db, port=8080, passes=False)]),
    "46 named port out": ([egress({"to": [{"namespaceSelector": {}}], "ports": [{"port": "http"}]})], lambda c: [
        Probe(c.web, c.db, port=9090), Probe(c.web, c.guest, port=9090), Probe(c.web, c.db, port=8080, passes=False)]),
    "46 who may leave must be let in": ([egress({}), policy({"podSelector": app("db")}, "closed")], lambda c: [
        Probe(c.web, c.db, passes=False), Probe(c.web, c.far)]),
    "46 several policies are a union": ([DENY_IN, ingress({"ports": [{"port": 80}]}), policy({"podSelector": {}, "ingress": [{"from": [{"podSelector": app("db")}]}]}, "q")], lambda c: [
        Probe(c.far, c.web), Probe(c.db, c.web, port=81), Probe(c.far, c.web, port=81, passes=False)]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_behaviour_46_packets(cluster: Cluster, name: str) -> None:
    policies, probes = CASES[name]
    cluster.apply(*policies)
    assert wrong(*probes(cluster)) == []
