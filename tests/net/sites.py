"""Two networks with a router between them, nodes on both, and something outside. Needs root."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from control.api.meta import Object
from control.api.resources import NODES
from net.netlink import inside
from net.routes import outside
from net.routes.config import RoutesConfig
from net.routes.mtu import Backend
from net.routes.server import RoutesServer
from tests.net.echo import echo
from tests.net.topology import Fabric, Namespace, Node, closing_all

LEFT, RIGHT, ABROAD = 1, 2, 3
NETWORKS = {LEFT: ("192.168.77", "fd00:77:1"), RIGHT: ("172.16.2", "fd00:77:2"), ABROAD: ("203.0.113", "fd00:77:3")}
SERVICE_RANGES = "10.96.0.0/16,fd00:96::/112"


class Router(Fabric):
    """A router with a bridge in each of three networks; it knows no pod's address and checks where packets come from."""

    def __init__(self) -> None:
        Namespace.__init__(self, "router")
        for network, (four, six) in NETWORKS.items():
            self.ip(f"link add br{network} address 02:00:00:00:00:0{network} type bridge")
            self.ip(f"addr add {four}.1/24 dev br{network}")
            self.ip(f"addr add {six}::1/64 dev br{network} nodad")
            self.ip(f"link set br{network} up")
        self.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=1")
        self._ports = itertools.count(1)

    def join(self, member: Namespace, address: str, default_route: bool = True) -> None:
        """Give a namespace an eth0 with an address of each IP version on the network of its address."""
        network = next(n for n, (four, _) in NETWORKS.items() if address.startswith(four))
        four, six = NETWORKS[network]
        port = f"v{next(self._ports)}"
        self.ip(f"link add {port} type veth peer name eth0 netns {member.name}")
        self.ip(f"link set {port} master br{network} up")
        member.run("sysctl -qw net.ipv6.conf.eth0.keep_addr_on_down=1")
        member.ip(f"addr add {address}/24 dev eth0")
        member.ip(f"addr add {ipv6_of(address)}/64 dev eth0 nodad")
        member.ip("link set eth0 up")
        if default_route:
            member.ip(f"route add default via {four}.1")
            member.ip(f"route add default via {six}::1")


def ipv6_of(address: str) -> str:
    """Return the IPv6 address that goes with an IPv4 one."""
    six = next(six for four, six in NETWORKS.values() if address.startswith(four))
    return f"{six}::{address.rpartition('.')[2]}"


class SiteNode(Node):
    """A node that keeps its routes, with one pod."""

    def __init__(self, number: int, router: Router, network: int) -> None:
        super().__init__(number, router, f"{NETWORKS[network][0]}.{10 + number}")
        self.pod_cidrs = [f"10.244.{number}.0/24", f"fd00:244:{number}::/64"]
        self.run("sysctl -qw net.ipv6.conf.all.forwarding=1")
        self.pod = Namespace(f"p{number}")
        self.pod_addresses = {4: f"10.244.{number}.5", 6: f"fd00:244:{number}::5"}
        self._wire_pod()

    def _wire_pod(self) -> None:
        four, six = self.pod_addresses[4], self.pod_addresses[6]
        self.ip(f"link add pod type veth peer name eth0 netns {self.pod.name}")
        self.ip("addr add 169.254.1.1/32 dev pod scope link")
        self.ip("addr add fe80::1/64 dev pod nodad")
        self.ip("link set pod up")
        self.pod.ip(f"addr add {four}/32 dev eth0")
        self.pod.ip(f"addr add {six}/128 dev eth0 nodad")
        self.pod.ip("link set eth0 up")
        self.ip(f"route add {four}/32 dev pod proto 83")
        self.ip(f"route add {six}/128 dev pod proto 83")
        self.pod.ip("route add 169.254.1.1 dev eth0")
        self.pod.ip("route add default via 169.254.1.1")
        self.pod.ip("route add default via fe80::1 dev eth0")

    def set_pod_mtu(self, mtu: int) -> None:
        """Give the pod the MTU that its node says."""
        self.ip(f"link set pod mtu {mtu}")
        self.pod.ip(f"link set eth0 mtu {mtu}")

    def addresses(self) -> dict[int, str]:
        """Return the node's own addresses by IP version."""
        return {4: self.address, 6: ipv6_of(self.address)}

    def as_object(self, versions: tuple[int, ...] = (4, 6)) -> Object:
        """Return the Node object, with its addresses of some IP versions."""
        own = self.addresses()
        return {
            "metadata": {"name": self.node_name},
            "spec": {"podCIDR": self.pod_cidrs[0], "podCIDRs": self.pod_cidrs},
            "status": {"addresses": [{"type": "InternalIP", "address": own[version]} for version in versions]},
        }

    def keep_routes(self, backend: Backend = "auto", **settings: Any) -> asyncio.Task[None]:
        """Start what is tested."""
        config = RoutesConfig(
            hostname_override=self.node_name,
            backend=backend,
            service_cluster_ip_range=SERVICE_RANGES,
            **settings,
        )

        async def serve() -> None:
            await RoutesServer(config, self.client, await outside.open_doors(config)).serve()

        return self.start(serve())

    def close(self) -> None:
        """Remove the node and its pod."""
        super().close()
        self.pod.close()


class Site:
    """The two networks with all their nodes, and a stranger outside."""

    def __init__(self, made: list[Namespace]) -> None:
        self._made = made
        self.router = Router()
        made.append(self.router)
        self.nodes: dict[str, SiteNode] = {}
        self.stranger = Namespace("stranger")
        made.append(self.stranger)
        self.router.join(self.stranger, f"{NETWORKS[ABROAD][0]}.9")

    def add(self, number: int, network: int) -> SiteNode:
        """Make a node that nobody knows of yet."""
        node = SiteNode(number, self.router, network)
        self._made.append(node)
        self.nodes[node.node_name] = node
        return node

    def announce(self, *nodes: SiteNode, versions: tuple[int, ...] = (4, 6)) -> None:
        """Tell every node of some Nodes."""
        for listener in self.nodes.values():
            for node in nodes:
                listener.put(NODES, node.as_object(versions))

    def forget(self, name: str) -> None:
        """Tell every node that a Node is gone."""
        for listener in self.nodes.values():
            listener.remove(NODES, name)


@contextmanager
def opened_site() -> Iterator[Site]:
    """Make a site with n1 and n2 on the left and n3 on the right, not yet announced."""
    with closing_all() as made:
        site = Site(made)
        for number, network in ((1, LEFT), (2, LEFT), (3, RIGHT)):
            site.add(number, network)
        yield site


def pings(source: Namespace, target: str, timeout_s: float = 1.0) -> bool:
    """Tell whether one ping is answered."""
    return echo(source, target, timeout_s=timeout_s).answered


def seen_source(client: Namespace, server: Namespace, target: str) -> str:
    """Connect by TCP and return the client's address as the server sees it."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with inside(server.descriptor):
        listener = socket.create_server(("::" if ":" in target else "0.0.0.0", 0), family=family)
    with inside(client.descriptor):
        connection = socket.socket(family, socket.SOCK_STREAM)
    found: list[str] = []
    with listener, connection:
        listener.settimeout(10)
        connection.settimeout(10)

        def accept() -> None:
            accepted, peer = listener.accept()
            accepted.close()
            found.append(peer[0])

        thread = threading.Thread(target=accept)
        thread.start()
        connection.connect((target, listener.getsockname()[1]))
        thread.join(10)
    return found[0]
