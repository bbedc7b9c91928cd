"""The rule model and its iptables form: golden text, and where packets end, on an interpreter."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from control.api.meta import Object
from net import chains
from net.proxy import iptables
from net.proxy.apply import IptablesApplier, owned
from net.proxy.rules import NodeFacts, RuleBook, RuleSettings
from net.proxy.services import ChangeTracker, Endpoint, PortName
from tests.fakes.fake_iptables import End, FakeIptables, Packet

GOLDEN = Path(__file__).parents[1] / "golden/net"
SETTINGS = RuleSettings(cluster_cidrs=("10.244.0.0/16",))
POD_HERE, POD_THERE, CLIENT = "10.244.1.2", "10.244.2.3", "10.244.1.7"
NODE, OUTSIDE = "192.168.77.11", "203.0.113.5"


def service(name: str, ip: str, ports: list[dict[str, Any]] | None = None, **more: Any) -> Object:
    status = more.pop("status", {})
    ports = ports or [{"name": "http", "port": 80, "protocol": "TCP"}]
    spec = {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": ports, **more}
    return {"metadata": {"name": name, "namespace": "default"}, "spec": spec, "status": status}


def endpoints(name: str, *entries: Any, port: int = 8080, protocol: str = "TCP", port_name: str = "http") -> Object:
    listed = []
    for entry in entries:
        ip, node, conditions = (*entry, {})[:3]
        listed.append({"addresses": [ip], "nodeName": node, "conditions": {"ready": True, **conditions}})
    return {
        "metadata": {"name": f"{name}-1", "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": port_name, "port": port, "protocol": protocol}],
        "endpoints": listed,
    }


BOTH = ((POD_HERE, "n1"), (POD_THERE, "n2"))
BALANCED = {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}}
NODE_PORT = [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}]


class World:
    """A tracker, a book and an applier over the interpreter."""

    def __init__(self, settings: RuleSettings = SETTINGS) -> None:
        self.tracker = ChangeTracker(settings.ip_version)
        self.book = RuleBook(NodeFacts("n1", "zone-a", (NODE,)))
        self.fake = FakeIptables((NODE, "127.0.0.1"))
        self.applier = IptablesApplier(self.fake, settings)

    def add(self, *objects: Object) -> None:
        for obj in objects:
            key = f"{obj['metadata']['namespace']}/{obj['metadata']['name']}"
            if "addressType" in obj:
                self.tracker.slice_changed(key, obj)
            else:
                self.tracker.service_changed(key, obj)

    async def sync(self) -> int:
        self.book.update(self.tracker, self.tracker.take_changes())
        return (await self.applier.sync(self.book.services())).written_bytes

    async def ends(self, *objects: Object, packet: Packet) -> set[End]:
        self.add(*objects)
        await self.sync()
        return self.fake.trace(packet)


def test_hashes_are_those_of_kube_proxy() -> None:
    name = PortName("ns1/svc1", "p80", "TCP")
    assert iptables.service_chain("SVC", name) == "KUBE-SVC-XPGD46QRK7WJZT7O"
    assert iptables.endpoint_chain(name, Endpoint("10.180.0.1", 80)) == "KUBE-SEP-SXIVWICOYRO3J4NJ"
    assert iptables.service_chain("EXT", PortName("ns2/svc2", "p80", "TCP")) == "KUBE-EXT-GNZBNJ2PO5MGZ6GT"


def everything() -> list[Object]:
    return [
        service("web", "10.96.0.1", NODE_PORT, type="NodePort"),
        endpoints("web", *BOTH),
        service("empty", "10.96.0.2", [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30082}]),
        service("names", "10.96.0.53", [{"name": "dns", "port": 53, "protocol": "UDP"}]),
        endpoints("names", (POD_HERE, "n1"), port=5353, protocol="UDP", port_name="dns"),
        service("sticky", "10.96.0.4", sessionAffinity="ClientIP"),
        endpoints("sticky", *BOTH),
        service(
            "balanced",
            "10.96.0.5",
            [{"name": "", "port": 443, "protocol": "TCP", "nodePort": 30443}],
            type="LoadBalancer",
            externalTrafficPolicy="Local",
            healthCheckNodePort=30999,
            loadBalancerSourceRanges=["203.0.113.0/24"],
            externalIPs=["198.51.100.9"],
            status=BALANCED,
        ),
        endpoints("balanced", *BOTH, port=8443, port_name=""),
        service("inside", "10.96.0.6", internalTrafficPolicy="Local"),
        endpoints("inside", (POD_THERE, "n2")),
    ]


def as_six(value: Any) -> Any:
    """Return objects with each IPv4 address and network replaced by one of IPv6."""
    text = re.sub(r"(\d+)\.(\d+)\.(\d+)\.(\d+)(?=[/\"])", r"fd00::\1:\2:\3:\4", json.dumps(value))
    return json.loads(text.replace("/24", "/112").replace('"IPv4"', '"IPv6"'))


@pytest.mark.parametrize("ip_version", [4, 6])
async def test_golden_text(ip_version: int) -> None:
    world = World(RuleSettings(ip_version, ("10.244.0.0/16",) if ip_version == 4 else ("fd00::10:244:0:0/96",)))
    world.add(*(everything() if ip_version == 4 else as_six(everything())))
    await world.sync()
    golden = GOLDEN / ("iptables.rules" if ip_version == 4 else "ip6tables.rules")
    saved = "".join([await world.fake.save(table) for table in ("nat", "filter", "mangle")])
    if os.environ.get("REWRITE_GOLDEN"):
        golden.write_text(saved)
    assert saved == golden.read_text(), "if the change is meant, run with REWRITE_GOLDEN=1 and read the difference"


def accepted(*ends: str, masqueraded: bool = False) -> set[End]:
    return {End("ACCEPT", end, masqueraded) for end in ends}


HERE, THERE = f"{POD_HERE}:8080", f"{POD_THERE}:8080"
TO_SERVICE = Packet(CLIENT, "10.96.0.1", 80)
LOCAL = {"externalTrafficPolicy": "Local", "type": "LoadBalancer", "status": BALANCED}
GOING = {"ready": False, "serving": True, "terminating": True}

FLOWS: list[Any] = [
    ("pod to cluster IP", {}, BOTH, TO_SERVICE, accepted(HERE, THERE)),
    (
        "node to cluster IP",
        {},
        BOTH,
        Packet(NODE, "10.96.0.1", 80, from_node=True),
        accepted(HERE, THERE, masqueraded=True),
    ),
    ("stranger to cluster IP", {}, BOTH, Packet(OUTSIDE, "10.96.0.1", 80), accepted(HERE, THERE, masqueraded=True)),
    (
        "pod to itself by its service",
        {},
        BOTH[:1],
        Packet(POD_HERE, "10.96.0.1", 80),
        accepted(HERE, masqueraded=True),
    ),
    ("another port of the cluster IP", {}, BOTH, Packet(CLIENT, "10.96.0.1", 81), accepted("10.96.0.1:81")),
    ("another protocol", {}, BOTH, Packet(CLIENT, "10.96.0.1", 80, "udp"), accepted("10.96.0.1:80")),
    ("no endpoints", {}, (), TO_SERVICE, {End("REJECT")}),
    ("no endpoints from the node", {}, (), Packet(NODE, "10.96.0.1", 80, from_node=True), {End("REJECT")}),
    ("no endpoints by node port", {}, (), Packet(OUTSIDE, NODE, 30080), {End("REJECT")}),
    ("unready only", {}, ((POD_HERE, "n1", {"ready": False}),), TO_SERVICE, {End("REJECT")}),
    ("terminating that serve, as a last resort", {}, ((POD_HERE, "n1", GOING),), TO_SERVICE, accepted(HERE)),
    ("ready before terminating", {}, ((POD_HERE, "n1", GOING), BOTH[1]), TO_SERVICE, accepted(THERE)),
    ("node port from outside", {}, BOTH, Packet(OUTSIDE, NODE, 30080), accepted(HERE, THERE, masqueraded=True)),
    (
        "node port on loopback",
        {},
        BOTH,
        Packet("127.0.0.1", "127.0.0.1", 30080, from_node=True),
        accepted("127.0.0.1:30080"),
    ),
    ("node port, local", LOCAL, BOTH, Packet(OUTSIDE, NODE, 30080), accepted(HERE)),
    ("node port, local, none here", LOCAL, BOTH[1:], Packet(OUTSIDE, NODE, 30080), {End("DROP")}),
    ("balancer, local", LOCAL, BOTH, Packet(OUTSIDE, "198.51.100.1", 80), accepted(HERE)),
    ("balancer, local, from a pod", LOCAL, BOTH, Packet(CLIENT, "198.51.100.1", 80), accepted(HERE, THERE)),
    (
        "balancer, local, from the node",
        LOCAL,
        BOTH[1:],
        Packet(NODE, "198.51.100.1", 80, from_node=True),
        accepted(THERE, masqueraded=True),
    ),
    (
        "balancer, both local, from a pod",
        {**LOCAL, "internalTrafficPolicy": "Local"},
        BOTH,
        Packet(CLIENT, "198.51.100.1", 80),
        accepted(HERE, THERE),
    ),
    (
        "balancer, allowed source",
        {"type": "LoadBalancer", "status": BALANCED, "loadBalancerSourceRanges": ["203.0.113.0/24"]},
        BOTH,
        Packet(OUTSIDE, "198.51.100.1", 80),
        accepted(HERE, THERE, masqueraded=True),
    ),
    (
        "balancer, other source",
        {"type": "LoadBalancer", "status": BALANCED, "loadBalancerSourceRanges": ["192.0.2.0/24"]},
        BOTH,
        Packet(OUTSIDE, "198.51.100.1", 80),
        {End("DROP")},
    ),
    (
        "balancer in proxy mode is not short-circuited",
        {"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1", "ipMode": "Proxy"}]}}},
        BOTH,
        Packet(CLIENT, "198.51.100.1", 80),
        accepted("198.51.100.1:80"),
    ),
    (
        "external IP",
        {"externalIPs": ["198.51.100.9"]},
        BOTH,
        Packet(OUTSIDE, "198.51.100.9", 80),
        accepted(HERE, THERE, masqueraded=True),
    ),
    ("internal local", {"internalTrafficPolicy": "Local"}, BOTH, TO_SERVICE, accepted(HERE)),
    ("internal local, none here", {"internalTrafficPolicy": "Local"}, BOTH[1:], TO_SERVICE, {End("DROP")}),
    ("headless", {"clusterIP": "None", "clusterIPs": ["None"]}, BOTH, TO_SERVICE, accepted("10.96.0.1:80")),
]


@pytest.mark.parametrize(("spec", "pods", "packet", "wanted"), [pytest.param(*case[1:], id=case[0]) for case in FLOWS])
async def test_where_packets_end(spec: dict[str, Any], pods: Any, packet: Packet, wanted: set[End]) -> None:
    web = service("web", "10.96.0.1", NODE_PORT, **spec)
    assert await World().ends(web, endpoints("web", *pods), packet=packet) == wanted


async def test_affinity_prefers_the_endpoint_of_last_time() -> None:
    world = World()
    world.add(service("web", "10.96.0.1", sessionAffinity="ClientIP"), endpoints("web", *BOTH))
    await world.sync()
    assert world.fake.trace(TO_SERVICE) == accepted(HERE, THERE)
    chain = iptables.endpoint_chain(PortName("default/web", "http", "TCP"), Endpoint(POD_THERE, 8080))
    known = Packet(CLIENT, "10.96.0.1", 80, sticky=frozenset({chain}))
    assert world.fake.trace(known) == accepted(THERE)


async def test_zone_hints_keep_traffic_near_only_where_all_have_them() -> None:
    world = World()
    hinted = endpoints("web", *BOTH)
    hinted["endpoints"][0]["hints"] = {"forZones": [{"name": "zone-a"}]}
    world.add(service("web", "10.96.0.1"), hinted)
    await world.sync()
    assert world.fake.trace(TO_SERVICE) == accepted(HERE, THERE)
    hinted["endpoints"][1]["hints"] = {"forZones": [{"name": "zone-b"}]}
    assert await world.ends(hinted, packet=TO_SERVICE) == accepted(HERE)


async def test_masquerade_all() -> None:
    world = World(RuleSettings(cluster_cidrs=("10.244.0.0/16",), masquerade_all=True))
    ends = await world.ends(service("web", "10.96.0.1"), endpoints("web", *BOTH), packet=TO_SERVICE)
    assert ends == accepted(HERE, THERE, masqueraded=True)


async def test_node_ports_only_on_the_chosen_addresses() -> None:
    world = World(RuleSettings(node_port_cidrs=("192.168.77.0/24",), node_addresses=(NODE,)))
    world.fake.local_addresses = (NODE, "172.16.0.1")
    world.add(service("web", "10.96.0.1", NODE_PORT), endpoints("web", *BOTH))
    await world.sync()
    assert world.fake.trace(Packet(OUTSIDE, NODE, 30080)) == accepted(HERE, THERE, masqueraded=True)
    assert world.fake.trace(Packet(OUTSIDE, "172.16.0.1", 30080)) == accepted("172.16.0.1:30080")


async def test_a_change_rewrites_its_own_chains_alone() -> None:
    world = World()
    world.add(*everything())
    await world.sync()
    world.add(endpoints("web", BOTH[0]))
    await world.sync()
    text = world.fake.writes[-1]
    assert "default/web" in text
    assert "default/sticky" not in text
    assert "*filter" not in text
    assert await world.sync() == 0


async def test_thousands_of_endpoints_bear_no_comments() -> None:
    world = World()
    world.add(service("web", "10.96.0.1"), endpoints("web", *BOTH))
    await world.sync()
    commented = await world.fake.save("nat")
    entries = [(f"10.244.{number // 250}.{number % 250 + 1}", "n2") for number in range(1000)]
    world.add(service("large", "10.96.0.2"), endpoints("large", *entries))
    await world.sync()
    assert '"default/web:http -> ' not in await world.fake.save("nat")
    assert world.fake.trace(TO_SERVICE) == accepted(HERE, THERE)
    world.tracker.service_changed("default/large", None)
    await world.sync()
    assert await world.fake.save("nat") == commented


async def test_what_was_removed_leaves_nothing() -> None:
    world = World()
    await world.sync()
    empty = await world.fake.save("nat"), await world.fake.save("filter")
    world.add(*everything())
    await world.sync()
    for obj in everything():
        key = f"default/{obj['metadata']['name']}"
        world.tracker.service_changed(key, None)
        world.tracker.slice_changed(key, None)
    await world.sync()
    assert (await world.fake.save("nat"), await world.fake.save("filter")) == empty


async def test_a_restart_writes_nothing_and_stale_chains_go() -> None:
    world = World()
    world.add(*everything())
    await world.sync()
    successor = World()
    successor.fake, successor.applier = world.fake, IptablesApplier(world.fake, SETTINGS)
    successor.add(*everything())
    assert await successor.sync() == 0
    third = World()
    third.fake, third.applier = world.fake, IptablesApplier(world.fake, SETTINGS)
    third.add(*everything()[:2])
    assert await third.sync() > 0
    kept = [name for name in world.fake.tables["nat"] if name.startswith("KUBE-S") and name != "KUBE-SERVICES"]
    assert len(kept) == 3  # one SVC, two SEP


async def test_one_bad_service_does_not_hold_up_the_rest() -> None:
    world = World()
    names = [f"web{number}" for number in range(9)]
    for number, name in enumerate(names):
        world.add(service(name, f"10.96.1.{number}"), endpoints(name, *BOTH))
    world.fake.poison = "default/web4"
    world.book.update(world.tracker, world.tracker.take_changes())
    result = await world.applier.sync(world.book.services())
    assert set(result.refused) == {"default/web4"}
    for number in range(9):
        ends = world.fake.trace(Packet(CLIENT, f"10.96.1.{number}", 80))
        assert ends == (accepted("10.96.1.4:80") if number == 4 else accepted(HERE, THERE))
    world.fake.poison = ""
    assert await world.sync() == 0
    world.applier.forget()
    assert await world.sync() > 0
    assert world.fake.trace(Packet(CLIENT, "10.96.1.4", 80)) == accepted(HERE, THERE)


async def test_clean_up_leaves_foreign_chains() -> None:
    world = World()
    world.fake.apply("*nat\n:KUBE-KUBELET-CANARY - [0:0]\n:MINE - [0:0]\n-A PREROUTING -j MINE\nCOMMIT\n")
    before = await world.fake.save("nat")
    world.add(*everything())
    await world.sync()
    await world.applier.clean_up()
    assert await world.fake.save("nat") == before


def test_only_kube_proxys_chains_are_owned() -> None:
    assert owned("KUBE-SVC-XPGD46QRK7WJZT7O")
    assert owned("KUBE-PROXY-CANARY")
    assert not owned("KUBE-KUBELET-CANARY")
    assert not owned("KUBE-FIREWALL")
    assert not owned("PREROUTING")


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        pytest.param('-m comment --comment "a" -j X', "-m comment --comment a -j X", True, id="quotes"),
        pytest.param("--probability 0.33333333349", "--probability 0.33333333331", True, id="31 bits"),
        pytest.param("--probability 0.5", "--probability 0.50000000000", True, id="digits"),
        pytest.param("-j X", "-j Y", False, id="target"),
    ],
)
def test_two_spellings_of_one_rule_are_the_same(one: str, other: str, equal: bool) -> None:
    assert chains.same((one,), (other,)) is equal
