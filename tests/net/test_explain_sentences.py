"""Situations that people meet, and the sentence that each is explained by."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest

from control.api.meta import Object
from net.announce import plan
from net.announce.config import NAMESPACE
from net.explain import parties, way, words
from net.explain.objects import Objects
from net.explain.parties import UnknownPartyError
from net.explain.steps import NodeSettings, Question, Scene
from net.explain.things import Place, Standing
from net.proxy import nftables
from net.proxy.config import ProxyConfig
from net.proxy.iptables import endpoint_chain
from tests.net.explaining import client, cluster, explained, node, nodes, pod, service, slice_of, web_pods

WEB = "10.96.0.1"


def web(pods: list[Object] | None = None, **spec: Any) -> list[Object]:
    """Return Service web with its slice, and the client."""
    pods = web_pods() if pods is None else pods
    made = service("web", WEB, **spec)
    return [client(), *pods, made, slice_of(made, pods)]


def changed(obj: Object, change: Callable[[Object], None]) -> Object:
    """Change an object in place and return it."""
    change(obj)
    return obj


def waiting(name: str, reason: str) -> Object:
    found = pod(name, "10.244.1.8", "n1", ready=False, app="web")
    found["status"]["containerStatuses"] = [{"name": "c", "ready": False, "state": {"waiting": {"reason": reason}}}]
    return found


def unbound(name: str, message: str) -> Object:
    found = pod(name, "", "", ready=False, app="web")
    found["status"] = {
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "False", "message": message}],
    }
    return found


LOCAL: dict[str, Any] = {"internalTrafficPolicy": "Local"}
OUTSIDE_LOCAL: dict[str, Any] = {
    "type": "NodePort",
    "externalTrafficPolicy": "Local",
    "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http", "nodePort": 30080}],
}
BALANCED: dict[str, Any] = {
    "type": "LoadBalancer",
    "loadBalancerSourceRanges": ["198.51.100.0/24"],
    "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.5"}]}},
}
SEVERAL: dict[str, Any] = {"ports": [{"name": "http", "port": 80}, {"name": "admin", "port": 81, "targetPort": 9000}]}
DNS_PORTS: dict[str, Any] = {"ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]}
NODE_PORT: dict[str, Any] = {
    "ports": [{"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080}],
    "type": "NodePort",
}


@pytest.mark.parametrize(
    ("hub", "source", "target", "sentence"),
    [
        pytest.param(cluster(*web()), "client", "wbe", "no Service default/wbe; did you mean default/web?", id="typo"),
        pytest.param(
            cluster(*web(), service("cart", "10.96.0.3", "shop")), "client", "cart",
            "no Service default/cart; did you mean shop/cart?", id="other namespace",
        ),
        pytest.param(
            cluster(*web()), "client", "web.shop.svc.cluster.local",
            "does not resolve: there is no Service shop/web (and no namespace shop); did you mean default/web?",
            id="DNS name of another namespace",
        ),
        pytest.param(cluster(*web()), "client", "www.example.org", "asks its upstream servers", id="foreign DNS name"),
        pytest.param(
            cluster(client(), service("db", "", type="ExternalName", externalName="db.example.org")), "client", "db",
            "is of type ExternalName: no rule and no address stands for it. DNS answers with the name db.example.org",
            id="ExternalName",
        ),
        pytest.param(cluster(*web()), "client", "web:81", "has no port 81; it has 80/TCP (http).", id="wrong port"),
        pytest.param(
            cluster(*web(**NODE_PORT)), "client", "web:30080", "that is the node port of its port 80", id="node port",
        ),
        pytest.param(
            cluster(*web(**NODE_PORT)), "client", "web:8080", "that is the targetPort, where its pods listen",
            id="target port",
        ),
        pytest.param(
            cluster(*web(**SEVERAL)), "client", "web", "has several ports: say which, one of 80/TCP (http) and 81",
            id="several ports",
        ),
        pytest.param(cluster(*web(**DNS_PORTS)), "client", "web:53/TCP", "no port 53 for TCP; it has 53/UDP", id="UDP"),
        pytest.param(
            cluster(client(), service("web", WEB), pod("api-1", "10.244.1.7", "n1", app="wbe")), "client", "web",
            "its selector app=web matches no pod in namespace default; the nearest is pod default/api-1, "
            "which has app=wbe.", id="selector matches nothing",
        ),
        pytest.param(
            cluster(client(), service("web", WEB, selector=None)), "client", "web",
            "it has no selector, so somebody must make its EndpointSlices, and nobody has.", id="no selector",
        ),
        pytest.param(
            cluster(*web([waiting("web-1", "CrashLoopBackOff")])), "client", "web",
            "its only pod is not: default/web-1 does not run: container c waits (CrashLoopBackOff).", id="crashing",
        ),
        pytest.param(
            cluster(*web([pod("web-1", "10.244.1.7", "n1", ready=False, app="web"), waiting("web-2", "ImagePullBackOff")])),
            "client", "web",
            "none of its 2 pods is: default/web-1 is not ready: the readiness probe of container c has not succeeded; "
            "default/web-2 does not run: container c waits (ImagePullBackOff).", id="not ready",
        ),
        pytest.param(
            cluster(client(), service("web", WEB), unbound("web-1", "0/3 nodes are available: 3 Insufficient cpu.")),
            "client", "web", "is bound to no node: 0/3 nodes are available: 3 Insufficient cpu.", id="unschedulable",
        ),
        pytest.param(
            cluster(client(), service("web", WEB, ports=[{"name": "http", "port": 80, "targetPort": "www"}]), *web_pods()),
            "client", "web",
            "its targetPort 'www' is the name of no container port of pods default/web-1 and default/web-2; "
            "they name http.", id="targetPort name missing",
        ),
        pytest.param(
            cluster(client(), service("web", WEB), *web_pods()), "client", "web",
            "is ready, but no EndpointSlice stands; does the controller manager run?", id="no slices",
        ),
        pytest.param(
            cluster(*web(**LOCAL), pod("far", "10.244.3.2", "n3")), "far", "web",
            "has internalTrafficPolicy Local, and none of its endpoints is on node n3; they are on n1 and n2.",
            id="internal policy Local",
        ),
        pytest.param(
            cluster(*web(**OUTSIDE_LOCAL)), "198.51.100.9", "n3:30080",
            "has externalTrafficPolicy Local, and none of its endpoints is on node n3", id="external policy Local",
        ),
        pytest.param(
            cluster(*web(**BALANCED)), "192.0.2.9", "web",
            "takes packets to its load balancer's address from 198.51.100.0/24 alone (loadBalancerSourceRanges), "
            "and 192.0.2.9 is not in it.", id="source ranges",
        ),
        pytest.param(
            cluster(*web()), "192.0.2.9", "web", "is known within the cluster alone", id="ClusterIP from outside",
        ),
        pytest.param(
            cluster(*web(), node("n1", 1), node("n2", 2, ready=False, message="Kubelet stopped posting node status.")),
            "client", "web",
            "1 of 2 endpoints cannot be reached: Node n2 is not ready (Kubelet stopped posting node status)",
            id="node not ready",
        ),
        pytest.param(
            cluster(*web(), node("n1", 1)), "client", "web-2:8080",
            "There is no Node n2: it has been removed, or has never joined.", id="node gone",
        ),
        pytest.param(
            cluster(*web()), "client", "10.96.7.7:80", "one of the Services' addresses (10.96.0.0/16), and no Service",
            id="unused service address",
        ),
        pytest.param(
            cluster(*web()), "client", "10.244.2.99:80", "one of the pods' addresses on node n2, and no pod has it",
            id="unused pod address",
        ),
        pytest.param(cluster(*web()), "client", f"{WEB}:443", "which has no port 443 there; it has 80/TCP", id="address"),
        pytest.param(cluster(*web()), "client", "web-1:metrics", "no container port named 'metrics'", id="pod's port"),
        pytest.param(
            cluster(client(), pod("old", "", "n1", app="x")), "client", "old:80", "has no address: it has no address yet",
            id="pod without address",
        ),
        pytest.param(
            cluster(*web(), changed(service("other", "10.96.0.8"), lambda s: s["metadata"].update(
                labels={"service.kubernetes.io/service-proxy-name": "mesh"}))),
            "client", "other", "that proxy serves it, and ours does not", id="another proxy's",
        ),
        pytest.param(
            cluster(client(), service("web", "None")), "client", "web",
            "Service default/web has no endpoints: its selector app=web matches no pod", id="headless, empty",
        ),
    ],
)  # fmt: skip
def test_what_does_not_arrive_is_told_in_a_sentence(hub: Objects, source: str, target: str, sentence: str) -> None:
    found = explained(hub, source, target)
    assert sentence in found.why
    assert not found.reachable


@pytest.mark.parametrize(
    ("hub", "source", "target"),
    [
        pytest.param(cluster(*web()), "client", "web", id="Service"),
        pytest.param(cluster(*web()), "client", "web.default.svc.cluster.local:http", id="DNS name"),
        pytest.param(cluster(*web()), "default/client", "service/web:80/TCP", id="all said"),
        pytest.param(cluster(*web()), "client", "web.default", id="short DNS name"),
        pytest.param(cluster(*web()), "10.244.1.2", f"{WEB}:80", id="by addresses"),
        pytest.param(cluster(*web()), "n2", "web", id="from a node"),
        pytest.param(cluster(*web()), "client", "web-2", id="pod, its only port"),
        pytest.param(cluster(*web()), "client", "n2:10250", id="node"),
        pytest.param(cluster(*web()), "client", "93.184.216.34:443", id="outside"),
        pytest.param(cluster(*web(**NODE_PORT)), "198.51.100.9", "web", id="node port from outside"),
        pytest.param(cluster(*web(**NODE_PORT)), "client", "n3:30080", id="node port from a pod"),
        pytest.param(cluster(*web(**OUTSIDE_LOCAL)), "198.51.100.9", "n2:30080", id="Local with one here"),
        pytest.param(cluster(*web(**OUTSIDE_LOCAL)), "client", "n3:30080", id="Local, but from the cluster"),
        pytest.param(cluster(*web(**BALANCED)), "198.51.100.9", "web", id="within source ranges"),
        pytest.param(cluster(*web(clusterIP="None", clusterIPs=["None"])), "client", "web:8080", id="headless"),
    ],
)
def test_what_arrives(hub: Objects, source: str, target: str) -> None:
    found = explained(hub, source, target)
    assert found.why == ""
    assert found.branches
    assert sum(branch.chance for branch in found.branches) == pytest.approx(1.0)


def test_a_node_port_outside_of_nodeport_addresses_is_told() -> None:
    settings = NodeSettings(ProxyConfig(cluster_cidr="10.244.0.0/16", nodeport_addresses=("10.0.0.0/8",)))
    found = explained(cluster(*web(**NODE_PORT)), "198.51.100.9", "n1:30080", settings)
    assert "Node ports answer on 10.0.0.0/8 alone (--nodeport-addresses), and 192.168.77.11 is not in it." in found.why


def test_a_node_port_is_translated_by_the_node_that_was_asked() -> None:
    found = explained(cluster(*web(**NODE_PORT)), "client", "n3:30080")
    assert [(step.place.node, step.hook) for step in found.steps] == [
        ("n1", "link"), ("n1", "route"), ("n1", "postrouting"),
        ("n3", "prerouting"), ("n3", "prerouting"), ("n3", "prerouting"),
    ]  # fmt: skip
    assert all(branch.steps[0].place.node == "n3" for branch in found.branches)
    assert any("source becomes 192.168.77.13" in step.words for step in found.branches[0].steps)


def test_a_host_port_leads_to_its_pod_before_any_service_does() -> None:
    server = pod("server", "10.244.2.9", "n2", app="server")
    server["spec"]["containers"][0]["ports"][0]["hostPort"] = 30080
    found = explained(cluster(*web(**NODE_PORT), server), "client", "n2:30080")
    assert [branch.label for branch in found.branches] == ["10.244.2.9:8080"]
    assert (
        found.steps[-1].words == "port 30080 is a hostPort of pod default/server: destination becomes 10.244.2.9:8080"
    )
    assert "inet raftsman-hostports any4 { tcp . 30080 : 10.244.2.9 . 8080 }" in map(str, found.steps[-1].things)
    other = explained(cluster(*web(**NODE_PORT), server), "client", "n1:30080")
    assert len(other.branches) == 2


@pytest.mark.parametrize("mode", ["nftables", "iptables"])
def test_a_remembered_client_goes_to_the_same_endpoint_again(mode: Literal["nftables", "iptables"]) -> None:
    hub = cluster(*web(sessionAffinity="ClientIP"))
    settings = NodeSettings(ProxyConfig(cluster_cidr="10.244.0.0/16", proxy_mode=mode))
    rules = hub.rules("default/web", "n1")[0]
    key = nftables.place(WEB, "tcp", 80)
    standing = Standing(
        elements={
            ("ip", "kube-proxy", "affinity-1"): {nftables.packed("10.244.1.2") + key: b""},
            ("ip", "kube-proxy", "endpoints-1"): {key: nftables.target("10.244.2.7", 8080)},
        },
        recent={endpoint_chain(rules.port.name, rules.cluster[1]): frozenset({"10.244.1.2"})},
    )
    scene = Scene(hub, settings, standings={Place("n1"): standing})
    question = Question(parties.find_source("client", hub, "default"), parties.find_target("web", hub, "default"))
    found = way.explain(question, scene, words.vocabularies(scene))
    assert [branch.label for branch in found.branches] == ["10.244.2.7:8080"]
    assert found.steps[-1].words == "10.244.1.2 is remembered: it goes to 10.244.2.7:8080 again"
    forgotten = way.explain(question, replace(scene, standings={}), words.vocabularies(scene))
    assert len(forgotten.branches) == 2


def test_headless_service_says_that_ports_are_not_translated() -> None:
    found = explained(cluster(*web(clusterIP="None", clusterIPs=["None"])), "client", "web:80")
    assert found.notes == ("Nothing translates ports for a headless Service: clients connect to port 8080, not 80.",)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("clinet", "there is no pod default/clinet and no node clinet; did you mean default/client?"),
        ("n9", "there is no pod default/n9 and no node n9; the nodes are n1, n2, n3"),
        ("waits", "pod default/waits is bound to no node yet"),
    ],
)
def test_a_source_that_is_not_there_is_refused(source: str, sentence: str) -> None:
    hub = cluster(client(), unbound("waits", ""), *nodes())
    with pytest.raises(UnknownPartyError, match=sentence.replace("?", r"\?")):
        explained(hub, source, "web")


def six(obj: Object, *texts: tuple[str, str]) -> Object:
    """Return an object with addresses replaced by IPv6 ones."""
    changed_text = json.dumps(obj)
    for four, replacement in texts:
        changed_text = changed_text.replace(four, replacement)
    found: Object = json.loads(changed_text)
    return found


TEXTS = (
    ("10.244.1.0/24", "fd00:1::/64"), ("10.244.2.0/24", "fd00:2::/64"), ("10.244.1.", "fd00:1::"),
    ("10.244.2.", "fd00:2::"), ("192.168.77.", "fd77::"), ("10.96.0.1", "fd96::1"), ("IPv4", "IPv6"),
)  # fmt: skip


@pytest.mark.parametrize("mode", ["nftables", "iptables"])
def test_ipv6_is_walked_alike(mode: Literal["nftables", "iptables"]) -> None:
    hub = cluster(*(six(obj, *TEXTS) for obj in (*web(), node("n1", 1), node("n2", 2))))
    settings = NodeSettings(ProxyConfig(cluster_cidr="fd00::/32", proxy_mode=mode))
    found = explained(hub, "client", "web", settings, ip_version=6)
    assert found.why == ""
    assert found.packet == "TCP fd00:1::2 → [fd96::1]:80"
    assert [branch.label for branch in found.branches] == ["[fd00:1::7]:8080", "[fd00:2::7]:8080"]
    things = [str(thing) for step in found.every_step() for thing in step.things]
    if mode == "nftables":
        assert "ip6 kube-proxy service-ips { fd96::1 . tcp . 80 : goto cluster-2 }" in things
    else:
        assert any(thing.startswith("-t ip6/nat -A KUBE-SERVICES -d fd96::1/128") for thing in things)
    by_address = explained(hub, "fd00:1::2", "[fd96::1]:81", settings, ip_version=6)
    assert "fd96::1 is an address of Service default/web, which has no port 81 there" in by_address.why
    other = explained(cluster(*web()), "n1", "web", settings)
    assert other.reachable
    with pytest.raises(UnknownPartyError, match="pod default/client has no IPv4 address"):
        explained(hub, "client", "web", settings)


def test_a_load_balancers_address_is_met_at_the_node_that_announces_it() -> None:
    balanced: dict[str, Any] = {
        "type": "LoadBalancer",
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.5"}]}},
    }
    hub = cluster(*web(**balanced))
    nobody = explained(hub, "192.0.2.9", "web")
    assert nobody.notes == (
        "No node holds the Lease of Service default/web, so perhaps nobody answers for 203.0.113.5.",
    )
    announced = plan.service_of(hub.services["default/web"])
    assert announced is not None
    name = plan.lease_name(announced)
    lease = {"metadata": {"name": name, "namespace": NAMESPACE}, "spec": {"holderIdentity": "n2"}}
    held = replace(hub, leases={f"{NAMESPACE}/{name}": lease})
    for target in ("web", "203.0.113.5:80"):
        found = explained(held, "192.0.2.9", target)
        assert found.notes == (f"Node n2 holds Lease {NAMESPACE}/{name}, and so answers for 203.0.113.5.",)
        assert {step.place.node for step in found.steps} == {"n2"}
    local = cluster(*web([], externalTrafficPolicy="Local", **balanced))
    assert "no ready node has a ready endpoint of it" in explained(local, "192.0.2.9", "web").notes[0]
