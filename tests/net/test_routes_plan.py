"""Which routes stand, and which packets are masqueraded."""

from __future__ import annotations

from typing import Any

import pytest

from control.api.meta import Object
from net import chains
from net.links import Address, Route
from net.messages import ROUTE_PROTOCOL_NODE
from net.routes import masquerade, plan
from net.routes.plan import Peer
from tests.fakes.fake_iptables import End, FakeIptables, Packet

OURS = ROUTE_PROTOCOL_NODE
ADDRESSES = [Address(1, "127.0.0.1", 8), Address(2, "192.168.77.11", 24)]
DEFAULT = Route("0.0.0.0/0", 2, "192.168.77.1", 3)
N1 = Peer("n1", "192.168.77.11", ("10.244.1.0/24",))
N2 = Peer("n2", "192.168.77.12", ("10.244.2.0/24",))
TO_N2 = Route("10.244.2.0/24", 2, "192.168.77.12", OURS)


def node(**more: Any) -> Object:
    addresses = [{"type": "Hostname", "address": "n2"}, {"type": "InternalIP", "address": "192.168.77.12"}]
    return {"metadata": {"name": "n2"}, "spec": {"podCIDR": "10.244.2.0/24"}, "status": {"addresses": addresses}} | more


@pytest.mark.parametrize(
    ("obj", "wanted"),
    [
        pytest.param(node(), N2, id="whole"),
        pytest.param(node(spec={}), Peer("n2", "192.168.77.12", ()), id="no CIDR yet"),
        pytest.param(node(status={}), Peer("n2", "", ("10.244.2.0/24",)), id="no address yet"),
        pytest.param(node(spec={"podCIDRs": ["fd00::/64", "10.244.2.0/24"]}), N2, id="dual stack"),
    ],
)
def test_a_node_is_read(obj: Object, wanted: Peer) -> None:
    assert plan.peer_of(obj) == wanted


@pytest.mark.parametrize(
    ("peers", "standing", "routes"),
    [
        pytest.param([N1, N2], [DEFAULT], (TO_N2,), id="one peer"),
        pytest.param([N1], [DEFAULT], (), id="alone"),
        pytest.param([N1, Peer("n3", "", ("10.244.3.0/24",))], [DEFAULT], (), id="peer without address"),
        pytest.param([N1, Peer("n3", "192.168.77.13", ())], [DEFAULT], (), id="peer without CIDR"),
        pytest.param([N1], [], (Route("10.96.0.0/16", 2, "", OURS),), id="no default route"),
    ],
)
def test_wanted_routes(peers: list[Peer], standing: list[Route], routes: tuple[Route, ...]) -> None:
    assert plan.wanted("n1", peers, ADDRESSES, standing, "10.96.0.0/16").routes == routes


def test_a_peer_on_another_network_is_told() -> None:
    planned = plan.wanted("n1", [N1, Peer("n3", "172.16.0.3", ("10.244.3.0/24",))], ADDRESSES, [DEFAULT])
    assert planned.routes == ()
    assert planned.unreachable == {"n3": "172.16.0.3 is on no network of this node"}


STALE = Route("10.244.9.0/24", 2, "192.168.77.19", OURS)
FOREIGN = Route("10.244.9.0/24", 2, "192.168.77.19", 4)


@pytest.mark.parametrize(
    ("standing", "put", "delete"),
    [
        pytest.param([], (TO_N2,), (), id="missing"),
        pytest.param([TO_N2], (), (), id="stands"),
        pytest.param([Route("10.244.2.0/24", 2, "192.168.77.12", OURS, 0, "192.168.77.11")], (), (), id="with source"),
        pytest.param([TO_N2, STALE], (), (STALE,), id="stale"),
        pytest.param([TO_N2, FOREIGN], (), (), id="foreign stays"),
        pytest.param([Route("10.244.2.0/24", 2, "192.168.77.99", OURS)], (TO_N2,), (), id="replaced in place"),
        pytest.param([Route("10.244.2.0/24", 3, "", 3)], (), (), id="foreign in the way"),
    ],
)
def test_changes(standing: list[Route], put: tuple[Route, ...], delete: tuple[Route, ...]) -> None:
    todo = plan.changes([DEFAULT, *standing], plan.RoutePlan((TO_N2,)))
    assert (todo.put, todo.delete) == (put, delete)


@pytest.mark.parametrize(
    ("source", "target", "masqueraded"),
    [
        pytest.param("10.244.1.5", "203.0.113.9", True, id="pod to outside"),
        pytest.param("10.244.1.5", "10.244.2.9", False, id="pod to pod"),
        pytest.param("10.244.1.5", "192.168.77.12", False, id="pod to node"),
        pytest.param("10.244.1.5", "224.0.0.251", False, id="pod to group"),
        pytest.param("192.168.77.11", "203.0.113.9", False, id="node to outside"),
        pytest.param("10.244.2.9", "203.0.113.9", False, id="another node's pod"),
    ],
)
@pytest.mark.parametrize("cidrs", [pytest.param((), id="per node"), pytest.param(("10.244.0.0/16",), id="one CIDR")])
def test_masquerading(source: str, target: str, masqueraded: bool, cidrs: tuple[str, ...]) -> None:
    fake = FakeIptables()
    fake.apply(chains.difference({}, masquerade.rules(N1, [N1, N2], cidrs), masquerade.JUMPS, masquerade.owned))
    assert fake.trace(Packet(source, target, 80)) == {End("ACCEPT", f"{target}:80", masqueraded)}


@pytest.mark.parametrize(
    ("source", "target", "verdict"),
    [
        pytest.param("10.244.1.5", "203.0.113.9", "ACCEPT", id="from a pod"),
        pytest.param("203.0.113.9", "10.244.1.5", "ACCEPT", id="to a pod"),
        pytest.param("203.0.113.9", "198.51.100.7", "DROP", id="of strangers"),
        pytest.param("10.244.1.5", "192.0.2.66", "DROP", id="what another rule forbids"),
    ],
)
def test_pods_packets_pass_a_firewall_that_drops(source: str, target: str, verdict: str) -> None:
    fake = FakeIptables()
    fake.apply("*filter\n-A FORWARD -d 192.0.2.66/32 -j DROP\nCOMMIT\n")
    fake.policies["FORWARD"] = "DROP"
    fake.apply(chains.difference({}, masquerade.rules(N1, [N1, N2]), masquerade.JUMPS, masquerade.owned))
    assert {end.verdict for end in fake.trace(Packet(source, target, 80))} == {verdict}
