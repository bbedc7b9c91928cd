"""The way from node to node: by whose address, through which tunnel, and how large packets may be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from net.explain import parties, steps, way, words
from net.explain.steps import Explanation, Question, Scene
from net.explain.things import Place, Standing
from net.links import Address, ForwardingEntry, Link, Neighbour, Route
from net.routes.tunnels import gateway_of, mac_of
from tests.net.explaining import SETTINGS, client, cluster, node, pod

FAR = node("n2", 2)
FAR["status"]["addresses"][0]["address"] = "172.16.2.12"
GATEWAY, MAC = gateway_of("n2", "10.244.2.0/24"), mac_of("n2")
N1 = Standing(
    links=(Link(2, "eth0", "", 1500, "02:00:00:00:00:01", True), Link(9, "raftsman-vx4", "vxlan", 1450, MAC, True)),
    addresses=(Address(2, "192.168.77.11", 24),),
    routes=(Route("0.0.0.0/0", 2, "192.168.77.1"), Route("10.244.2.0/24", 9, GATEWAY)),
    neighbours=(Neighbour(9, GATEWAY, MAC),),
    forwarding=(ForwardingEntry(9, MAC, "172.16.2.12"),),
)
CLIENT = Standing(
    links=(Link(2, "eth0", "veth", 1450, "02:00:00:00:00:02", True),),
    addresses=(Address(2, "10.244.1.2", 32),),
    routes=(Route("0.0.0.0/0", 2, "169.254.1.1"),),
)


def ask(standing: Standing, far: bool = True, mtu: int = 1450) -> Explanation:
    """Explain the way from a pod of n1 to one of n2, behind a router or on the same network."""
    pods = [client(), pod("web-1", "10.244.2.7", "n2", app="web")]
    hub = cluster(*pods, node("n1", 1), FAR if far else node("n2", 2))
    own = replace(CLIENT, links=(replace(CLIENT.links[0], mtu=mtu),))
    standings = {Place("n1"): standing, Place("n1", "default/client"): own}
    scene = Scene(hub, SETTINGS, standings=standings)
    source = parties.find_source("client", hub, "default")
    question = Question(source, parties.find_target("web-1", hub, "default"))
    return steps.check(way.explain(question, scene, words.vocabularies(scene)), standings)


def test_behaviour_41_a_peer_behind_a_router_is_reached_by_a_tunnel_and_a_neighbour_directly() -> None:
    tunnelled = ask(N1)
    assert tunnelled.why == ""
    route = next(step for step in tunnelled.every_step() if step.hook == "route")
    assert route.words == "10.244.2.7 is behind node n2, reached by VXLAN raftsman-vx4 to 172.16.2.12, MTU 1450"
    direct = replace(N1, routes=(Route("10.244.2.0/24", 2, "192.168.77.12"),))
    near = ask(direct, far=False)
    assert near.why == ""
    route = next(step for step in near.every_step() if step.hook == "route")
    assert route.words == ("10.244.2.7 is behind node n2 at 192.168.77.12, on the network of eth0 (host-gw), MTU 1500")


@pytest.mark.parametrize(
    ("standing", "finding"),
    [
        pytest.param(
            replace(N1, routes=N1.routes[:1]),
            f"the kernel routes 10.244.2.7 by 0.0.0.0/0 via 192.168.77.1 dev eth0, not via {GATEWAY} dev raftsman-vx4",
            id="route",
        ),
        pytest.param(replace(N1, neighbours=()), f"the neighbour {GATEWAY} is not pinned", id="neighbour"),
        pytest.param(replace(N1, forwarding=()), f"the tunnel does not know where {MAC} is", id="forwarding"),
        pytest.param(
            replace(N1, forwarding=(ForwardingEntry(9, MAC, "172.16.2.99"),)),
            f"the tunnel sends {MAC} to 172.16.2.99, not 172.16.2.12", id="stale forwarding",
        ),
        pytest.param(
            replace(N1, links=(N1.links[0], replace(N1.links[1], is_up=False))), "link raftsman-vx4 is down", id="link",
        ),
    ],
)  # fmt: skip
def test_each_piece_of_a_tunnel_that_lacks_is_named(standing: Standing, finding: str) -> None:
    assert ask(standing).findings == (f"node n1: {finding}",)


def test_a_pod_with_larger_packets_than_the_way_takes_is_noted() -> None:
    assert ask(N1).notes == ()
    assert ask(N1, mtu=1500).notes == (
        "Pod default/client may send 1500 bytes, and the way to node n2 takes 1450: "
        "node n1 answers larger packets with 'fragmentation needed'.",
    )
