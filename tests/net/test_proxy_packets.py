"""Real packets through the proxy's rules: two nodes, three pods, a stranger, both iptables back ends."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pytest

from control.api.meta import Object
from control.api.resources import ENDPOINT_SLICES, NODES, SERVICES, Resource
from net.proxy.apply import IptablesApplier
from net.proxy.config import ProxyConfig
from net.proxy.server import ProxyServer
from net.routes.config import RoutesConfig
from net.routes.outside import open_doors
from net.routes.server import RoutesServer
from net.xtables import Backend, IptablesDoor
from tests.net.topology import (
    CLUSTER_CIDR,
    FABRIC,
    SERVICE_CIDR,
    Fabric,
    Namespace,
    Node,
    Pod,
    closing_all,
    endpoint_slice,
    eventually,
    service,
)

pytestmark = pytest.mark.root

WEB, EMPTY, NAMES, LOCAL = "10.96.0.1", "10.96.0.9", "10.96.0.53", "10.96.0.7"
LOCAL_SPEC: dict[str, Any] = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30999}


class CountingDoor(IptablesDoor):
    """The real door, with a count of what goes through it."""

    writes: ClassVar[list[str]] = []

    async def restore(self, text: str) -> None:
        self.writes.append(text)
        await super().restore(text)


@dataclass
class Cluster:
    backend: Backend
    nodes: list[Node]
    pods: list[Pod]
    stranger: Namespace
    proxies: dict[str, asyncio.Task[None]]

    def put(self, resource: Resource, *objects: Object) -> None:
        for node in self.nodes:
            for obj in objects:
                node.put(resource, obj)

    def start_proxy(self, node: Node) -> None:
        config = ProxyConfig(
            hostname_override=node.node_name,
            cluster_cidr=CLUSTER_CIDR,
            healthz_bind_address="127.0.0.1:10256",
            min_sync_period_s=0.05,
            canary_interval_s=0.2,
            remove_other_modes=False,
        )
        server = node.call(self._make(config, node))
        self.proxies[node.node_name] = node.start(server.serve())

    async def _make(self, config: ProxyConfig, node: Node) -> ProxyServer:
        return ProxyServer(config, node.client, {4: partial(IptablesApplier, CountingDoor(self.backend))})

    async def _make_routes(self, node: Node) -> RoutesServer:
        config = RoutesConfig(
            hostname_override=node.node_name,
            cluster_cidr=CLUSTER_CIDR,
            service_cluster_ip_range=SERVICE_CIDR,
            iptables_backend=self.backend,
        )
        return RoutesServer(config, node.client, await open_doors(config))

    def start_routes(self, node: Node) -> None:
        node.start(node.call(self._make_routes(node)).serve())


def objects(pods: list[Pod]) -> list[tuple[Resource, Object]]:
    places = [(pod.ip_address, pod.node.node_name) for pod in pods]
    return [
        (SERVICES, service("web", WEB, nodePort=30080)),
        (ENDPOINT_SLICES, endpoint_slice("web", places)),
        (SERVICES, service("empty", EMPTY, nodePort=30081)),
        (SERVICES, service("names", NAMES, 53, "UDP")),
        (ENDPOINT_SLICES, endpoint_slice("names", places[:1], 5353, "UDP")),
        (SERVICES, service("local", LOCAL, **LOCAL_SPEC)),
        (ENDPOINT_SLICES, endpoint_slice("local", places[:1])),
    ]


@pytest.fixture(scope="module", params=["legacy", "nft"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with closing_all() as made:
        fabric = Fabric()
        made.append(fabric)
        nodes = [Node(number, fabric) for number in (1, 2)]
        made.extend(nodes)
        pods = [nodes[0].add_pod(), nodes[0].add_pod(), nodes[1].add_pod()]
        made.extend(pods)
        stranger = Namespace("stranger")
        made.append(stranger)
        fabric.join(stranger, f"{FABRIC}.100")
        for number, pod in enumerate(pods):
            pod.serve(f"pod{number}", 8080)
            pod.serve(f"pod{number}", 5353, socket.SOCK_DGRAM)
        stranger.serve("stranger", 8080)
        built = Cluster(request.param, nodes, pods, stranger, {})
        for node in nodes:
            for member in nodes:
                node.put(NODES, member.object())
            for resource, obj in objects(pods):
                node.put(resource, obj)
            built.start_proxy(node)
            built.start_routes(node)
        eventually(lambda: all("KUBE-SEP" in rules(built, node) for node in nodes))
        eventually(lambda: all("RAFTSMAN-FORWARD" in rules(built, node, "filter") for node in nodes))
        eventually(lambda: all("raftsman-pods" in node.run("nft list tables") for node in nodes))
        eventually(lambda: "10.244.2.0/24" in nodes[0].ip("route") and "10.244.1.0/24" in nodes[1].ip("route"))
        yield built


def rules(cluster: Cluster, node: Node, table: str = "nat") -> str:
    return node.run(f"iptables-{cluster.backend}-save -t {table}")


def spread(client: Namespace, address: str, port: int = 80, count: int = 30) -> Counter[str]:
    return Counter(client.ask(address, port)[0] for _ in range(count))


ALL = {"pod0", "pod1", "pod2"}


def test_pods_reach_pods_on_other_nodes_with_their_own_address(cluster: Cluster) -> None:
    assert cluster.pods[0].ask(cluster.pods[2].ip_address, 8080) == ("pod2", cluster.pods[0].ip_address)


def test_pods_reach_nodes_with_their_own_address(cluster: Cluster) -> None:
    other = cluster.nodes[1]
    other.serve("node", 9000)
    assert cluster.pods[0].ask(other.address, 9000) == ("node", cluster.pods[0].ip_address)


def test_pods_reach_the_outside_as_their_node(cluster: Cluster) -> None:
    assert cluster.pods[0].ask(f"{FABRIC}.100", 8080) == ("stranger", cluster.nodes[0].address)


def test_cluster_ip_from_a_pod_spreads_over_all(cluster: Cluster) -> None:
    assert set(spread(cluster.pods[0], WEB)) == ALL


def test_behaviour_14_a_load_balancer_learns_which_nodes_serve(cluster: Cluster) -> None:
    first, second = cluster.nodes

    def told(node: Node) -> tuple[int, str, Any]:
        return ask_health(cluster.stranger, node.address)

    eventually(lambda: told(first)[:2] == (200, "1"))
    code, weight, body = told(second)
    assert (code, weight, body["localEndpoints"]) == (503, "0", 0)
    assert body["service"] == {"namespace": "default", "name": "local"}
    place = (cluster.pods[0].ip_address, "n1")
    going = endpoint_slice("local", [place, (cluster.pods[2].ip_address, "n2")])
    going["endpoints"][0]["conditions"] = {"ready": False, "serving": True, "terminating": True}
    cluster.put(ENDPOINT_SLICES, going)
    # What terminates still serves whom it serves, but the balancer shall send nobody new.
    eventually(lambda: (told(first)[0], told(second)[:2]) == (503, (200, "1")))
    for node in cluster.nodes:
        node.remove(SERVICES, "local", "default")
        eventually(partial(is_closed, cluster.stranger, node.address))


def ask_health(client: Namespace, address: str) -> tuple[int, str, Any]:
    """Ask a node's health-check port; return status, weight and body."""
    with client.open_socket() as asking:
        asking.connect((address, 30999))
        asking.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b"".join(iter(partial(asking.recv, 4096), b"")).decode()
    head, _, body = answer.partition("\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.splitlines()[1:])
    assert headers["X-Content-Type-Options"] == "nosniff"
    return int(head.split()[1]), headers["X-Load-Balancing-Endpoint-Weight"], json.loads(body)


def is_closed(client: Namespace, address: str) -> bool:
    with client.open_socket() as asking:
        return asking.connect_ex((address, 30999)) == errno.ECONNREFUSED


def test_udp_service_follows_its_endpoints(cluster: Cluster) -> None:
    client = cluster.pods[1]
    with client.open_socket(socket.SOCK_DGRAM) as flow:
        assert client.ask_by_datagram(flow, NAMES, 53) == "pod0"
        third = (cluster.pods[2].ip_address, "n2")
        cluster.put(ENDPOINT_SLICES, endpoint_slice("names", [third], 5353, "UDP"))
        # The same socket, so the same tracked flow: only a dropped entry brings it to the new endpoint.
        eventually(lambda: client.ask_by_datagram(flow, NAMES, 53, 0.3) == "pod2")
        cluster.put(ENDPOINT_SLICES, endpoint_slice("names", [], 5353, "UDP"))
        eventually(lambda: client.ask_by_datagram(flow, NAMES, 53, 0.3) == "")
        cluster.put(ENDPOINT_SLICES, endpoint_slice("names", [(cluster.pods[0].ip_address, "n1")], 5353, "UDP"))
        eventually(lambda: client.ask_by_datagram(flow, NAMES, 53, 0.3) == "pod0")


def test_a_removed_service_leaves_nothing(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    cluster.put(SERVICES, service("brief", "10.96.0.77"))
    cluster.put(ENDPOINT_SLICES, endpoint_slice("brief", [(cluster.pods[0].ip_address, "n1")]))
    eventually(lambda: "default/brief" in rules(cluster, node))
    assert cluster.pods[1].ask("10.96.0.77", 80)[0] == "pod0"
    for member in cluster.nodes:
        member.remove(SERVICES, "brief", "default")
        member.remove(ENDPOINT_SLICES, "brief-abc", "default")
    eventually(lambda: "brief" not in rules(cluster, node) + rules(cluster, node, "filter"))


def test_restart_writes_nothing(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    node.stop(cluster.proxies["n1"])
    before = rules(cluster, node), rules(cluster, node, "filter")
    CountingDoor.writes.clear()
    cluster.start_proxy(node)
    eventually(lambda: healthy(node))
    assert CountingDoor.writes == []
    assert strip(before[0]) == strip(rules(cluster, node))


def strip(saved: str) -> list[str]:
    return [line for line in saved.splitlines() if line.startswith("-A")]


def healthy(node: Node) -> bool:
    with node.open_socket() as client:
        try:
            client.connect(("127.0.0.1", 10256))
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            return client.recv(100).startswith(b"HTTP/1.1 200")
        except ConnectionRefusedError:
            return False


def test_flushed_rules_come_back(cluster: Cluster) -> None:
    node = cluster.nodes[1]
    node.run(f"iptables-{cluster.backend} -t nat -F")
    node.run(f"iptables-{cluster.backend} -t nat -X")
    eventually(lambda: "KUBE-SEP" in rules(cluster, node), 5)
    assert set(spread(cluster.pods[2], WEB)) == ALL


def test_foreign_chains_stay(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    node.run(f"iptables-{cluster.backend} -t nat -N KUBE-KUBELET-CANARY")
    node.run(f"iptables-{cluster.backend} -t nat -N STRANGE")
    cluster.put(SERVICES, service("another", "10.96.0.78"))
    eventually(lambda: "default/another" in rules(cluster, node, "filter"))
    saved = rules(cluster, node)
    assert ":STRANGE " in saved
    assert ":KUBE-KUBELET-CANARY " in saved


def test_a_deleted_route_comes_back(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    node.ip("route del 10.244.2.0/24")
    eventually(lambda: "10.244.2.0/24" in node.ip("route"), 3)


def test_pods_pass_another_programs_firewall(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    node.run(f"iptables-{cluster.backend} -P FORWARD DROP")
    try:
        assert cluster.pods[2].ask(cluster.pods[0].ip_address, 8080)[0] == "pod0"
        assert set(spread(cluster.stranger, node.address, 30080)) == ALL
        with pytest.raises(ConnectionRefusedError):
            cluster.pods[0].ask(EMPTY, 80)
    finally:
        node.run(f"iptables-{cluster.backend} -P FORWARD ACCEPT")


def test_an_uplink_flap_is_repaired(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    node.ip("link set eth0 down")
    assert "10.244.2.0/24" not in node.ip("route")
    node.ip("link set eth0 up")
    eventually(lambda: "10.244.2.0/24" in node.ip("route"), 3)
    node.ip(f"route add default via {FABRIC}.1")


def test_a_node_that_leaves_takes_its_route_along(cluster: Cluster) -> None:
    node, extra = cluster.nodes[0], {"metadata": {"name": "n9"}, "spec": {"podCIDRs": ["10.244.9.0/24"]}}
    extra["status"] = {"addresses": [{"type": "InternalIP", "address": f"{FABRIC}.19"}]}
    node.put(NODES, extra)
    eventually(lambda: f"10.244.9.0/24 via {FABRIC}.19" in node.ip("route"))
    moved: dict[str, Any] = {**extra, "status": {"addresses": [{"type": "InternalIP", "address": f"{FABRIC}.29"}]}}
    node.put(NODES, moved)
    eventually(lambda: f"10.244.9.0/24 via {FABRIC}.29" in node.ip("route"))
    node.remove(NODES, "n9")
    eventually(lambda: "10.244.9.0/24" not in node.ip("route"))


def test_service_addresses_are_reachable_without_a_default_route(cluster: Cluster) -> None:
    node = cluster.nodes[1]
    node.ip("route del default")
    eventually(lambda: SERVICE_CIDR in node.ip("route"))
    assert set(spread(node, WEB)) == ALL
    with pytest.raises(ConnectionRefusedError):
        cluster.pods[2].ask(EMPTY, 80)
    node.ip(f"route add default via {FABRIC}.1")
    eventually(lambda: SERVICE_CIDR not in node.ip("route"))
