"""NetworkPolicy's meaning, case by case: objects in, packets judged by the very rules that nft would load."""

from __future__ import annotations

from typing import Any

import pytest

from control.api.meta import Object
from net.policy.apply import PolicyApplier
from net.policy.model import parse_pod, parse_policy
from net.policy.plan import PolicyBook
from tests.fakes.fake_policy_table import FakePolicyTable, Packet

NODE = "n1"
NAMESPACES = {"default": {"team": "a"}, "other": {"team": "b"}, "third": {"team": "b", "tier": "x"}}


def pod(
    name: str, address: str | tuple[str, ...], namespace: str = "default", node: str = NODE, **options: Any
) -> Object:
    addresses = (address,) if isinstance(address, str) else address
    ports = [
        {"name": port_name, "containerPort": number, "protocol": protocol}
        for port_name, number, protocol in options.pop("ports", ())
    ]
    return {
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{namespace}-{name}", "labels": options.pop("labels", {"app": name})},
        "spec": {"nodeName": node, "containers": [{"ports": ports}], **options.pop("spec", {})},
        "status": {"phase": options.pop("phase", "Running"), "podIPs": [{"ip": one} for one in addresses]},
    }  # fmt: skip


PODS = (
    pod("web", ("10.0.0.1", "fd00::1"), ports=[("http", 8080, "TCP"), ("dns", 53, "UDP")]),
    pod("db", ("10.0.0.2", "fd00::2"), ports=[("http", 9090, "TCP"), ("assoc", 3868, "SCTP")]),
    pod("far", ("10.0.1.1", "fd00:1::1"), node="n2"),
    pod("web", ("10.0.0.3", "fd00::3"), namespace="other"),
    pod("db", ("10.0.1.4", "fd00:1::4"), namespace="third", node="n2", ports=[("http", 7070, "TCP")]),
    pod("host", "192.168.0.5", spec={"hostNetwork": True}, labels={"app": "db"}),
    pod("done", "10.0.0.9", phase="Succeeded", labels={"app": "db"}),
)


def policy(spec: Object, name: str = "p", namespace: str = "default") -> Object:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


async def judged(policies: list[Object], pods: tuple[Object, ...] = PODS) -> FakePolicyTable:
    book, table = PolicyBook(NODE), FakePolicyTable()
    for name, labels in NAMESPACES.items():
        book.namespace_changed(name, labels)
    for one in pods:
        book.pod_changed(f"{one['metadata']['namespace']}/{one['metadata']['name']}", parse_pod(one))
    for one in policies:
        found = parse_policy(one)
        book.policy_changed(found.key, found)
    await PolicyApplier(book, table).sync()
    return table


def app(name: str) -> Object:
    return {"matchLabels": {"app": name}}


def to_web(**rule: Any) -> Object:
    return policy({"podSelector": app("web"), "ingress": [rule]})


def from_web(**rule: Any) -> Object:
    return policy({"podSelector": app("web"), "policyTypes": ["Egress"], "egress": [rule]})


DENY_IN = policy({"podSelector": {}, "policyTypes": ["Ingress"]})
DENY_OUT = policy({"podSelector": {}, "policyTypes": ["Egress"]})
WEB, DB, FAR, OTHER, THIRD, WORLD = "10.0.0.1", "10.0.0.2", "10.0.1.1", "10.0.0.3", "10.0.1.4", "203.0.113.9"
WEB_6, DB_6, FAR_6, OTHER_6, WORLD_6 = "fd00::1", "fd00::2", "fd00:1::1", "fd00::3", "2001:db8::9"
BLOCK = {"ipBlock": {"cidr": "203.0.113.0/24", "except": ["203.0.113.8/29"]}}
BLOCK_6 = {"ipBlock": {"cidr": "2001:db8::/32", "except": ["2001:db8::8/125"]}}


def tcp(*ports: Object | int) -> list[Object]:
    return [{"port": one} if isinstance(one, int) else one for one in ports]


CASES: dict[str, tuple[list[Object], Packet, bool]] = {
    "no policy": ([], Packet(FAR, WEB), True),
    "default deny in": ([DENY_IN], Packet(FAR, WEB), False),
    "default deny in, v6": ([DENY_IN], Packet(FAR_6, WEB_6), False),
    "default deny in leaves out": ([DENY_IN], Packet(WEB, WORLD), True),
    "default deny in, a pod of the same node": ([DENY_IN], Packet(DB, WEB), False),
    "default deny in, other namespace": ([DENY_IN], Packet(FAR, OTHER), True),
    "default deny in, ping": ([DENY_IN], Packet(FAR, WEB, "icmp"), False),
    "default deny in, itself": ([DENY_IN, DENY_OUT], Packet(WEB, WEB), True),
    "default deny in, itself, v6": ([DENY_IN, DENY_OUT], Packet(WEB_6, WEB_6), True),
    "default deny in, a reply": ([DENY_IN], Packet(FAR, WEB, is_reply=True), True),
    "default deny in, hostNetwork": ([DENY_IN], Packet(FAR, "192.168.0.5"), True),
    "default deny out": ([DENY_OUT], Packet(WEB, WORLD), False),
    "default deny out, v6": ([DENY_OUT], Packet(WEB_6, WORLD_6), False),
    "default deny out leaves in": ([DENY_OUT], Packet(WORLD, WEB), True),
    "default deny out, hostNetwork": ([DENY_OUT], Packet("192.168.0.5", WORLD), True),
    "out is judged before in": ([DENY_OUT, to_web()], Packet(DB, WEB), False),
    "who may leave must be let in, too": ([from_web(), policy({"podSelector": app("db")}, "q")], Packet(WEB, DB), False),
    "an empty list of rules denies": ([policy({"podSelector": {}, "ingress": []})], Packet(FAR, WEB), False),
    "a rule without anything allows all": ([to_web()], Packet(WORLD, WEB, "icmp"), True),
    "an empty list of peers means anybody": ([to_web(**{"from": []})], Packet(WORLD_6, WEB_6), True),
    "an empty list of ports means all": ([to_web(**{"from": [BLOCK], "ports": []})], Packet("203.0.113.1", WEB, "sctp"), True),
    "types: egress rules alone imply both": ([policy({"podSelector": {}, "egress": [{}]})], Packet(FAR, WEB), False),
    "types: no egress rules imply ingress alone": ([policy({"podSelector": {}})], Packet(WEB, WORLD), True),
    "types: rules of a type that is not named are ignored": (
        [policy({"podSelector": app("web"), "policyTypes": ["Egress"], "ingress": []})], Packet(FAR, WEB), True),
    "pods of the policy's namespace": ([to_web(**{"from": [{"podSelector": app("db")}]})], Packet(DB, WEB), True),
    "pods of the policy's namespace, v6": ([to_web(**{"from": [{"podSelector": app("db")}]})], Packet(DB_6, WEB_6), True),
    "not pods of another namespace": ([to_web(**{"from": [{"podSelector": app("db")}]})], Packet(THIRD, WEB), False),
    "an empty podSelector: all of the namespace": ([to_web(**{"from": [{"podSelector": {}}]})], Packet(FAR, WEB), True),
    "an empty podSelector: nobody else": ([to_web(**{"from": [{"podSelector": {}}]})], Packet(OTHER, WEB), False),
    "a namespaceSelector": ([to_web(**{"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}}}]})], Packet(OTHER, WEB), True),
    "a namespaceSelector: not the own": ([to_web(**{"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}}}]})], Packet(DB, WEB), False),
    "an empty namespaceSelector: all pods": ([to_web(**{"from": [{"namespaceSelector": {}}]})], Packet(THIRD, WEB), True),
    "an empty namespaceSelector: pods alone": ([to_web(**{"from": [{"namespaceSelector": {}}]})], Packet(WORLD, WEB), False),
    "both selectors, both hold": (
        [to_web(**{"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}}, "podSelector": app("db")}]})], Packet(THIRD, WEB), True),
    "both selectors, one holds": (
        [to_web(**{"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}}, "podSelector": app("db")}]})], Packet(OTHER, WEB), False),
    "expressions": (
        [to_web(**{"from": [{"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["far"]}]}}]})], Packet(FAR, WEB), False),
    "expressions, another": (
        [to_web(**{"from": [{"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["far"]}]}}]})], Packet(DB, WEB), True),
    "hostNetwork pods are not meant by selectors": ([to_web(**{"from": [{"podSelector": app("db")}]})], Packet("192.168.0.5", WEB), False),
    "finished pods are not meant by selectors": ([to_web(**{"from": [{"podSelector": app("db")}]})], Packet("10.0.0.9", WEB), False),
    "finished pods are not isolated": ([DENY_IN], Packet(FAR, "10.0.0.9"), True),
    "a block": ([to_web(**{"from": [BLOCK]})], Packet("203.0.113.1", WEB), True),
    "a block less its exception": ([to_web(**{"from": [BLOCK]})], Packet(WORLD, WEB), False),
    "a block, v6": ([to_web(**{"from": [BLOCK_6]})], Packet("2001:db8::1", WEB_6), True),
    "a block less its exception, v6": ([to_web(**{"from": [BLOCK_6]})], Packet(WORLD_6, WEB_6), False),
    "an exception of one block, within another": ([to_web(**{"from": [BLOCK, {"ipBlock": {"cidr": WORLD + "/32"}}]})], Packet(WORLD, WEB), True),
    "a block of all, v4": ([to_web(**{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]})], Packet(WORLD, WEB), True),
    "a block of all v4 is not v6": ([to_web(**{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]})], Packet(WORLD_6, WEB_6), False),
    "a block with host bits": ([to_web(**{"from": [{"ipBlock": {"cidr": "203.0.113.77/24"}}]})], Packet(WORLD, WEB), True),
    "a block out": ([from_web(to=[BLOCK])], Packet(WEB, "203.0.113.1"), True),
    "a block out less its exception": ([from_web(to=[BLOCK])], Packet(WEB, WORLD), False),
    "a port": ([to_web(ports=tcp(80))], Packet(WORLD, WEB, port=80), True),
    "another port": ([to_web(ports=tcp(80))], Packet(WORLD, WEB, port=81), False),
    "another protocol": ([to_web(ports=tcp(80))], Packet(WORLD, WEB, "udp", 80), False),
    "udp": ([to_web(ports=[{"port": 53, "protocol": "UDP"}])], Packet(WORLD, WEB, "udp", 53), True),
    "sctp": ([to_web(ports=[{"port": 3868, "protocol": "SCTP"}])], Packet(WORLD, WEB, "sctp", 3868), True),
    "sctp is not tcp": ([to_web(ports=[{"port": 3868, "protocol": "SCTP"}])], Packet(WORLD, WEB, "tcp", 3868), False),
    "a protocol alone": ([to_web(ports=[{"protocol": "UDP"}])], Packet(WORLD, WEB, "udp", 9), True),
    "a protocol alone, not another": ([to_web(ports=[{"protocol": "UDP"}])], Packet(WORLD, WEB, "tcp", 9), False),
    "endPort, first": ([to_web(ports=tcp({"port": 32000, "endPort": 32768}))], Packet(WORLD, WEB, port=32000), True),
    "endPort, last": ([to_web(ports=tcp({"port": 32000, "endPort": 32768}))], Packet(WORLD, WEB, port=32768), True),
    "endPort, behind": ([to_web(ports=tcp({"port": 32000, "endPort": 32768}))], Packet(WORLD, WEB, port=32769), False),
    "a named port in": ([to_web(ports=[{"port": "http"}])], Packet(WORLD, WEB, port=8080), True),
    "a named port in, v6": ([to_web(ports=[{"port": "http"}])], Packet(WORLD_6, WEB_6, port=8080), True),
    "a named port in, another pod's number": ([to_web(ports=[{"port": "http"}])], Packet(WORLD, WEB, port=9090), False),
    "a named port of another protocol": ([to_web(ports=[{"port": "dns"}])], Packet(WORLD, WEB, port=53), False),
    "a named port that nobody has": ([to_web(ports=[{"port": "none"}])], Packet(WORLD, WEB, port=80), False),
    "a named port, of one policy each pod its number": (
        [policy({"podSelector": {}, "ingress": [{"ports": [{"port": "http"}]}]})], Packet(FAR, DB, port=9090), True),
    "a named port out": ([from_web(to=[{"namespaceSelector": {}}], ports=[{"port": "http"}])], Packet(WEB, THIRD, port=7070), True),
    "a named port out, another pod's number": ([from_web(to=[{"namespaceSelector": {}}], ports=[{"port": "http"}])], Packet(WEB, DB, port=7070), False),
    "a named port out, to anybody": ([from_web(ports=[{"port": "assoc", "protocol": "SCTP"}])], Packet(WEB, DB, "sctp", 3868), True),
    "peers and ports must both hold": ([to_web(**{"from": [{"podSelector": app("db")}], "ports": tcp(80)})], Packet(DB, WEB, port=81), False),
    "two rules do not mix": (
        [policy({"podSelector": app("web"), "ingress": [{"from": [{"podSelector": app("db")}], "ports": tcp(80)}, {"from": [{"podSelector": app("far")}], "ports": tcp(81)}]})],
        Packet(DB, WEB, port=81), False),
    "two policies: the union": (
        [DENY_IN, policy({"podSelector": app("web"), "ingress": [{"ports": tcp(80)}]}, "q"), policy({"podSelector": {}, "ingress": [{"ports": tcp(81)}]}, "r")],
        Packet(WORLD, WEB, port=81), True),
    "two policies: not more": (
        [DENY_IN, policy({"podSelector": app("web"), "ingress": [{"ports": tcp(80)}]}, "q")], Packet(WORLD, DB, port=80), False),
    "egress to a pod": ([from_web(to=[{"podSelector": app("db")}])], Packet(WEB, DB), True),
    "egress to another pod": ([from_web(to=[{"podSelector": app("db")}])], Packet(WEB, FAR), False),
    "a bad block allows nothing": ([to_web(**{"from": [{"ipBlock": {"cidr": "10.0.0.0/99"}}]})], Packet(FAR, WEB), False),
    "a bad block leaves its neighbours": ([to_web(**{"from": [{"ipBlock": {"cidr": "x"}}, {"podSelector": app("far")}]})], Packet(FAR, WEB), True),
    "a bad port allows nothing": ([to_web(ports=[{"port": 9, "endPort": 8}])], Packet(FAR, WEB, port=9), False),
    "an empty peer means nobody": ([to_web(**{"from": [{}]})], Packet(FAR, WEB), False),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
async def test_packets_are_judged(name: str) -> None:
    policies, packet, passes = CASES[name]
    named = [
        {**one, "metadata": {**one["metadata"], "name": f"{one['metadata']['name']}{number}"}}
        for number, one in enumerate(policies)
    ]
    table = await judged(named)
    assert table.passes(packet) is passes


async def test_a_node_without_isolated_pods_has_no_table() -> None:
    elsewhere = policy({"podSelector": app("far"), "policyTypes": ["Ingress"]})
    table = await judged([elsewhere])
    assert not table.writes


async def test_scopes_are_shared_and_those_not_in_use_have_no_set() -> None:
    one = to_web(**{"from": [{"podSelector": app("db")}]})
    same = policy({"podSelector": app("db"), "ingress": [{"from": [{"podSelector": app("db")}]}]}, "same")
    unused = policy({"podSelector": app("far"), "ingress": [{"from": [{"podSelector": app("web")}]}]}, "unused")
    table = await judged([one, same, unused])
    assert sorted(name.split("-")[1] for name in table.elements if name.startswith("pods-")) == ["4", "6"]


async def test_names_and_comments_cannot_break_out() -> None:
    sly = policy(
        {"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"a": '"; } drop\n'}}}]}]}, 'x"; flush ruleset\n'
    )  # fmt: skip
    table = await judged([sly])
    assert all("flush ruleset" not in text and '""' not in text for text in table.loads)
    assert not table.passes(Packet(FAR, WEB))
