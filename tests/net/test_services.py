"""The change tracker: whatever the order of events, it ends where a fresh reading of the objects does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.api.meta import Object
from net.proxy import conntrack
from net.proxy.conntrack import Flow, Place, place
from net.proxy.rules import NodeFacts, RuleBook, allowed_sources, cluster_pool, node_port_addresses
from net.proxy.services import ChangeTracker, Endpoint, PortName, parse_service, parse_slice

WEB = PortName("default/web", "http", "TCP")


def service(**spec: Any) -> Object:
    base = {"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80}]}
    return {"metadata": {"name": "web", "namespace": "default"}, "spec": base | spec}


def slice_of(name: str, *addresses: str, service_name: str = "web", ready: bool = True) -> Object:
    return {
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": service_name}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": ready}} for address in addresses],
    }


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        pytest.param({}, 1, id="plain"),
        pytest.param({"clusterIP": "None"}, 0, id="headless"),
        pytest.param({"clusterIP": ""}, 0, id="not allocated yet"),
        pytest.param({"type": "ExternalName"}, 0, id="external name"),
        pytest.param({"clusterIPs": ["fd00::1"], "clusterIP": "fd00::1"}, 0, id="other family"),
        pytest.param({"clusterIPs": ["fd00::1", "10.96.0.1"]}, 1, id="dual stack, second"),
        pytest.param({"ports": None}, 0, id="no ports"),
    ],
)
def test_which_services_are_served(spec: dict[str, Any], count: int) -> None:
    assert len(parse_service(service(**spec), 4)) == count


@pytest.mark.parametrize(
    ("spec", "port"),
    [
        pytest.param({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}, 30999, id="balanced and local"),
        pytest.param({"type": "LoadBalancer", "externalTrafficPolicy": "Cluster"}, 0, id="balanced, cluster"),
        pytest.param({"type": "NodePort", "externalTrafficPolicy": "Local"}, 0, id="nobody balances"),
    ],
)
def test_which_services_have_a_health_check(spec: dict[str, Any], port: int) -> None:
    (parsed,) = parse_service(service(healthCheckNodePort=30999, **spec), 4)
    assert parsed.health_check_node_port == port


def test_addresses_are_kept_in_the_kernels_spelling() -> None:
    spec = {
        "clusterIPs": ["10.96.0.1", "FD00:0:0::00A1"],
        "externalIPs": ["2001:DB8::0:9", "198.51.100.9", "not one"],
        "loadBalancerSourceRanges": [" 2001:db8::1/32 ", "198.51.100.7/24"],
    }
    (six,) = parse_service(service(**spec), 6)
    assert (six.cluster_ip, six.external_ips, six.source_ranges) == ("fd00::a1", ("2001:db8::9",), ("2001:db8::/32",))
    (four,) = parse_service(service(**spec), 4)
    assert (four.external_ips, four.source_ranges) == (("198.51.100.9",), ("198.51.100.0/24",))
    obj = slice_of("a", "FD00:0::2", "10.0.0.1") | {"addressType": "IPv6"}
    assert [endpoint.ip for endpoint in parse_slice(obj)[("http", "TCP")]] == ["fd00::2"]


OWN = ["127.0.0.1", "192.168.77.11", "172.16.0.1", "::1", "fd77::11"]


@pytest.mark.parametrize(
    ("wanted", "ip_version", "cidrs", "addresses"),
    [
        pytest.param([], 4, (), (), id="all"),
        pytest.param(["0.0.0.0/0"], 4, (), (), id="all, said aloud"),
        pytest.param(["172.16.0.0/12"], 4, ("172.16.0.0/12",), ("172.16.0.1",), id="network"),
        pytest.param(["172.16.0.0/12"], 6, (), (), id="the other family's network"),
        pytest.param(["127.0.0.0/8"], 4, ("127.0.0.0/8",), (), id="loopback never"),
        pytest.param(["primary"], 4, ("primary",), ("192.168.77.11",), id="primary"),
        pytest.param(["primary"], 6, ("primary",), ("fd77::11",), id="primary, IPv6"),
        pytest.param(["192.0.2.0/24"], 4, ("192.0.2.0/24",), (), id="nothing there"),
    ],
)
def test_which_addresses_serve_node_ports(wanted: list[str], ip_version: int, cidrs: Any, addresses: Any) -> None:
    node = NodeFacts("n1", addresses=("192.168.77.11", "fd77::11"))
    assert node_port_addresses(wanted, OWN, node, ip_version) == (cidrs, addresses)


@pytest.mark.parametrize(
    ("ranges", "allowed"),
    [
        pytest.param([], (), id="everyone"),
        pytest.param(["203.0.113.0/24"], ("203.0.113.0/24",), id="strangers"),
        pytest.param(["192.168.0.0/16"], ("192.168.0.0/16", "198.51.100.1"), id="the node to its own balancer"),
        pytest.param(["fd00::/8"], (), id="the other family"),
    ],
)
def test_who_may_use_a_load_balancer(ranges: list[str], allowed: tuple[str, ...]) -> None:
    obj = service(type="LoadBalancer", loadBalancerSourceRanges=ranges)
    obj["status"] = {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}, {"ip": "fd99::1"}]}}
    (port,) = parse_service(obj, 4)
    assert allowed_sources(port, NodeFacts("n1", addresses=("fd77::11", "192.168.77.11"))) == allowed


def hinted(ip: str, zones: str = "", nodes: str = "", *, ready: bool = True, terminating: bool = False) -> Endpoint:
    hints = tuple(zones.split()), tuple(nodes.split())
    return Endpoint(ip, 80, "", ready, True, terminating, *hints)


@pytest.mark.parametrize(
    ("endpoints", "near"),
    [
        pytest.param([hinted("1", "a"), hinted("2", "b")], {"1"}, id="zone"),
        pytest.param([hinted("1", "a"), hinted("2")], {"1", "2"}, id="one without a hint"),
        pytest.param([hinted("1", "b"), hinted("2", "c")], {"1", "2"}, id="none for this zone"),
        pytest.param([hinted("1", "a", "n1"), hinted("2", "a", "n2")], {"1"}, id="node before zone"),
        pytest.param([hinted("1", "a", "n2"), hinted("2", "b", "n3")], {"1"}, id="zone where no node"),
        pytest.param([hinted("1", "a"), hinted("2", ready=False)], {"1"}, id="only the ready ones' hints count"),
        pytest.param(
            [hinted("1", "b", ready=False, terminating=True), hinted("2", "a", ready=False)], {"1"}, id="last resort"
        ),
    ],
)
def test_behaviour_13_hints(endpoints: list[Endpoint], near: set[str]) -> None:
    pool = cluster_pool(tuple(endpoints), NodeFacts("n1", "a"))
    assert {endpoint.ip for endpoint in pool} == near


def test_ready_endpoints_alone_count_for_the_health_check() -> None:
    tracker, book = ChangeTracker(), RuleBook(NodeFacts("n1"))
    spec = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30999}
    tracker.service_changed("default/web", service(**spec))
    obj = slice_of("a", "10.0.0.1", "10.0.0.2", "10.0.0.3")
    for entry, node in zip(obj["endpoints"], ["n1", "n1", "n2"], strict=True):
        entry["nodeName"] = node
    obj["endpoints"][0]["conditions"] = {"ready": False, "serving": True, "terminating": True}
    tracker.slice_changed("default/a", obj)
    assert book.update(tracker, tracker.take_changes()) == {"default/web"}
    assert (book.health_checks(), book.ready_here("default/web")) == ({30999: "default/web"}, 1)
    assert book.update(tracker, {"default/web"}) == set()
    tracker.service_changed("default/web", None)
    assert book.update(tracker, tracker.take_changes()) == {"default/web"}
    assert (book.health_checks(), book.services()) == ({}, {})


def test_another_proxys_services_are_left_alone() -> None:
    other = service()
    other["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": "other"}
    assert parse_service(other, 4) == ()


def test_defaults_of_affinity_and_protocol() -> None:
    (port,) = parse_service(service(sessionAffinity="ClientIP"), 4)
    assert (port.affinity_timeout_s, port.name.protocol) == (10800, "TCP")


@pytest.mark.parametrize(
    ("conditions", "wanted"),
    [
        pytest.param({}, (True, True, False), id="nothing said"),
        pytest.param({"ready": None}, (True, True, False), id="null"),
        pytest.param({"ready": False}, (False, False, False), id="not ready"),
        pytest.param({"ready": False, "serving": True, "terminating": True}, (False, True, True), id="terminating"),
    ],
)
def test_conditions(conditions: dict[str, Any], wanted: tuple[bool, bool, bool]) -> None:
    obj = slice_of("a", "10.0.0.1")
    obj["endpoints"][0]["conditions"] = conditions
    (endpoint,) = parse_slice(obj)[("http", "TCP")]
    assert (endpoint.ready, endpoint.serving, endpoint.terminating) == wanted


def test_slices_are_merged_and_the_readiest_wins() -> None:
    tracker = ChangeTracker()
    tracker.slice_changed("default/a", slice_of("a", "10.0.0.2", "10.0.0.1"))
    tracker.slice_changed("default/b", slice_of("b", "10.0.0.2", "10.0.0.3", ready=False))
    assert [(e.ip, e.ready) for e in tracker.endpoints_of(WEB)] == [
        ("10.0.0.1", True),
        ("10.0.0.2", True),
        ("10.0.0.3", False),
    ]


def test_only_real_changes_are_changes() -> None:
    tracker = ChangeTracker()
    assert tracker.service_changed("default/web", service())
    assert tracker.slice_changed("default/a", slice_of("a", "10.0.0.1"))
    assert tracker.take_changes() == {"default/web"}
    touched = service()
    touched["metadata"]["annotations"] = {"note": "changed"}
    assert not tracker.service_changed("default/web", touched)
    assert not tracker.slice_changed("default/a", slice_of("a", "10.0.0.1"))
    assert not tracker.slice_changed("default/zzz", None)
    assert tracker.take_changes() == set()


def test_a_slice_that_moves_touches_both_services() -> None:
    tracker = ChangeTracker()
    tracker.slice_changed("default/a", slice_of("a", "10.0.0.1"))
    tracker.take_changes()
    tracker.slice_changed("default/a", slice_of("a", "10.0.0.1", service_name="other"))
    assert tracker.take_changes() == {"default/web", "default/other"}
    assert tracker.endpoints_of(WEB) == ()
    tracker.slice_changed("default/a", None)
    assert not tracker.slices


ADDRESSES = st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3"]), max_size=3)
SLICES = st.builds(
    lambda name, owner, addresses, ready: (name, slice_of(name, *addresses, service_name=owner, ready=ready)),
    st.sampled_from("abc"),
    st.sampled_from(["web", "other", ""]),
    ADDRESSES,
    st.booleans(),
)
GONE = st.builds(lambda name: (name, None), st.sampled_from("abc"))


@given(st.lists(st.one_of(SLICES, GONE), max_size=20))
def test_any_history_ends_like_a_fresh_start(history: list[tuple[str, Object | None]]) -> None:
    tracker, last = ChangeTracker(), dict[str, Object | None]()
    names = [PortName(f"default/{owner}", "http", "TCP") for owner in ("web", "other")]
    for key, obj in history:
        before = {name.service: tracker.endpoints_of(name) for name in names}
        tracker.slice_changed(f"default/{key}", obj)
        last[key] = obj
        after = {name.service: tracker.endpoints_of(name) for name in names}
        touched = {service for service in after if after[service] != before[service]}
        assert touched <= tracker.take_changes()
    fresh = ChangeTracker()
    for key, obj in last.items():
        fresh.slice_changed(f"default/{key}", obj)
    assert [tracker.endpoints_of(name) for name in names] == [fresh.endpoints_of(name) for name in names]
    assert tracker.slices == fresh.slices


def test_endpoints_are_written_by_family() -> None:
    assert str(Endpoint("10.0.0.1", 80)) == "10.0.0.1:80"
    assert str(Endpoint("fd00::1", 80)) == "[fd00::1]:80"


OLD, NEW, DNS = place("10.244.1.2", 5353), place("10.244.2.2", 5353), place("10.96.0.10", 53)
CLIENT = place("10.244.1.9", 4711)
NODE = "192.168.77.11"


@pytest.mark.parametrize(
    ("flow", "fronts", "is_stale"),
    [
        pytest.param(Flow(CLIENT, DNS, OLD), {DNS: {OLD}}, False, id="healthy"),
        pytest.param(Flow(CLIENT, DNS, OLD), {DNS: {NEW}}, True, id="endpoint replaced"),
        pytest.param(Flow(CLIENT, DNS, DNS), {DNS: {NEW}}, True, id="began before the first endpoint"),
        pytest.param(Flow(CLIENT, DNS, OLD), {DNS: set()}, True, id="last endpoint gone"),
        pytest.param(Flow(CLIENT, DNS, DNS), {DNS: set()}, False, id="nothing to do yet"),
        pytest.param(Flow(CLIENT, place("8.8.8.8", 53), place("8.8.8.8", 53)), {DNS: {NEW}}, False, id="not a service"),
        pytest.param(Flow(CLIENT, place(NODE, 30053), OLD), {place("", 30053): {NEW}}, True, id="node port"),
        pytest.param(
            Flow(CLIENT, place("8.8.8.8", 30053), place("8.8.8.8", 30053)),
            {place("", 30053): {NEW}},
            False,
            id="same port elsewhere",
        ),
    ],
)
def test_stale_flows(flow: Flow, fronts: dict[Place, set[Place]], is_stale: bool) -> None:
    leads_to = {place: frozenset(endpoints) for place, endpoints in fronts.items()}
    assert (conntrack.stale([flow], leads_to, frozenset({NODE})) == [flow]) is is_stale


def test_fronts_hold_what_still_serves() -> None:
    tracker = ChangeTracker()
    ports = [{"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053}, {"name": "http", "port": 80}]
    tracker.service_changed("default/web", service(ports=ports))
    obj = slice_of("a", "10.0.0.1", "10.0.0.2")
    obj["ports"] = [{"name": "dns", "port": 5353, "protocol": "UDP"}]
    obj["endpoints"][0]["conditions"] = {"ready": False, "serving": True, "terminating": True}
    obj["endpoints"][1]["conditions"] = {"ready": False}
    tracker.slice_changed("default/a", obj)
    serving = frozenset({place("10.0.0.1", 5353)})
    assert conntrack.fronts(tracker) == {place("10.96.0.1", 53): serving, place("", 30053): serving}
