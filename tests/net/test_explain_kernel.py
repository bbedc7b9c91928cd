"""Explanations against real kernels: what is whole is found whole, and damage is named where it was done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from control.api.meta import Object
from control.api.resources import ENDPOINT_SLICES, NODES, SERVICES, Resource
from net.explain import compare, parties, reader, trace, tracer, words
from net.explain.compare import NodeView
from net.explain.diff import Difference
from net.explain.objects import Objects, by_key
from net.explain.policies import PolicyJudge
from net.explain.steps import Explanation, NodeSettings, Question, Scene
from net.explain.things import Place, Standing
from net.proxy.applier import Mode
from net.proxy.apply import IptablesApplier
from net.proxy.apply_nftables import NftablesApplier
from net.proxy.config import ProxyConfig
from net.proxy.modes import MakeApplier
from net.proxy.server import ProxyServer
from net.proxy.standing import Shape
from net.routes import outside
from net.routes.config import RoutesConfig
from net.routes.server import RoutesServer
from net.xtables import IptablesDoor
from tests.net import explaining
from tests.net.topology import (
    CLUSTER_CIDR,
    SERVICE_CIDR,
    Fabric,
    Node,
    Pod,
    closing_all,
    eventually,
)

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
WEB, EMPTY = "10.96.0.1", "10.96.0.9"


@dataclass
class Cluster:
    """Two nodes with pods client, web-1 and web-2; the rules of Service web are written once and then left alone."""

    mode: str
    """legacy or nft, of iptables; or nftables."""
    nodes: list[Node]
    pods: dict[str, Pod]
    hub: Objects
    settings: NodeSettings
    stopped: list[object] = field(default_factory=list)

    @property
    def door(self) -> IptablesDoor:
        return IptablesDoor("legacy" if self.mode == "legacy" else "nft")

    @property
    def iptables(self) -> str:
        return f"iptables-{self.door.backend}"

    def places(self) -> dict[Place, Path]:
        found = {Place(node.node_name): Path(node.path) for node in self.nodes}
        return found | {Place(pod.node.node_name, f"default/{name}"): Path(pod.path) for name, pod in self.pods.items()}

    def read(self, wanted: set[Place]) -> dict[Place, Standing]:
        return {
            place: reader.read_links(path) if place.pod else reader.read_node(path, [4])
            for place, path in self.places().items()
            if place in wanted
        }

    def question(self, source: str, target: str) -> tuple[Question, Scene]:
        found = parties.find_source(source, self.hub, "default")
        return Question(found, parties.find_target(target, self.hub, "default")), Scene(self.hub, self.settings)

    def explain(self, source: str, target: str) -> Explanation:
        question, scene = self.question(source, target)
        return words.answer(question, scene, self.read, PolicyJudge(self.hub))

    def view(self, name: str) -> NodeView:
        node = next(node for node in self.nodes if node.node_name == name)
        pods = {f"default/{key}": Path(pod.path) for key, pod in self.pods.items() if pod.node is node}
        return NodeView(self.hub, name, Path(node.path), pods, self.settings)

    def differences(self, name: str) -> list[Difference]:
        return compare.differences(self.view(name))

    def write_rules(self) -> None:
        """Have proxy and routes write what the objects want, and end before anything is damaged."""
        for node in self.nodes:
            tasks = [node.start(self._proxy(node)), node.start(self._routes(node))]
            path = Path(node.path)
            other = next(peer for peer in self.nodes if peer is not node)

            def stands(path: Path = path, other: Node = other) -> bool:
                standing = reader.read_node(path)
                route = standing.route_to(other.pod_cidr.replace("0/24", "9"))
                tables = ("nat", "ip6/nat")
                rules = all("KUBE-SERVICES" in standing.tables.get(table, {}) for table in tables) or (
                    bool(standing.elements.get(("ip", "kube-proxy", "service-ips")))
                    and all(standing.shapes.get((ip, "kube-proxy"), Shape()).text_digest for ip in ("ip", "ip6"))
                )
                rules = rules and ("inet", "raftsman-pods") in {(f, t) for f, t, _ in standing.chains}
                # Where the proxy made iptables' filter table, the routes' loop notices and lets pods pass it.
                forward = self.mode == "nftables" or "RAFTSMAN-FORWARD" in standing.tables.get("filter", {})
                rules = rules and forward
                return rules and route is not None and bool(route.gateway)

            eventually(stands)
            for task in tasks:
                node.stop(task)

    async def _proxy(self, node: Node) -> None:
        config = ProxyConfig(
            hostname_override=node.node_name,
            cluster_cidr=CLUSTER_CIDR,
            healthz_bind_address="",
            metrics_bind_address="",
        )
        makers: dict[int, MakeApplier] = {
            version: partial(IptablesApplier, IptablesDoor(self.door.backend, version)) for version in (4, 6)
        }
        if self.mode == "nftables":
            makers = dict.fromkeys(makers, NftablesApplier)
        await ProxyServer(config, node.client, makers).serve()

    async def _routes(self, node: Node) -> None:
        config = RoutesConfig(
            hostname_override=node.node_name, cluster_cidr=CLUSTER_CIDR, service_cluster_ip_range=SERVICE_CIDR,
            iptables_backend=self.door.backend,
        )  # fmt: skip
        await RoutesServer(config, node.client, await outside.open_doors(config)).serve()


def objects_of(nodes: list[Node], pods: dict[str, Pod]) -> list[tuple[Resource, Object]]:
    made = {name: explaining.pod(name, pod.ip_address, pod.node.node_name, app="web") for name, pod in pods.items()}
    web, empty = explaining.service("web", WEB), explaining.service("empty", EMPTY)
    servers = [made["web-1"], made["web-2"]]
    return [
        *((NODES, node.object() | {"status": node.object()["status"] | READY}) for node in nodes),
        (SERVICES, web),
        (SERVICES, empty),
        (ENDPOINT_SLICES, explaining.slice_of(web, servers)),
    ]


READY = {"conditions": [{"type": "Ready", "status": "True"}]}


@pytest.fixture(scope="module", params=["legacy", "nft", "nftables"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with closing_all() as made:
        fabric = Fabric()
        made.append(fabric)
        nodes = [Node(number, fabric) for number in (1, 2)]
        made.extend(nodes)
        pods = {"client": nodes[0].add_pod(), "web-1": nodes[0].add_pod(), "web-2": nodes[1].add_pod()}
        made.extend(pods.values())
        for name in ("web-1", "web-2"):
            pods[name].serve(name, 8080)
        listed = objects_of(nodes, pods)
        for node in nodes:
            for resource, obj in listed:
                node.put(resource, obj)
        by_resource = {name: [o for r, o in listed if r is resource] for name, resource in KINDS.items()}
        pod_objects = [explaining.pod(n, p.ip_address, p.node.node_name, app="web") for n, p in pods.items()]
        hub = Objects(**{name: by_key(found) for name, found in by_resource.items()}, pods=by_key(pod_objects))
        mode: Mode = "nftables" if request.param == "nftables" else "iptables"
        proxy = ProxyConfig(cluster_cidr=CLUSTER_CIDR, proxy_mode=mode)
        routes = RoutesConfig(cluster_cidr=CLUSTER_CIDR, service_cluster_ip_range=SERVICE_CIDR)
        settings = NodeSettings(proxy, routes)
        found = Cluster(request.param, nodes, pods, hub, settings)
        found.write_rules()
        yield found


KINDS = {"nodes": NODES, "services": SERVICES, "slices": ENDPOINT_SLICES}


def test_a_whole_cluster_is_found_whole_and_a_real_connection_says_so(cluster: Cluster) -> None:
    found = cluster.explain("client", "web")
    assert found.why == ""
    assert sum(step.is_checked for step in found.every_step()) >= 8
    names = {cluster.pods["client"].ask(WEB, 80)[0] for _ in range(30)}
    assert names == {"web-1", "web-2"}
    refused = cluster.explain("client", "empty")
    assert "Service default/empty has no endpoints" in refused.why
    assert not refused.findings
    with pytest.raises(ConnectionRefusedError):
        cluster.pods["client"].ask(EMPTY, 80)


def test_a_trace_visits_the_chains_that_were_named(cluster: Cluster) -> None:
    question, scene = cluster.question("client", "web")
    found = words.answer(question, scene, cluster.read, PolicyJudge(cluster.hub))
    flows = trace.flows(found, question.source.address, [cluster.nodes[0].address])
    networks = {node.node_name: Path(node.path) for node in cluster.nodes}
    follow = tracer.by_kernel_log if cluster.mode == "legacy" else tracer.by_nftables
    heard = follow(found, networks, Path(cluster.pods["client"].path), flows, question.source.address)
    assert heard.answered, heard
    named = {thing.traced_as for step in found.steps for thing in step.things if thing.traced_as}
    named -= {"nat OUTPUT"}
    visited = {line.chain.removeprefix("ip ") for line in heard.lines if line.node == "n1"}
    assert named <= visited
    chosen = {line.step for line in heard.lines if line.step.startswith("destination becomes")}
    assert len(chosen) == 1, heard
    last = [line.packet for line in heard.lines if line.node == "n1" and line.packet][-1]
    assert last.rpartition(" ")[2] == chosen.pop().rpartition(" ")[2]
    for node in cluster.nodes:
        assert "trace" not in node.run("nft list tables")
        assert "TRACE" not in node.run("iptables-legacy-save")


def remove_jump(cluster: Cluster) -> None:
    by_nftables = cluster.mode == "nftables"
    words = (
        "nft flush chain ip kube-proxy nat-prerouting" if by_nftables else f"{cluster.iptables} -t nat -F PREROUTING"
    )
    cluster.nodes[0].run(words)


def remove_service_rule(cluster: Cluster) -> None:
    node, program = cluster.nodes[0], cluster.iptables
    if cluster.mode == "nftables":
        node.run(f"nft delete element ip kube-proxy service-ips {{ {WEB} . tcp . 80 }}")
        return
    lines = node.run(f"{program} -t nat -S KUBE-SERVICES").splitlines()[1:]
    number = next(position for position, line in enumerate(lines, 1) if f"-d {WEB}/32" in line)
    node.run(f"{program} -t nat -D KUBE-SERVICES {number}")


DAMAGE: dict[str, tuple[Callable[[Cluster], object], str, str, str]] = {
    "rule of the Service": (
        remove_service_rule, "client", "web",
        "node n1: chain KUBE-SERVICES in table nat lacks the rule: -d 10.96.0.1/32",
    ),
    "jump from the kernel's chain": (
        remove_jump, "client", "web",
        'node n1: chain PREROUTING in table nat lacks the rule: -m comment --comment "kubernetes service portals"',
    ),
    "route to the other node": (
        lambda c: c.nodes[0].ip(f"route del {c.nodes[1].pod_cidr}"), "client", "web-2",
        "node n1: the kernel routes 10.244.2.2 by 0.0.0.0/0 via 192.168.77.1 dev eth0, not via 192.168.77.12",
    ),
    "link to the pod": (
        lambda c: c.nodes[1].ip(f"link set {pod_link(c, 'web-2')} down"), "n2", "web-2",
        "node n2: the kernel routes 10.244.2.2 by",
    ),
    "address of the pod": (
        lambda c: c.pods["web-1"].ip("addr flush dev eth0"), "n1", "web-1",
        "pod default/web-1: no link has the address 10.244.1.3",
    ),
    "way out of the client": (
        lambda c: c.pods["client"].ip("route del default"), "client", "198.51.100.1:80",
        "pod default/client: the kernel has no route to 198.51.100.1",
    ),
}  # fmt: skip
"""Each done to what the others leave whole: what to damage, whom to ask for, and the difference that must be told."""


IN_NFTABLES = {
    "rule of the Service": "node n1: set service-ips of table ip kube-proxy lacks the element 10.96.0.1 . tcp . 80",
    "jump from the kernel's chain": "node n1: somebody changed chains or rules of table ip kube-proxy",
}


def pod_link(cluster: Cluster, name: str) -> str:
    """Return the node's end of a pod's link."""
    pod = cluster.pods[name]
    return pod.node.ip(f"-o route get {pod.ip_address}").split(" dev ")[1].split()[0]


def test_a_whole_node_has_no_difference_and_converges(cluster: Cluster) -> None:
    for node in ("n1", "n2"):
        assert cluster.differences(node) == []
    rehearsed = compare.rehearse(cluster.view("n1"))
    assert not rehearsed.repeated
    assert not rehearsed.refused
    assert rehearsed.dump.tables or rehearsed.dump.iptables


def test_a_port_at_which_nobody_listens_is_told(cluster: Cluster) -> None:
    found = cluster.explain("client", "web-1:9090")
    assert found.why == "The kernel is not as it should be. On pod default/web-1: nothing listens at TCP port 9090."


damaged = pytest.mark.parametrize("cluster", ["legacy", "nftables"], indirect=True, scope="module")
"""The kernel's own side of iptables-nft is that of the other two: what is damaged there teaches nothing new."""


@damaged
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda text: text.replace(" ", "-"))
def test_damage_is_named_where_it_was_done(cluster: Cluster, damage: str) -> None:
    harm, source, target, sentence = DAMAGE[damage]
    before = cluster.explain(source, target).findings
    assert not any(told.startswith(sentence) for told in before)
    harm(cluster)
    found = cluster.explain(source, target)
    assert not found.reachable
    expected = IN_NFTABLES.get(damage, sentence) if cluster.mode == "nftables" else sentence
    assert any(told.startswith(expected) for told in found.findings), found.findings
    assert len({told.partition(":")[0] for told in found.findings}) == 1, found.findings


@damaged
def test_every_damage_is_a_difference_and_nothing_else_is(cluster: Cluster) -> None:
    """Runs after all damage was done; before it, `test_a_whole_node_has_no_difference` has seen none."""
    found = {(difference.part, difference.what) for difference in cluster.differences("n1")}
    if cluster.mode == "nftables":
        rules = {"nftables ip kube-proxy set service-ips", "nftables ip kube-proxy chain nat-prerouting"}
    else:
        rules = {"iptables nat chain KUBE-SERVICES", "iptables nat chain PREROUTING"}
    pods = {("pods", f"pod default/{name}") for name in ("client", "web-1")}
    routes = {("routes", "route 10.244.2.0/24")}
    assert found == {("services", what) for what in rules} | pods | routes
    lost = next(one for one in cluster.differences("n1") if one.part == "services" and "10.96.0.1" in str(one.lacks))
    assert len(lost.lacks) == 1
    assert not lost.extra
