"""What NetworkPolicies do to a packet, in sentences."""

from __future__ import annotations

from typing import Any

import pytest

from control.api.meta import Object
from net.explain.policies import PolicyJudge
from net.explain.steps import Explanation
from tests.net.explaining import client, cluster, explained, pod, service, slice_of


def policy(name: str, selector: dict[str, str], namespace: str = "default", **spec: Any) -> Object:
    """Return a NetworkPolicy for the pods of some labels."""
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": {"matchLabels": selector}, **spec},
    }


def ingress(*peers: dict[str, Any], ports: list[Any] | None = None) -> dict[str, Any]:
    """Return the spec of a policy with one rule of ingress."""
    rule: dict[str, Any] = {"from": list(peers)} if peers else {}
    return {"policyTypes": ["Ingress"], "ingress": [rule | ({"ports": ports} if ports else {})]}


def egress(*peers: dict[str, Any], ports: list[Any] | None = None) -> dict[str, Any]:
    """Return the spec of a policy with one rule of egress."""
    rule: dict[str, Any] = {"to": list(peers)} if peers else {}
    return {"policyTypes": ["Egress"], "egress": [rule | ({"ports": ports} if ports else {})]}


DENY_IN: dict[str, Any] = {"policyTypes": ["Ingress"]}
DENY_OUT: dict[str, Any] = {"policyTypes": ["Egress"]}
WEB, CLIENT = {"app": "web"}, {"app": "client"}


def ask(*policies: Object, source: str = "client", target: str = "web", server_node: str = "n2") -> Explanation:
    server = pod("web-1", "10.244.2.7" if server_node == "n2" else "10.244.1.7", server_node, app="web")
    web = service("web", "10.96.0.1", type="NodePort", ports=[{"name": "http", "port": 80, "nodePort": 30080}])
    hub = cluster(client(app="client"), server, web, slice_of(web, [server]), *policies)
    return explained(hub, source, target, judge=PolicyJudge(hub))


@pytest.mark.parametrize(
    ("policies", "sentence"),
    [
        pytest.param(
            [policy("deny", WEB, **DENY_IN)],
            "NetworkPolicy default/deny isolates pod default/web-1 for ingress, and it does not allow TCP port 8080 from "
            "pod default/client (10.244.1.2).", id="default deny ingress",
        ),
        pytest.param(
            [policy("deny", CLIENT, **DENY_OUT)],
            "NetworkPolicy default/deny isolates pod default/client for egress, and it does not allow TCP port 8080 to "
            "pod default/web-1 (10.244.2.7).", id="default deny egress",
        ),
        pytest.param(
            [policy("deny", WEB, **DENY_IN), policy("other", WEB, **ingress({"podSelector": {"matchLabels": WEB}}))],
            "NetworkPolicy default/deny and default/other isolate pod default/web-1 for ingress, and none of them allows "
            "TCP port 8080 from pod default/client (10.244.1.2) (default/other allows that port, but only from other peers)",
            id="other peers",
        ),
        pytest.param(
            [policy("ports", WEB, **ingress({"podSelector": {"matchLabels": CLIENT}}, ports=[{"port": 80}]))],
            "(default/ports allows that peer, but only at TCP 80)", id="the Service's port instead of the pod's",
        ),
        pytest.param(
            [policy("udp", WEB, **ingress(ports=[{"protocol": "UDP", "port": 8080}]))],
            "(default/udp allows that peer, but only at UDP 8080)", id="other protocol",
        ),
        pytest.param(
            [policy("block", WEB, **ingress({"ipBlock": {"cidr": "10.244.0.0/16", "except": ["10.244.1.0/24"]}}))],
            "does not allow TCP port 8080 from pod default/client", id="excepted block",
        ),
    ],
)  # fmt: skip
def test_a_denied_packet_is_told_by_which_policy(policies: list[Object], sentence: str) -> None:
    for server_node in ("n1", "n2"):
        found = ask(*policies, server_node=server_node)
        if "10.244.2.7" not in sentence or server_node == "n2":
            assert sentence in found.why


@pytest.mark.parametrize(
    "allowing",
    [
        pytest.param(ingress({"podSelector": {"matchLabels": CLIENT}}), id="by label"),
        pytest.param(ingress({"namespaceSelector": {}}), id="by namespace"),
        pytest.param(ingress(ports=[{"port": "http"}]), id="named port"),
        pytest.param(ingress(ports=[{"port": 8000, "endPort": 8100}]), id="range of ports"),
        pytest.param(ingress({"ipBlock": {"cidr": "10.244.1.0/24"}}), id="block"),
    ],
)
def test_one_policy_that_allows_is_enough_and_is_named(allowing: dict[str, Any]) -> None:
    found = ask(policy("deny", WEB, **DENY_IN), policy("allow", WEB, **allowing))
    assert found.why == ""
    owners = [step.owner for step in found.every_step() if step.hook == "forward" and step.place.node == "n2"]
    assert owners == ["NetworkPolicy default/allow"]


def test_behaviour_46_the_nodes_own_packets_are_not_judged_and_masqueraded_ones_as_their_nodes() -> None:
    deny = policy("deny", WEB, **DENY_IN)
    assert ask(deny, source="n2").reachable
    assert "from 192.168.77.11" in ask(deny, source="n1").why
    # A node port of n1 masquerades: the policy at n2 sees n1.
    node_1 = policy("nodes", WEB, **ingress({"ipBlock": {"cidr": "192.168.77.11/32"}}))
    assert ask(node_1, source="198.51.100.9", target="n1:30080").reachable
    assert not ask(node_1, source="198.51.100.9", target="n2:30080").reachable


def test_a_pod_always_reaches_itself() -> None:
    deny = [policy("in", WEB, **DENY_IN), policy("out", WEB, **DENY_OUT)]
    assert ask(*deny, source="web-1", target="web").reachable


def test_the_chains_and_elements_of_a_judgement_are_those_of_the_plan() -> None:
    found = ask(policy("deny", WEB, **DENY_IN))
    step = next(step for step in found.every_step() if step.stops)
    names = [str(thing) for thing in step.things]
    assert names[0].startswith("inet raftsman-policy ingress-4 { 10.244.2.7 : goto ingress-profile-")
    assert any("chain inet raftsman-policy ingress/default/deny-" in name for name in names)
