"""Host ports and bandwidth with real packets: behaviour 40, by cables and by a bridge. Needs root."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.net import sctp
from tests.net.cni_process import (
    BOTH,
    NODE,
    NODE6,
    STRANGER,
    STRANGER6,
    Daemon,
    addresses_of,
    host_links,
    new_pod,
    started,
    stranger_of,
)
from tests.net.topology import Namespace, closing_all, eventually

pytestmark = pytest.mark.root

OTHER, OTHER6 = "192.168.77.12", "fd00:77::12"
"""More addresses of the node."""


@pytest.fixture
def made() -> Iterator[list[Namespace]]:
    with closing_all() as namespaces:
        yield namespaces


@pytest.fixture(scope="module", params=["ptp", "bridge"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with started(tmp_path_factory.mktemp("cni"), BOTH, "--cni-mode", request.param) as daemon:
        daemon.node.ip(f"addr add {OTHER}/24 dev eth0")
        daemon.node.ip(f"addr add {OTHER6}/64 dev eth0 nodad")
        yield daemon


@pytest.fixture
def daemon(shared: Daemon) -> Iterator[Daemon]:
    yield shared
    nothing: dict[str, Any] = {"cni.dev/valid-attachments": []}
    assert shared.call("GC", None, cniVersion="1.1.0", **nothing) == (0, {})


@pytest.fixture
def stranger(daemon: Daemon, made: list[Namespace]) -> Namespace:
    return stranger_of(daemon, made)


def add(daemon: Daemon, pod: Namespace, *mappings: dict[str, Any], **more: Any) -> list[str]:
    code, result = daemon.call("ADD", pod, runtimeConfig={"portMappings": list(mappings), **more})
    assert code == 0, result
    return addresses_of(result)


def mapping(host_port: int, container_port: int, protocol: str = "tcp", host_ip: str = "") -> dict[str, Any]:
    """Return a mapping in containerd's spelling."""
    return {"HostPort": host_port, "ContainerPort": container_port, "Protocol": protocol, "HostIP": host_ip}


def test_behaviour_40_a_host_port_leads_to_the_pod_from_everywhere(
    daemon: Daemon, made: list[Namespace], stranger: Namespace
) -> None:
    pod, neighbour = new_pod(made), new_pod(made)
    own = add(daemon, pod, mapping(8081, 80))
    others = add(daemon, neighbour)
    pod.serve("pod", 80)
    for family, node, outside in ((0, NODE, STRANGER), (0, OTHER, STRANGER), (1, NODE6, STRANGER6)):
        assert stranger.ask(node, 8081) == ("pod", outside)
        assert daemon.node.ask(node, 8081)[0] == "pod"
        assert neighbour.ask(node, 8081) == ("pod", others[family])
        name, seen = pod.ask(node, 8081)  # hairpin: the pod sees the node ask
        assert name == "pod"
        assert seen != own[family]


def test_behaviour_40_on_loopback_host_ports_do_not_answer(daemon: Daemon, made: list[Namespace]) -> None:
    pod = new_pod(made)
    add(daemon, pod, mapping(8081, 80))
    pod.serve("pod", 80)
    for address in ("127.0.0.1", "::1"):
        with pytest.raises(ConnectionRefusedError):
            daemon.node.ask(address, 8081)


def test_behaviour_40_a_host_address_answers_alone(daemon: Daemon, made: list[Namespace], stranger: Namespace) -> None:
    first, second = new_pod(made), new_pod(made)
    add(daemon, first, mapping(8082, 80, host_ip=OTHER))
    add(daemon, second, mapping(8082, 80, host_ip=NODE6))
    first.serve("first", 80)
    second.serve("second", 80)
    assert stranger.ask(OTHER, 8082)[0] == "first"
    assert stranger.ask(NODE6, 8082)[0] == "second"
    for address in (NODE, OTHER6):
        with pytest.raises(ConnectionRefusedError):
            stranger.ask(address, 8082)


def test_behaviour_40_udp_and_tcp_share_a_number(daemon: Daemon, made: list[Namespace], stranger: Namespace) -> None:
    first, second = new_pod(made), new_pod(made)
    add(daemon, first, mapping(5353, 53, "udp"))
    add(daemon, second, mapping(5353, 53, "tcp"))
    first.serve("udp", 53, socket.SOCK_DGRAM)
    second.serve("tcp", 53)
    for address, family in ((NODE, socket.AF_INET), (NODE6, socket.AF_INET6)):
        with stranger.open_socket(socket.SOCK_DGRAM, family) as client:
            assert stranger.ask_by_datagram(client, address, 5353) == "udp"
        assert stranger.ask(address, 5353)[0] == "tcp"


def test_behaviour_40_sctp_reaches_the_pod(daemon: Daemon, made: list[Namespace], stranger: Namespace) -> None:
    pod = new_pod(made)
    add(daemon, pod, mapping(3868, 3869, "sctp"))
    sctp.serve(pod, "pod", 3869)
    assert sctp.ask(stranger, NODE, 3868) == ("pod", STRANGER)
    assert sctp.ask(stranger, NODE6, 3868) == ("pod", STRANGER6)


def test_behaviour_40_a_udp_client_that_keeps_its_port_follows_the_host_port(
    daemon: Daemon, made: list[Namespace], stranger: Namespace
) -> None:
    first, second = new_pod(made), new_pod(made)
    first.serve("first", 53, socket.SOCK_DGRAM)
    second.serve("second", 53, socket.SOCK_DGRAM)
    for address, family in ((NODE, socket.AF_INET), (NODE6, socket.AF_INET6)):
        with stranger.open_socket(socket.SOCK_DGRAM, family) as client:
            assert stranger.ask_by_datagram(client, address, 5354, 0.2) == ""
            add(daemon, first, mapping(5354, 53, "udp"))
            assert stranger.ask_by_datagram(client, address, 5354) == "first"
            assert daemon.call("DEL", first) == (0, {})
            add(daemon, second, mapping(5354, 53, "udp"))
            assert stranger.ask_by_datagram(client, address, 5354) == "second"
            assert daemon.call("DEL", second) == (0, {})


def test_behaviour_40_ports_go_with_their_pod_and_others_stay(
    daemon: Daemon, made: list[Namespace], stranger: Namespace
) -> None:
    first, second = new_pod(made), new_pod(made)
    add(daemon, first, mapping(8083, 80), mapping(8084, 81))
    add(daemon, second, mapping(8085, 80))
    second.serve("second", 80)
    assert daemon.call("DEL", first) == (0, {})
    assert stranger.ask(NODE, 8085)[0] == "second"
    with pytest.raises(ConnectionRefusedError):
        stranger.ask(NODE, 8083)


def test_behaviour_40_ports_outlive_the_daemon_and_come_back_when_taken_away(
    daemon: Daemon, made: list[Namespace], stranger: Namespace
) -> None:
    pod = new_pod(made)
    add(daemon, pod, mapping(8086, 80))
    pod.serve("pod", 80)
    daemon.kill()
    assert stranger.ask(NODE, 8086)[0] == "pod"
    before = daemon.node.run("nft list table inet raftsman-hostports")
    daemon.start()
    assert stranger.ask(NODE, 8086)[0] == "pod"
    assert daemon.node.run("nft list table inet raftsman-hostports") == before

    def is_back() -> bool:
        try:
            return stranger.ask(NODE, 8086)[0] == "pod"
        except ConnectionRefusedError:
            return False

    daemon.node.run("nft delete table inet raftsman-hostports")
    eventually(is_back, 10)


def test_behaviour_40_both_kinds_of_proxy_rules_work_beside_it(
    daemon: Daemon, made: list[Namespace], stranger: Namespace
) -> None:
    pod = new_pod(made)
    address = add(daemon, pod, mapping(8087, 80))[0]
    pod.serve("pod", 80)
    pod.serve("service", 81)
    rules = ("prerouting -p tcp --dport 30080", "prerouting -p tcp --dport 8087")
    daemon.node.run("nft add table ip foreign")
    daemon.node.run("nft add chain ip foreign pre { type nat hook prerouting priority -100 ; }")
    try:
        for rule in rules:
            daemon.node.run(
                f"iptables -t nat -A {rule.upper().split()[0]} {rule.partition(' ')[2]} -j DNAT --to {address}:81"
            )
        daemon.node.run(f"nft add rule ip foreign pre tcp dport 30081 dnat to {address}:81")
        assert stranger.ask(NODE, 8087)[0] == "pod", "the host port comes first"
        assert stranger.ask(NODE, 30080)[0] == "service"
        assert stranger.ask(NODE, 30081)[0] == "service"
    finally:
        daemon.node.run("iptables -t nat -F PREROUTING")
        daemon.node.run("nft delete table ip foreign")


def test_behaviour_40_bandwidth_is_limited_in_both_directions(daemon: Daemon, made: list[Namespace]) -> None:
    pod = new_pod(made)
    limits = {"ingressRate": 8_000_000, "ingressBurst": 2**32 - 1, "egressRate": 80_000_000, "egressBurst": 2**32 - 1}
    address = add(daemon, pod, bandwidth=limits)[0]
    (host,) = host_links(daemon.node)
    outside, inside = f"tc -j -s qdisc show dev {host}", "tc -j -s qdisc show dev eth0"
    (ingress,), (egress,) = json.loads(daemon.node.run(outside)), json.loads(pod.run(inside))
    assert (ingress["kind"], ingress["options"]["rate"]) == ("tbf", 1_000_000)
    assert (egress["kind"], egress["options"]["rate"]) == ("tbf", 10_000_000)
    with pod.open_socket(socket.SOCK_DGRAM) as ear, daemon.node.open_socket(socket.SOCK_DGRAM) as mouth:
        ear.bind(("", 7000))
        for _ in range(300):  # more than a burst: the bucket must have held packets back
            mouth.sendto(bytes(1300), (address, 7000))
        assert json.loads(daemon.node.run(outside))[0]["overlimits"] > 0
        assert ear.recv(2000) == bytes(1300)


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({"bandwidth": {"ingressRate": 10}}, id="too slow"),
        pytest.param({"bandwidth": {"egressRate": "1M"}}, id="no number"),
        pytest.param({"bandwidth": [1]}, id="no object"),
        pytest.param({"portMappings": [{"hostPort": 1}]}, id="no container port"),
        pytest.param({"portMappings": 7}, id="no list"),
    ],
)
def test_behaviour_40_nonsense_is_refused_and_claims_nothing(
    daemon: Daemon, made: list[Namespace], asked: dict[str, Any]
) -> None:
    code, told = daemon.call("ADD", new_pod(made), runtimeConfig=asked)
    assert (code, told["code"]) == (1, 7)
    assert host_links(daemon.node) == []
