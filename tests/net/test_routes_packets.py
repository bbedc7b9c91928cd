"""Pods on two networks reach each other, and what is damaged comes back: with real packets. Needs root."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from functools import partial

import pytest

from control.api.resources import NODES
from net.netlink import RouteSocket, inside
from net.routes import mtu
from net.routes.tunnels import mac_of
from tests.net.echo import echo
from tests.net.sites import RIGHT, Site, SiteNode, opened_site, pings, seen_source
from tests.net.topology import eventually

pytestmark = pytest.mark.root
VERSIONS = [pytest.param(4, id="IPv4"), pytest.param(6, id="IPv6")]
TUNNEL = "raftsman-vx4"
REPAIR_TIMEOUT_S = 20.0
"""Generous, since the machine may be busy; how fast it is, bench.routes measures."""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with opened_site() as made:
        made.announce(*made.nodes.values())
        for node in made.nodes.values():
            node.keep_routes()
        eventually(lambda: all(reach(made, a, b, v) for a, b in PAIRS for v in (4, 6)), REPAIR_TIMEOUT_S)
        yield made


PAIRS = [("n1", "n2"), ("n2", "n1"), ("n1", "n3"), ("n3", "n1"), ("n3", "n2")]


def reach(site: Site, a: str, b: str, version: int) -> bool:
    return pings(site.nodes[a].pod, site.nodes[b].pod_addresses[version])


def all_reach(site: Site) -> None:
    eventually(lambda: all(reach(site, a, b, v) for a, b in PAIRS for v in (4, 6)), REPAIR_TIMEOUT_S)


def tunnelled_packets(node: SiteNode) -> int:
    sent: int = json.loads(node.ip(f"-s -j link show {TUNNEL}"))[0]["stats64"]["tx"]["packets"]
    return sent


@pytest.mark.parametrize("version", VERSIONS)
def test_behaviour_41_peers_on_our_network_directly_and_others_by_tunnel(site: Site, version: int) -> None:
    n1, n2, n3 = (site.nodes[name] for name in ("n1", "n2", "n3"))
    before = tunnelled_packets(n1)
    assert reach(site, "n1", "n2", version)
    assert tunnelled_packets(n1) == before
    # The router knows no pod and checks sources: only what is wrapped passes.
    assert reach(site, "n1", "n3", version)
    assert tunnelled_packets(n1) > before
    flag = "-6" if version == 6 else "-4"
    assert f"via {n2.addresses()[version]} dev eth0 proto 82" in n1.ip(
        f"{flag} route show {n2.pod_cidrs[version == 6]}"
    )
    assert f"dev {TUNNEL} proto 82" in n1.ip(f"{flag} route show {n3.pod_cidrs[version == 6]}")


@pytest.mark.parametrize("version", VERSIONS)
def test_nodes_reach_pods_and_pods_reach_nodes_on_both_networks(site: Site, version: int) -> None:
    n1, n3 = site.nodes["n1"], site.nodes["n3"]
    assert pings(n1, n3.pod_addresses[version])
    assert pings(n3.pod, n1.addresses()[version])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("peer", "target"),
    [
        pytest.param("n2", "pod", id="pod on our network"),
        pytest.param("n3", "pod", id="pod behind the router"),
        pytest.param("n2", "node", id="node on our network"),
        pytest.param("n3", "node", id="node behind the router"),
    ],
)
def test_behaviour_45_inside_the_cluster_pods_keep_their_addresses(
    site: Site, peer: str, target: str, version: int
) -> None:
    n1, other = site.nodes["n1"], site.nodes[peer]
    server, address = (other.pod, other.pod_addresses) if target == "pod" else (other, other.addresses())
    assert seen_source(n1.pod, server, address[version]) == n1.pod_addresses[version]


@pytest.mark.parametrize("version", VERSIONS)
def test_behaviour_45_outside_pods_bear_their_nodes_address(site: Site, version: int) -> None:
    n1 = site.nodes["n1"]
    target = {4: "203.0.113.9", 6: "fd00:77:3::9"}[version]
    assert seen_source(n1.pod, site.stranger, target) == n1.addresses()[version]
    n1.run("nft delete table inet raftsman-pods")
    eventually(lambda: "masquerade" in n1.run("nft list ruleset"), REPAIR_TIMEOUT_S)
    assert seen_source(n1.pod, site.stranger, target) == n1.addresses()[version]


@pytest.mark.parametrize("version", VERSIONS)
def test_behaviour_43_packets_of_the_mtu_pass_and_larger_ones_are_told(site: Site, version: int) -> None:
    n1, n3 = site.nodes["n1"], site.nodes["n3"]
    target = n3.pod_addresses[version]
    with inside(n1.descriptor), RouteSocket() as socket:
        largest = mtu.of_links(socket.links(), 1500)
    assert largest == 1450
    # An older pod, from before the first tunnel: its node tells it, by a packet and not by an error of its own link.
    n1.set_pod_mtu(1500)
    n3.set_pod_mtu(largest)
    try:
        assert echo(n1.pod, target, largest).answered
        refused = echo(n1.pod, target, largest + 1)
        assert not refused.answered
        assert (refused.told_mtu, refused.told_by) == (largest, "packet")
        assert echo(n1.pod, target, 4000, may_fragment=True).answered
    finally:
        n1.set_pod_mtu(largest)


DAMAGE = [
    pytest.param("ip route del {n2_cidr}", id="direct route"),
    pytest.param("ip route del {n3_cidr}", id="tunnelled route"),
    pytest.param("ip -6 route del fd00:244:2::/64", id="direct IPv6 route"),
    pytest.param("ip -6 route del fd00:244:3::/64", id="tunnelled IPv6 route"),
    pytest.param("ip route replace {n3_cidr} via 192.168.77.1 dev eth0 proto 82", id="route led astray"),
    pytest.param("ip route flush proto 82", id="all routes"),
    pytest.param("bridge fdb del {n3_mac} dev {tunnel} dst {n3}", id="forwarding entry"),
    pytest.param("bridge fdb replace {n3_mac} dev {tunnel} dst 192.168.77.66", id="forwarding entry led astray"),
    pytest.param("bridge fdb append {n3_mac} dev {tunnel} dst 192.168.77.66", id="forwarding entry doubled"),
    pytest.param("ip neigh del 10.244.3.0 dev {tunnel}", id="neighbour"),
    pytest.param("ip neigh replace 10.244.3.0 lladdr 02:00:00:00:00:09 dev {tunnel}", id="neighbour led astray"),
    pytest.param("ip neigh flush all nud permanent dev {tunnel}", id="all neighbours"),
    pytest.param("ip link del {tunnel}", id="tunnel deleted"),
    pytest.param("ip link set {tunnel} down", id="tunnel set down"),
    pytest.param("ip link set {tunnel} mtu 1300", id="tunnel's MTU"),
    pytest.param("ip link set {tunnel} address 02:00:00:00:00:07", id="tunnel's MAC address"),
    pytest.param("ip addr flush dev {tunnel}", id="tunnel's addresses"),
    pytest.param("ip rule del from 10.244.1.0/24", id="rule for nodes behind the router"),
    pytest.param("ip route flush table 82", id="routes to nodes behind the router"),
]


def kept_state(node: SiteNode) -> list[str]:
    shown = [
        "ip route show proto 82", "ip -6 route show proto 82", "ip route show table 82", "ip rule show",
        "ip -6 rule show", f"bridge fdb show dev {TUNNEL}", f"ip neigh show dev {TUNNEL}", f"ip -6 neigh show dev {TUNNEL}",
        f"ip -o addr show dev {TUNNEL}",
    ]  # fmt: skip
    lines = [line for command in shown for line in node.run(command).splitlines()]
    # Interfaces' numbers and ages are not kept.
    return sorted(line.split(":", 1)[-1].strip() if TUNNEL in line and "inet" in line else line for line in lines)


@pytest.mark.parametrize("damage", DAMAGE)
def test_behaviour_44_damage_is_repaired_on_the_kernels_word(site: Site, damage: str) -> None:
    n1, n3 = site.nodes["n1"], site.nodes["n3"]
    before = kept_state(n1)
    words = {"n2_cidr": "10.244.2.0/24", "n3_cidr": "10.244.3.0/24", "n3": n3.address, "n3_mac": mac_of("n3")}
    n1.run(damage.format(tunnel=TUNNEL, **words))

    def repaired() -> bool:
        try:
            details = n1.ip(f"-d link show {TUNNEL}")
            whole = "mtu 1450" in details and mac_of("n1") in details and ",UP" in details
            return whole and kept_state(n1) == before
        except AssertionError:  # the tunnel is not back yet
            return False

    eventually(repaired, REPAIR_TIMEOUT_S)
    assert all(reach(site, "n1", peer, version) for peer in ("n2", "n3") for version in (4, 6))


def test_behaviour_44_an_uplink_that_flaps(site: Site) -> None:
    n1 = site.nodes["n1"]
    before = kept_state(n1)
    n1.ip("link set eth0 down")
    eventually(lambda: "10.244.2.0/24" not in n1.ip("route"), REPAIR_TIMEOUT_S)
    n1.ip("link set eth0 up")
    n1.ip("route replace default via 192.168.77.1")
    n1.ip("-6 route replace default via fd00:77:1::1")
    eventually(lambda: kept_state(n1) == before, REPAIR_TIMEOUT_S)
    all_reach(site)


def test_what_is_not_ours_stays(site: Site) -> None:
    n1 = site.nodes["n1"]
    n1.ip("route add 10.99.0.0/24 via 192.168.77.1 proto static")
    n1.ip("rule add from 10.99.0.0/24 lookup 99 priority 99")
    try:
        n1.ip("route del 10.244.3.0/24")
        eventually(lambda: "10.244.3.0/24" in n1.ip("route"), REPAIR_TIMEOUT_S)
        assert "10.99.0.0/24" in n1.ip("route")
        assert "from 10.99.0.0/24 lookup 99" in n1.ip("rule")
    finally:
        n1.ip("route del 10.99.0.0/24")
        n1.ip("rule del from 10.99.0.0/24 lookup 99")


@pytest.mark.parametrize("version", VERSIONS)
def test_behaviour_42_a_node_behind_the_router_changes_its_address(site: Site, version: int) -> None:
    n3 = site.nodes["n3"]
    old, new = n3.address, f"172.16.2.{40 + version}"
    n3.ip(f"addr del {old}/24 dev eth0")
    n3.ip(f"addr add {new}/24 dev eth0")
    n3.ip(f"addr add fd00:77:2::{40 + version}/64 dev eth0 nodad")
    n3.ip("route replace default via 172.16.2.1")
    n3.address = new
    site.announce(n3)
    all_reach(site)
    for name in ("n1", "n2"):
        entries = site.nodes[name].run(f"bridge fdb show dev {TUNNEL}")
        assert f"dst {new} " in entries
        assert f"dst {old} " not in entries
        assert old not in site.nodes[name].ip("route show table 82")
    assert f"local {new} " in n3.ip(f"-d link show {TUNNEL}")


def leaves_no_trace(node: SiteNode) -> bool:
    """Tell whether nothing of n4 is left in a node's kernel; that somebody met it on the wire is no trace."""
    shown = ("ip route", "ip -6 route", "ip route show table 82", f"bridge fdb show dev {TUNNEL}")
    text = "".join(node.run(command) for command in (*shown, f"ip neigh show dev {TUNNEL}"))
    return not any(mark in text for mark in ("10.244.4.", "fd00:244:4:", mac_of("n4"), "172.16.2.14"))


def test_behaviour_42_a_node_joins_and_leaves(site: Site) -> None:
    n4 = site.add(4, RIGHT)
    n4.keep_routes()
    site.announce(*site.nodes.values())
    eventually(
        lambda: all(pings(site.nodes[name].pod, n4.pod_addresses[v]) for name in ("n1", "n2", "n3") for v in (4, 6)),
        REPAIR_TIMEOUT_S,
    )
    assert "via 172.16.2.14 dev eth0" in site.nodes["n3"].ip("route show 10.244.4.0/24")
    site.forget("n4")
    for name in ("n1", "n2", "n3"):
        node = site.nodes[name]
        eventually(partial(leaves_no_trace, node), REPAIR_TIMEOUT_S)
    del site.nodes["n4"]


def test_behaviour_41_over_ipv6_where_nodes_have_no_other_address(site: Site) -> None:
    site.announce(*site.nodes.values(), versions=(6,))
    n1 = site.nodes["n1"]
    eventually(lambda: "raftsman-vx6" in n1.ip("route show 10.244.3.0/24"), REPAIR_TIMEOUT_S)
    all_reach(site)
    assert "mtu 1430" in n1.ip("link show raftsman-vx6")
    # Both families of the left's pods: IPv6 directly, IPv4, which has no address to go by, in the tunnel.
    assert "dev eth0" in n1.ip("-6 route show fd00:244:2::/64")
    assert "raftsman-vx6" in n1.ip("route show 10.244.2.0/24")
    site.announce(*site.nodes.values())
    eventually(lambda: TUNNEL in n1.ip("route show 10.244.3.0/24"), REPAIR_TIMEOUT_S)
    eventually(lambda: "raftsman-vx6" not in n1.ip("link"), REPAIR_TIMEOUT_S)
    all_reach(site)


def test_a_flow_that_waited_for_a_new_node_has_its_pods_own_address(site: Site) -> None:
    """What a flow's first packet that has a way seems to be from, all of them do."""
    n1 = site.nodes["n1"]
    n9 = site.add(9, RIGHT)
    for known in site.nodes.values():
        n9.put(NODES, known.as_object())
    with inside(n9.pod.descriptor):
        heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    heard.bind((n9.pod_addresses[4], 0))
    heard.settimeout(0.002)
    with inside(n1.pod.descriptor):
        asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sources: set[str] = set()
    with heard, asking:
        asking.sendto(b"early", heard.getsockname())
        n9.keep_routes()
        site.announce(n9)
        deadline = time.monotonic() + REPAIR_TIMEOUT_S
        while len(sources) < 1 and time.monotonic() < deadline:
            asking.sendto(b"hello", heard.getsockname())
            try:
                sources.add(heard.recvfrom(64)[1][0])
            except TimeoutError:
                continue
    site.forget("n9")
    del site.nodes["n9"]
    assert sources == {n1.pod_addresses[4]}
