"""DNS on a node's own addresses, asked by a pod with real packets."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import dns.exception
import dns.message
import pytest

from control.api.resources import ENDPOINT_SLICES, NAMESPACES, SERVICES
from net.dns.config import NODE_LOCAL_ADDRESSES, DnsConfig
from net.dns.server import DnsServer, retire
from net.links import Event
from net.netlink import RouteEvents, inside
from tests.net.dnsworld import SERVICES_THERE, SLICES_THERE, texts
from tests.net.topology import Fabric, Namespace, Node, Pod, closing_all, eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
WEB = "web.default.svc.cluster.local."
FOUR, SIX = NODE_LOCAL_ADDRESSES
CLUSTER_IP = "10.96.0.10"


class Place:
    """A node that serves DNS, and a pod on it."""

    def __init__(self, made: list[Namespace], directory: Path) -> None:
        fabric = Fabric()
        made.append(fabric)
        self.node = Node(1, fabric)
        made.append(self.node)
        self.pod: Pod = self.node.add_pod()
        made.append(self.pod)
        self.node.put(NAMESPACES, {"metadata": {"name": "default"}})
        for found in SERVICES_THERE:
            self.node.put(SERVICES, found)
        for found in SLICES_THERE:
            self.node.put(ENDPOINT_SLICES, found)
        self.config = DnsConfig(
            control_socket=directory / "dns.sock", metrics_bind_address="", upstream=("127.0.0.1:9",)
        )
        self.server = self.node.call(self._made())
        self.task = self.node.start(self.server.serve())

    @property
    def pid(self) -> int:
        """The resolver's process; 0 while there is none."""
        return self.server.resolver.pid if self.server.resolver is not None else 0

    async def _made(self) -> DnsServer:
        return DnsServer(self.config, self.node.client)

    def ask(
        self, who: Namespace, address: str, kind: str = "A", *, by_stream: bool = False, timeout_s: float = 5.0
    ) -> dns.message.Message:
        """Ask for the Service from a namespace; a failure is an empty answer."""
        query = dns.message.make_query(WEB, kind)
        with inside(who.descriptor):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            client = socket.socket(family, socket.SOCK_STREAM if by_stream else socket.SOCK_DGRAM)
        with client:
            client.settimeout(timeout_s)
            try:
                client.connect((address, 53))
                if by_stream:
                    client.sendall(len(query.to_wire()).to_bytes(2, "big") + query.to_wire())
                    return dns.message.from_wire(client.recv(2000)[2:])
                client.send(query.to_wire())
                return dns.message.from_wire(client.recv(2000))
            except (OSError, dns.exception.DNSException):
                return dns.message.make_response(query)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with closing_all() as made:
        built = Place(made, tmp_path)
        try:
            eventually(lambda: built.ask(built.pod, FOUR, timeout_s=0.5).answer)
            yield built
        finally:
            built.node.stop(built.task)
            built.node.call(retire(built.config))


def test_a_pod_asks_its_own_node(place: Place) -> None:
    for by_stream in (False, True):
        assert texts(place.ask(place.pod, FOUR, by_stream=by_stream)) == [f"{WEB} A 10.96.0.5"]
        assert texts(place.ask(place.node, SIX, "AAAA", by_stream=by_stream)) == [f"{WEB} AAAA fd00:96::5"]
    assert f"inet {FOUR}/32 scope host lo" in place.node.ip("addr show lo")


def test_an_address_that_is_taken_away_comes_back(place: Place) -> None:
    place.node.ip(f"addr del {FOUR}/32 dev lo")
    eventually(lambda: FOUR in place.node.ip("addr show lo"))
    assert place.ask(place.pod, FOUR).answer


def test_addresses_that_stand_are_left_alone(place: Place) -> None:
    with inside(place.node.descriptor):
        events = RouteEvents()
    heard: list[Event] = []

    async def listen() -> None:
        while len(heard) < 50:
            heard.extend(event for event in await events.next() if event.kind == "address")

    listening = place.node.start(listen())
    try:
        for number in range(1, 6):
            place.node.ip(f"addr del {FOUR}/32 dev lo")
            eventually(lambda number=number: sum(not event.is_gone for event in heard) >= number)  # type: ignore[misc]
            eventually(lambda: FOUR in place.node.ip("addr show lo"))
        assert place.ask(place.pod, FOUR).answer
        assert len(heard) == 10
    finally:
        place.node.stop(listening)
        events.close()


def test_the_service_of_old_has_its_address_on_every_node(place: Place) -> None:
    """kube-system/kube-dns is what charts and resolvers of proxies name; the proxy leaves it to us."""
    first = place.pid
    labels = {"service.kubernetes.io/service-proxy-name": "raftsman-dns"}
    place.node.put(
        SERVICES,
        {
            "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
            "spec": {"clusterIP": CLUSTER_IP, "clusterIPs": [CLUSTER_IP], "ports": [{"name": "dns", "port": 53}]},
        },
    )
    eventually(lambda: place.ask(place.pod, CLUSTER_IP, timeout_s=0.5).answer)
    eventually(lambda: place.ask(place.pod, FOUR, timeout_s=0.5).answer)
    assert place.pid != first
    place.node.remove(SERVICES, "kube-dns", "kube-system")
    eventually(lambda: place.server.resolver and len(place.server.bound) == 2)
    assert place.ask(place.pod, FOUR).answer


def test_a_killed_resolver_is_replaced_on_the_same_sockets(place: Place) -> None:
    os.kill(place.pid, signal.SIGKILL)
    for _ in range(10):
        assert place.ask(place.pod, FOUR).answer


def test_retiring_takes_the_addresses_away(place: Place) -> None:
    place.node.stop(place.task)
    assert place.ask(place.pod, FOUR).answer, "the resolver outlives its feeder"
    place.node.call(retire(place.config))
    assert not place.ask(place.pod, FOUR, timeout_s=0.5).answer
    assert FOUR not in place.node.ip("addr show lo")
    # For the fixture's end.
    place.task = place.node.start(place.server.serve())
    eventually(lambda: place.ask(place.pod, FOUR, timeout_s=0.5).answer)
