"""Packets while Services, endpoints and settings change: affinity, UDP flows, node port addresses, masquerading."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

import pytest

from control.api.meta import Object
from net.proxy.rules import node_port_addresses
from tests.net.packet_cases import BRIEF, NAMES, STICKY, WEB, At, Case
from tests.net.packet_world import (
    MODES,
    Rules,
    World,
    batch,
    built,
    front_address,
    many_endpoints,
    node_port,
    odd_tcp_segment,
    service_object,
    slice_object,
    slice_objects,
)
from tests.net.topology import eventually

pytestmark = pytest.mark.root
VERSIONS = (4, 6)
BOTH = pytest.mark.parametrize("ip_version", VERSIONS)
QUIET_S = 0.2
FRONTS = ("cluster", "balancer", "node_1")


@pytest.fixture(scope="module", params=MODES)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with built(request.param) as made:
        made.sync()
        yield made


def objects(world: World, case: Case, *pods: str) -> list[Object]:
    """Return a case's Service and slices, with other endpoints where pods are named."""
    changed = replace(case, endpoints=tuple(At(pod) for pod in pods)) if pods else case
    return [service_object(case, world.addresses), *slice_objects(changed, world.addresses)]


def move(world: World, case: Case, *pods: str) -> None:
    """Have a case's endpoints be these pods, or none."""
    empty = [found | {"endpoints": []} for found in slice_objects(case, world.addresses)]
    world.add(*(slice_objects(replace(case, endpoints=tuple(At(pod) for pod in pods)), world.addresses) or empty))
    world.sync()


def cluster_ip(case: Case, ip_version: int) -> str:
    return front_address(case.name, "cluster", ip_version)


def front(world: World, case: Case, name: str, ip_version: int) -> tuple[str, int]:
    if name == "node_1":
        return world.addresses[name, ip_version], node_port(case, case.ports[0])
    return front_address(case.name, name, ip_version), case.ports[0].port


@BOTH
def test_behaviour_02_spread_is_even(world: World, ip_version: int) -> None:
    count = 750
    with world.holding(*objects(world, NAMES, "a", "b", "c")):
        met: Counter[str] = Counter()
        asked = [world.open_connected("node_1", cluster_ip(NAMES, ip_version), 53) for _ in range(count)]
        try:
            for flow in asked:
                flow.settimeout(2.0)
                flow.send(b"who?")
            for flow in asked:
                met[flow.recv(200).decode()[0]] += 1
        finally:
            for flow in asked:
                flow.close()
    # Five standard deviations: one run in half a million is unlucky.
    wanted, deviation = len(asked) / 3, (len(asked) * 2 / 9) ** 0.5
    assert all(abs(met[pod] - wanted) < 5 * deviation for pod in "abc"), met


def test_behaviour_04_node_ports_on_chosen_addresses_alone(world: World) -> None:
    others = {4: "192.168.88.11", 6: "fd88::11"}
    port = node_port(WEB, WEB.ports[0])
    for version, other in others.items():
        bits, own = {4: 32, 6: 128}[version], world.addresses["node_1", version]
        batch(world.machines["node_1"], [f"addr add {other}/{bits} dev eth0"])
        batch(world.machines["stranger"], [f"route add {other}/{bits} via {own}"])

    def chosen(*wanted: str) -> Callable[[Rules], dict[str, Any]]:
        def settings(rules: Rules) -> dict[str, Any]:
            local = [*rules.book.node.addresses, *others.values(), "127.0.0.1", "::1"]
            networks, serving = node_port_addresses(wanted, local, rules.book.node, rules.settings.ip_version)
            return {"node_port_cidrs": networks, "node_addresses": serving}

        return settings

    def serving() -> list[str]:
        return [name for name, found in places.items() if all(serves(world, address, port) for address in found)]

    places = {"own": [world.addresses["node_1", version] for version in VERSIONS], "other": list(others.values())}
    with world.holding(*objects(world, WEB)):
        assert serving() == ["own", "other"]
        with world.using(chosen("primary")):
            assert serving() == ["own"]
        with world.using(chosen("192.168.88.0/24", "fd88::/64")):
            assert serving() == ["other"]


def serves(world: World, address: str, port: int) -> bool:
    """Tell whether a stranger reaches a pod there; where not, the node itself refuses."""
    try:
        return world.ask("stranger", address, port)[0] in "abc"
    except ConnectionRefusedError:
        return False


def test_behaviour_07_a_changed_or_deleted_service_leaves_nothing(world: World) -> None:
    before = standing(world)
    first, *slices = objects(world, BRIEF)
    old, new = ([cluster_ip(case, version) for version in VERSIONS] for case in (BRIEF, STICKY))
    with world.holding(first, *slices):
        assert all(world.ask("pod_b", address, 80)[0] in "ac" for address in old)
        world.add(first | {"spec": first["spec"] | {"clusterIPs": new, "clusterIP": new[0]}})
        world.sync()
        assert all(world.ask("pod_b", address, 80)[0] in "ac" for address in new)
        assert all(is_unserved(world, address) for address in old)
    assert all(is_unserved(world, address) for address in new)
    assert standing(world) == before


def is_unserved(world: World, address: str) -> bool:
    try:
        world.ask("pod_b", address, 80, timeout_s=QUIET_S)
    except ConnectionRefusedError:
        return False
    except OSError:  # the network knows no way there, or nobody answers
        return True
    return False


def standing(world: World) -> set[str]:
    """Return every rule, chain and element of the first node, counters aside."""
    node = world.nodes[0]
    if world.mode == "nftables":
        return {line.strip() for line in node.run("nft -s list ruleset").splitlines() if not line.startswith("#")}
    backend = world.mode.removeprefix("iptables-")
    saved = "".join(node.run(f"{program}-{backend}-save") for program in ("iptables", "ip6tables"))
    return {line.partition(" [")[0] for line in saved.splitlines() if not line.startswith("#")}


@BOTH
def test_behaviour_19_affinity_holds_per_client_until_the_endpoint_goes(world: World, ip_version: int) -> None:
    address = cluster_ip(STICKY, ip_version)
    with world.holding(*objects(world, STICKY)):
        for client in ("pod_b", "node_1", "stranger"):
            for port in (80, 443):
                assert len({world.ask(client, address, port)[0] for _ in range(8)}) == 1
        held = world.ask("pod_b", address, 80)[0]
        others = sorted(set("abc") - {held})
        move(world, STICKY, *others)
        after = {world.ask("pod_b", address, 80)[0] for _ in range(8)}
        assert len(after) == 1
        assert after < set(others)
        move(world, STICKY, held, *others)
        assert {world.ask("pod_b", address, 80)[0] for _ in range(8)} == after, "a newcomer takes nobody away"


def test_behaviour_19_affinity_ends_with_its_timeout_and_is_refreshed_by_use(world: World) -> None:
    timeout = {"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 2}}}
    sticky = replace(STICKY, spec=STICKY.spec | timeout)
    with world.holding(*objects(world, sticky)):
        places = [cluster_ip(sticky, version) for version in (4, 6)]
        held = {place: world.ask("pod_b", place, 80)[0] for place in places}
        until = time.monotonic() + 3.0
        while time.monotonic() < until:
            assert {place: world.ask("pod_b", place, 80)[0] for place in places} == held
            time.sleep(0.2)
        moved: set[str] = set()
        deadline = time.monotonic() + 60.0
        while moved != set(places):
            assert time.monotonic() < deadline
            time.sleep(2.2)  # what is waited for is that nothing happens
            now = {place: world.ask("pod_b", place, 80)[0] for place in places}
            moved |= {place for place in places if now[place] != held[place]}


def test_behaviour_20_udp_flows_follow_their_service(world: World) -> None:
    places = [front(world, NAMES, name, version) for name in FRONTS for version in VERSIONS]
    with world.holding(*objects(world, NAMES)), ExitStack() as opened:
        # One socket a front, so one tracked flow: only a dropped entry brings it to a new endpoint.
        flows = [opened.enter_context(world.open_connected("pod_b", *place)) for place in places]
        for flow in flows:
            flow.settimeout(QUIET_S)

        def all_answer(wanted: str) -> bool:
            return [answer(flow) for flow in flows] == [wanted] * len(flows)

        assert all_answer("a")
        move(world, NAMES, "c")
        eventually(lambda: all_answer("c"))
        move(world, NAMES)
        eventually(lambda: all_answer(""))
        move(world, NAMES, "a")
        eventually(lambda: all_answer("a"))
        move(world, NAMES, "a", "c")
        assert all(all_answer("a") for _ in range(4)), "a healthy flow stays where it is"


def answer(flow: socket.socket) -> str:
    with suppress(ConnectionRefusedError, TimeoutError, PermissionError):
        flow.send(b"who?")
        return flow.recv(200).decode()[:1]
    with suppress(ConnectionRefusedError, TimeoutError):
        flow.recv(200)  # an error of the one before
    return ""


def test_behaviour_21_invalid_packets_pass_only_where_tracking_is_liberal(world: World) -> None:
    with world.using(lambda _: {"conntrack_be_liberal": True}):
        assert all(odd_packet_passes(world, version, 4001) for version in VERSIONS)
    assert not any(odd_packet_passes(world, version, 4002) for version in VERSIONS)


def odd_packet_passes(world: World, ip_version: int, source_port: int) -> bool:
    """Send a segment that no connection has from the stranger to a pod; tell whether it arrives."""
    family, start = {4: (socket.AF_INET, 20), 6: (socket.AF_INET6, 0)}[ip_version]
    target = world.addresses["pod_a", ip_version]
    with (
        world.machines["stranger"].open_socket(socket.SOCK_RAW, family, socket.IPPROTO_TCP) as sender,
        world.machines["pod_a"].open_socket(socket.SOCK_RAW, family, socket.IPPROTO_TCP) as seen,
    ):
        seen.settimeout(QUIET_S)
        sender.sendto(odd_tcp_segment(source_port, 8080), (target, 0))
        with suppress(TimeoutError):
            while True:
                if int.from_bytes(seen.recv(200)[start : start + 2], "big") == source_port:
                    return True
    return False


def test_behaviour_23_masquerading_by_choice(world: World) -> None:
    clients = {version: world.addresses["pod_b", version] for version in VERSIONS}
    port = node_port(WEB, WEB.ports[0])

    def seen_by_cluster_ip() -> dict[int, str]:
        return {version: world.ask("pod_b", cluster_ip(WEB, version), 80)[1] for version in VERSIONS}

    with world.holding(*objects(world, WEB, "a")):
        assert seen_by_cluster_ip() == clients
        with world.using(lambda _: {"masquerade_all": True}):
            assert not set(seen_by_cluster_ip().values()) & set(clients.values())
        with world.using(lambda _: {"masquerade_bit": 17}):
            assert seen_by_cluster_ip() == clients
            for version in VERSIONS:
                node, stranger = (world.addresses[name, version] for name in ("node_1", "stranger"))
                assert world.ask("stranger", node, port)[1] != stranger
            assert world.mode == "nftables" or any("0x20000" in line for line in standing(world))
        assert any("random" in line for line in standing(world) if "masquerade" in line.lower())


def test_behaviour_18_more_than_a_thousand_endpoints_over_slices(world: World) -> None:
    count, ports = 1001, [{"name": "main", "port": 8080, "protocol": "TCP"}]
    entries = many_endpoints(6, count)
    slices = [slice_object("web", "1", 6, ports, entries[:600]), slice_object("web", "2", 6, ports, entries[500:])]
    with world.holding(service_object(WEB, world.addresses), *slices):
        assert {world.ask("pod_b", cluster_ip(WEB, 6), 80)[0] for _ in range(30)} == {"c"}
        (rules,) = world.rules[1].book.services()["default/web"]
        assert len(rules.cluster) == count
