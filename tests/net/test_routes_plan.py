"""Which way leads to each peer, what stands because of it, and what is done about damage."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.api.meta import Object
from net.links import Address, ForwardingEntry, Link, Neighbour, Route, RoutingRule, Vxlan
from net.messages import ROUTE_PROTOCOL_NODE, ROUTE_TABLE_NODE
from net.routes import peers, plan, tunnels
from net.routes.config import RoutesConfig
from net.routes.mtu import Backend
from net.routes.peers import Direct, Peer, Tunnelled, Unreachable, Way
from net.routes.plan import State
from net.routes.tunnels import Tunnel, TunnelError, mac_of

OURS = ROUTE_PROTOCOL_NODE
ADDRESSES = [
    Address(1, "127.0.0.1", 8),
    Address(2, "192.168.77.11", 24),
    Address(2, "fd00:77::11", 64),
    Address(2, "fe80::1", 64),
    Address(9, "10.244.1.0", 32),
]
N1 = Peer("n1", ("192.168.77.11", "fd00:77::11"), ("10.244.1.0/24", "fd00:244:1::/64"))
N2 = Peer("n2", ("192.168.77.12", "fd00:77::12"), ("10.244.2.0/24", "fd00:244:2::/64"))
FAR = Peer("n3", ("172.16.2.13",), ("10.244.3.0/24",))
FAR_BOTH = Peer("n3", ("172.16.2.13", "fd00:88::13"), ("10.244.3.0/24", "fd00:244:3::/64"))
TO_N2 = Route("10.244.2.0/24", 2, "192.168.77.12", OURS)
TUNNEL = 7
TO_FAR = Route("10.244.3.0/24", TUNNEL, "10.244.3.0", OURS, is_onlink=True)


def node(**more: Any) -> Object:
    addresses = [{"type": "Hostname", "address": "n2"}, {"type": "InternalIP", "address": "192.168.77.12"}]
    return {"metadata": {"name": "n2"}, "spec": {"podCIDR": "10.244.2.0/24"}, "status": {"addresses": addresses}} | more


@pytest.mark.parametrize(
    ("obj", "wanted"),
    [
        pytest.param(node(), Peer("n2", ("192.168.77.12",), ("10.244.2.0/24",)), id="whole"),
        pytest.param(node(spec={}), Peer("n2", ("192.168.77.12",), ()), id="no CIDR yet"),
        pytest.param(node(status={}), Peer("n2", (), ("10.244.2.0/24",)), id="no address yet"),
        pytest.param(
            node(spec={"podCIDRs": ["fd00::/64", "10.244.2.0/24"]}),
            Peer("n2", ("192.168.77.12",), ("fd00::/64", "10.244.2.0/24")),
            id="dual stack",
        ),
    ],
)
def test_a_node_is_read(obj: Object, wanted: Peer) -> None:
    assert peers.peer_of(obj) == wanted


def ways(
    other: Peer, backend: Backend = "auto", own: Peer = N1, addresses: list[Address] = ADDRESSES
) -> dict[str, Way]:
    usable = [found.index for found in addresses if peers.has_neighbours(found)]
    found = peers.ways(own, [own, other], peers.places(addresses, usable), backend)
    return {cidr: way for (_, cidr), way in found.items()}


IPV4_ONLY = Peer("n1", ("192.168.77.11",), ("10.244.1.0/24",))


@pytest.mark.parametrize(
    ("other", "backend", "own", "wanted"),
    [
        pytest.param(
            N2,
            "auto",
            N1,
            {"10.244.2.0/24": Direct(2, "192.168.77.12"), "fd00:244:2::/64": Direct(2, "fd00:77::12")},
            id="on our network",
        ),
        pytest.param(
            FAR_BOTH,
            "auto",
            N1,
            {"10.244.3.0/24": Tunnelled(4, "172.16.2.13"), "fd00:244:3::/64": Tunnelled(4, "172.16.2.13")},
            id="behind a router",
        ),
        pytest.param(
            Peer("n4", ("192.168.77.14",), ("10.244.4.0/24", "fd00:244:4::/64")),
            "auto",
            N1,
            {"10.244.4.0/24": Direct(2, "192.168.77.14"), "fd00:244:4::/64": Tunnelled(4, "192.168.77.14")},
            id="on our network with IPv4 alone",
        ),
        pytest.param(
            Peer("n4", ("fd00:88::14",), ("10.244.4.0/24",)),
            "auto",
            N1,
            {"10.244.4.0/24": Tunnelled(6, "fd00:88::14")},
            id="over IPv6",
        ),
        pytest.param(N2, "vxlan", IPV4_ONLY, {c: Tunnelled(4, "192.168.77.12") for c in N2.pod_cidrs}, id="always"),
        pytest.param(
            FAR,
            "host-gw",
            N1,
            {"10.244.3.0/24": Unreachable("172.16.2.13 is on no network of this node, and --backend host-gw makes no tunnels")},
            id="never",
        ),
        pytest.param(
            Peer("n4", ("fd00:88::14",), ("10.244.4.0/24",)),
            "auto",
            IPV4_ONLY,
            {"10.244.4.0/24": Unreachable("this node (192.168.77.11) has no address of its IP version")},
            id="no IP version in common",
        ),
        pytest.param(Peer("n4", (), ("10.244.4.0/24",)), "auto", N1, {}, id="no address yet"),
        pytest.param(Peer("n4", ("192.168.77.14",), ()), "auto", N1, {}, id="no CIDR yet"),
    ],
)  # fmt: skip
def test_behaviour_41_the_way_is_chosen_for_each_peer(
    other: Peer, backend: Backend, own: Peer, wanted: dict[str, Way]
) -> None:
    assert ways(other, backend, own) == wanted


def test_the_narrowest_network_wins_and_a_link_that_is_down_counts_for_none() -> None:
    addresses = [Address(2, "192.168.77.11", 16), Address(3, "192.168.77.111", 24)]
    assert ways(N2, addresses=addresses)["10.244.2.0/24"] == Direct(3, "192.168.77.12")
    found = peers.ways(N1, [N2], peers.places(addresses, [2]), "auto")
    assert found["n2", "10.244.2.0/24"] == Direct(2, "192.168.77.12")
    # No tunnel for the time being: the link comes back, and pods' MTU does not change with every flap.
    found = peers.ways(N1, [N2], peers.places(addresses, [2]), "auto", down={2})
    assert found["n2", "10.244.2.0/24"] == Unreachable("the link towards 192.168.77.12 is down")


@pytest.mark.parametrize(
    ("other", "backend", "versions"),
    [
        pytest.param(N2, "auto", (), id="nobody behind a router"),
        pytest.param(FAR, "auto", (4,), id="somebody"),
        pytest.param(Peer("n4", ("fd00:88::14",), ("10.244.4.0/24",)), "auto", (6,), id="over IPv6"),
        pytest.param(N1, "vxlan", (4,), id="nobody yet"),
        pytest.param(FAR, "host-gw", (), id="never"),
    ],
)
def test_tunnels_stand_before_they_are_needed_where_they_will_be(
    other: Peer, backend: Backend, versions: tuple[int, ...]
) -> None:
    found = peers.ways(N1, [N1, other], peers.places(ADDRESSES, [2]), backend)
    assert peers.tunnel_versions(found, N1, backend) == versions


def wanted(*others: Peer, direct_mtu: int = 0) -> State:
    known = {peer.name: peer for peer in (N1, *others)}
    found = peers.ways(N1, known.values(), peers.places(ADDRESSES, [2]), "auto")
    return plan.wanted(N1, known, found, {4: TUNNEL} if FAR in others else {}, direct_mtu)


def test_what_a_peer_behind_a_router_needs() -> None:
    assert wanted(FAR) == State(
        routes=frozenset(
            {TO_FAR, Route("172.16.2.13/32", TUNNEL, "10.244.3.0", OURS, table=ROUTE_TABLE_NODE, is_onlink=True)}
        ),
        rules=frozenset({RoutingRule("10.244.1.0/24", ROUTE_TABLE_NODE, plan.RULE_PRIORITY, OURS)}),
        addresses=frozenset({Address(TUNNEL, "10.244.1.0", 32), Address(TUNNEL, "fd00:244:1::", 128)}),
        neighbours=frozenset({Neighbour(TUNNEL, "10.244.3.0", mac_of("n3"))}),
        forwarding=frozenset({ForwardingEntry(TUNNEL, mac_of("n3"), "172.16.2.13")}),
    )


def test_of_two_nodes_with_one_cidr_the_first_keeps_it() -> None:
    twin = Peer("n9", ("172.16.2.19",), FAR.pod_cidrs)
    assert wanted(FAR, twin) == wanted(FAR)


def test_mac_addresses_are_unicast_local_and_everybodys_own() -> None:
    names = [f"node-{number}" for number in range(3000)]
    macs = {mac_of(name) for name in names}
    assert len(macs) == len(names)
    assert all(int(mac[:2], 16) & 3 == 2 for mac in macs)
    # All nodes of all versions must agree on it.
    assert mac_of("n1") == "52:2e:e4:98:e6:40"
    assert tunnels.gateway_of("n1", "fd00::/64") == "fe80::502e:e4ff:fe98:e640"


@pytest.mark.parametrize(
    ("standing", "cidrs", "found"),
    [
        pytest.param([Route("0.0.0.0/0", 2, "192.168.77.1", 3)], ["10.96.0.0/16"], set(), id="a default route"),
        pytest.param([], ["10.96.0.0/16"], {Route("10.96.0.0/16", 2, "", OURS)}, id="none"),
        pytest.param(
            [Route("0.0.0.0/0", 2, "192.168.77.1", 3)],
            ["10.96.0.0/16", "fd00:96::/112"],
            {Route("fd00:96::/112", 2, "", OURS)},
            id="none for IPv6",
        ),
    ],
)
def test_services_have_a_route_on_nodes_without_a_default_one(
    standing: list[Route], cidrs: list[str], found: set[Route]
) -> None:
    assert plan.service_routes(N1, cidrs, ADDRESSES, standing) == found


STALE = Route("10.244.9.0/24", 2, "192.168.77.19", OURS)
FOREIGN = Route("10.244.9.0/24", 2, "192.168.77.19", 4)


@pytest.mark.parametrize(
    ("standing", "put", "delete"),
    [
        pytest.param([], {TO_N2}, set(), id="missing"),
        pytest.param([TO_N2], set(), set(), id="stands"),
        pytest.param([Route("10.244.2.0/24", 2, "192.168.77.12", OURS, 0, "192.168.77.11")], set(), set(), id="source"),
        pytest.param([TO_N2, STALE], set(), {STALE}, id="stale"),
        pytest.param([TO_N2, FOREIGN], set(), set(), id="foreign stays"),
        pytest.param([Route("10.244.2.0/24", 2, "192.168.77.99", OURS)], {TO_N2}, set(), id="replaced in place"),
        pytest.param([Route("10.244.2.0/24", 3, "", 3)], set(), set(), id="foreign in the way"),
        pytest.param([Route("10.244.2.0/24", 2, "192.168.77.12", OURS, mtu=900)], {TO_N2}, set(), id="wrong MTU"),
    ],
)
def test_changes_of_routes(standing: list[Route], put: set[Route], delete: set[Route]) -> None:
    todo = plan.changes(State(frozenset(standing)), State(frozenset({TO_N2})))
    assert (set(todo.put.routes), set(todo.delete.routes)) == (put, delete)


def test_foreign_rules_stay_and_strangers_on_our_tunnel_go() -> None:
    stranger = RoutingRule("10.9.0.0/16", 99, 100, 3)
    doubled = ForwardingEntry(TUNNEL, mac_of("n3"), "192.168.77.66")
    todo = plan.changes(State(rules=frozenset({stranger}), forwarding=frozenset({doubled})), wanted(FAR))
    assert todo.delete == State(forwarding=frozenset({doubled}))
    assert todo.put == wanted(FAR)


WHOLE = wanted(FAR, N2)
PIECES = [*sorted(WHOLE.routes), *sorted(WHOLE.forwarding), *sorted(WHOLE.neighbours)]


@given(st.sets(st.sampled_from(range(len(PIECES)))))
def test_whatever_is_missing_is_put_and_then_nothing_is_left_to_do(missing: set[int]) -> None:
    whole = WHOLE
    gone: set[object] = {PIECES[number] for number in missing}
    left = State(whole.routes - gone, whole.rules, whole.addresses, whole.neighbours - gone, whole.forwarding - gone)
    todo = plan.changes(left, whole)
    assert (todo.put.routes | todo.put.neighbours | todo.put.forwarding) == gone
    assert todo.delete == State()
    assert plan.changes(whole, whole).messages() == []


VX = Tunnel(4, "192.168.77.11", mac_of("n1"), 1450, 82, 4789)
GOOD = Link(TUNNEL, "raftsman-vx4", "vxlan", 1450, mac_of("n1"), True, vxlan=Vxlan(82, "192.168.77.11", 4789, False))


@pytest.mark.parametrize(
    ("standing", "made"),
    [
        pytest.param(None, ["create"], id="none"),
        pytest.param(GOOD, [], id="stands"),
        pytest.param(Link(7, GOOD.name, "vxlan", 1450, GOOD.mac, True, vxlan=Vxlan(82, "192.168.77.99", 4789, False)), ["delete", "create"], id="other address"),
        pytest.param(Link(7, GOOD.name, "vxlan", 1450, GOOD.mac, True, vxlan=Vxlan(82, "192.168.77.11", 8472, False)), ["delete", "create"], id="other port"),
        pytest.param(Link(7, GOOD.name, "vxlan", 1450, GOOD.mac, True, vxlan=Vxlan(82, "192.168.77.11", 4789, True)), ["delete", "create"], id="it learns"),
    ],
)  # fmt: skip
def test_a_tunnel_is_made_where_a_wrong_one_stands(standing: Link | None, made: list[str]) -> None:
    assert [message.about.split()[0] for message in tunnels.making(standing, VX)] == made


def test_a_link_with_our_name_that_is_none_of_ours_is_left() -> None:
    theirs = Link(7, GOOD.name, "bridge", 1500, GOOD.mac, True)
    with pytest.raises(TunnelError, match="ip link delete raftsman-vx4"):
        tunnels.making(theirs, VX)
    assert tunnels.removal(theirs) == []


def test_an_uplink_too_small_for_ipv6_is_told() -> None:
    with pytest.raises(TunnelError, match="IPv6 needs 1280"):
        tunnels.wanted(N1, [4], {4: 1300}, RoutesConfig())
    assert tunnels.wanted(IPV4_ONLY, [4], {4: 1300}, RoutesConfig())[0].mtu == 1250
