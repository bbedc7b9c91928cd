"""A node with pods of both families, a far machine, and packets sent between them at will."""

from __future__ import annotations

import asyncio
import itertools
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from control.api import meta
from control.api.meta import Object
from control.api.resources import NAMESPACES, NETWORK_POLICIES, PODS
from net.netlink import inside
from net.policy.config import PolicyConfig
from net.policy.model import parse_policy
from net.policy.server import PolicyServer
from tests.net.topology import Fabric, Namespace, Node, eventually

PORTS = (80, 81, 8080, 9090, 32000)
DENIED_S = 0.35
ALLOWED_S = 30.0
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_source_ports = itertools.count(20001)


def family_of(address: str) -> int:
    return FAMILY[6 if ":" in address else 4]


def open_socket(where: Namespace, family: int, kind: int, protocol: int = 0) -> socket.socket:
    with inside(where.descriptor):
        return socket.socket(family, kind, protocol)


@dataclass
class Listener:
    """Echo TCP and UDP on the test's ports, and note SCTP's INIT."""

    where: Namespace
    sctp_from: set[int] = field(default_factory=set)
    """Source ports of the INITs that arrived."""
    _open: list[socket.socket] = field(default_factory=list)
    _done: threading.Event = field(default_factory=threading.Event)

    def start(self) -> threading.Thread:
        for family in FAMILY.values():
            for port in PORTS:
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    one = open_socket(self.where, family, kind)
                    if family == socket.AF_INET6:
                        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    one.bind(("", port))
                    if kind == socket.SOCK_STREAM:
                        one.listen(64)
                    self._open.append(one)
            self._open.append(open_socket(self.where, family, socket.SOCK_RAW, socket.IPPROTO_SCTP))
        thread = threading.Thread(target=self._work, daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        self._done.set()

    def _work(self) -> None:
        poller = select.poll()
        by_descriptor = {one.fileno(): one for one in self._open}
        for descriptor in by_descriptor:
            poller.register(descriptor, select.POLLIN)
        while not self._done.is_set():
            for descriptor, _ in poller.poll(50):
                one = by_descriptor[descriptor]
                try:
                    if one.type == socket.SOCK_RAW:
                        data = one.recv(2000)
                        start = (data[0] & 15) * 4 if one.family == socket.AF_INET else 0
                        self.sctp_from.add(struct.unpack_from(">H", data, start)[0])
                    elif one.type == socket.SOCK_DGRAM:
                        data, client = one.recvfrom(200)
                        one.sendto(data, client)
                    elif _is_listening(one):
                        connection, _ = one.accept()
                        by_descriptor[connection.fileno()] = connection
                        poller.register(connection.fileno(), select.POLLIN)
                    else:
                        data = one.recv(200)
                        if data:
                            one.sendall(data)
                        else:
                            poller.unregister(descriptor)
                            by_descriptor.pop(descriptor).close()
                except OSError:  # the other end reset it, or may not be answered
                    continue
        for one in by_descriptor.values():
            one.close()


def _is_listening(one: socket.socket) -> bool:
    return bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def sctp_init(source_port: int, port: int) -> bytes:
    """Return the packet that begins an SCTP association."""
    chunk = struct.pack(">BBHIIHHI", 1, 0, 20, 0x01020304, 65536, 1, 1, 1)
    head = struct.pack(">HHI", source_port, port, 0)
    checksum = struct.pack("<I", crc32c(head + b"\0\0\0\0" + chunk))
    return head + checksum + chunk


@dataclass
class Host:
    """Somebody with addresses: a pod, the node, or the far machine."""

    where: Namespace
    addresses: dict[int, str]
    listener: Listener


@dataclass(frozen=True)
class Probe:
    """Send one flow's first packet, and expect that it arrives or that it does not."""

    source: Host
    target: Host
    protocol: str = "tcp"
    port: int = 80
    passes: bool = True
    source_addresses: dict[int, str] | None = None

    def __str__(self) -> str:
        return f"{self.source.addresses} → {self.target.addresses} {self.protocol}/{self.port}"


class _Attempt:
    """One probe under way in one family."""

    def __init__(self, probe: Probe, version: int) -> None:
        self.probe, self.version = probe, version
        self.target = probe.target.addresses[version]
        self.source_port = next(_source_ports)
        kinds = {
            "tcp": (socket.SOCK_STREAM, 0),
            "udp": (socket.SOCK_DGRAM, 0),
            "sctp": (socket.SOCK_RAW, socket.IPPROTO_SCTP),
        }
        kind, number = kinds[probe.protocol]
        self.socket = open_socket(probe.source.where, FAMILY[version], kind, number)
        self.socket.setblocking(False)
        self.socket.bind(((probe.source_addresses or probe.source.addresses)[version], 0))
        if probe.protocol == "tcp":
            self.socket.connect_ex((self.target, probe.port))

    def arrived(self) -> bool:
        """Send once more where the protocol does not by itself, and look."""
        try:
            if self.probe.protocol == "tcp":
                return bool(self.socket.getpeername())
            if self.probe.protocol == "sctp":
                self.socket.sendto(sctp_init(self.source_port, self.probe.port), (self.target, 0))
                return self.source_port in self.probe.target.listener.sctp_from
            self.socket.sendto(b"who?", (self.target, self.probe.port))
            return bool(self.socket.recv(200))
        except OSError:
            return False


def wrong(*probes: Probe, versions: tuple[int, ...] = (4, 6)) -> list[str]:
    """Send all at once; return those that did not pass within a generous time and should, or passed and should not."""
    attempts = [_Attempt(probe, version) for probe in probes for version in versions]
    try:
        began = time.monotonic()
        arrived: set[_Attempt] = set()
        wanted = {one for one in attempts if one.probe.passes}
        least_s = DENIED_S if len(wanted) < len(attempts) else 0.0
        while True:
            arrived |= {one for one in attempts if one not in arrived and one.arrived()}
            elapsed_s = time.monotonic() - began
            if (wanted <= arrived and elapsed_s >= least_s) or elapsed_s > ALLOWED_S:
                break
            time.sleep(0.02)
        return [
            f"IPv{one.version} {one.probe}: passes={one in arrived}"
            for one in attempts
            if (one in arrived) != one.probe.passes
        ]
    finally:
        for one in attempts:
            one.socket.close()


class Cluster:
    """Node n1 with pods, and a far machine that is other nodes' pods and the world beyond."""

    web: Host
    db: Host
    guest: Host

    def __init__(self, made: list[Namespace]) -> None:
        self.made = made
        fabric = Fabric()
        made.append(fabric)
        self.node = Node(1, fabric)
        made.append(self.node)
        self.listeners: list[tuple[Listener, threading.Thread]] = []
        self.node.ip("addr add fd00:77::11/64 dev eth0 nodad")
        self.node.run("sysctl -qw net.ipv6.conf.all.forwarding=1")
        self.node_host = self.host(self.node, self.node.address, "fd00:77::11")
        far = Namespace("far")
        made.append(far)
        fabric.join(far, "192.168.77.99", default_route=False)
        far.ip("addr add fd00:77::99/64 dev eth0 nodad")
        for scope in ("all", "eth0"):
            # What it sends before a pod is there would teach it another way for good.
            far.run(f"sysctl -qw net.ipv4.conf.{scope}.accept_redirects=0")
        self.far = self.host(far, "10.244.2.2", "fd00:244:2::2")
        self.world = {4: "203.0.113.1", 6: "2001:db8::1"}
        self.excepted = {4: "203.0.113.9", 6: "2001:db8::9"}
        for four, six in (
            (self.far.addresses[4], self.far.addresses[6]),
            *((at[4], at[6]) for at in (self.world, self.excepted)),
        ):
            far.ip(f"addr add {four}/32 dev lo")
            far.ip(f"addr add {six}/128 dev lo nodad")
        far.ip(f"route add 10.244.0.0/16 via {self.node.address}")
        far.ip("-6 route add fd00:244:1::/64 via fd00:77::11")
        self.node.ip("route add 10.244.2.0/24 via 192.168.77.99")
        self.node.ip("route add 203.0.113.0/24 via 192.168.77.99")
        self.node.ip("-6 route add fd00:244:2::/64 via fd00:77::99")
        self.node.ip("-6 route add 2001:db8::/32 via fd00:77::99")
        self._numbers = itertools.count(2)
        self.server: PolicyServer
        self.task: asyncio.Task[None]

    def host(self, where: Namespace, four: str, six: str) -> Host:
        listener = Listener(where)
        self.listeners.append((listener, listener.start()))
        return Host(where, {4: four, 6: six}, listener)

    def pod(self, name: str, namespace: str = "default", **spec: Any) -> Host:
        """Wire a pod in both families and tell the hub of it."""
        number = next(self._numbers)
        made = Namespace(name)
        self.made.append(made)
        host = self.host(made, f"10.244.1.{number}", f"fd00:244:1::{number}")
        port = f"pod{number}"
        self._wire(made, port, host.addresses)
        self.put_pod(name, host.addresses, namespace, **spec)
        return host

    def _wire(self, pod: Namespace, port: str, addresses: dict[int, str]) -> None:
        batch(
            self.node.name,
            f"link add {port} address ee:ee:ee:ee:ee:ee type veth peer name eth0 netns {pod.name}",
            f"link set {port} up",
            f"addr add 169.254.1.1/32 dev {port}",
            f"addr add fe80::1/64 dev {port} nodad",
            f"route add {addresses[4]}/32 dev {port}",
            f"route add {addresses[6]}/128 dev {port}",
        )
        batch(
            pod.name,
            f"addr add {addresses[4]}/32 dev eth0",
            f"addr add {addresses[6]}/128 dev eth0 nodad",
            "link set eth0 up",
            "route add 169.254.1.1/32 dev eth0",
            "route add default via 169.254.1.1 dev eth0",
            "route add default via fe80::1 dev eth0",
        )

    def fill(self) -> None:
        """Have the pods of most tests: web and db in one namespace, guest in another, and begin."""
        named: dict[str, Any] = {"containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]}
        other: dict[str, Any] = {"containers": [{"ports": [{"name": "http", "containerPort": 9090}]}]}
        self.web = self.pod("web", **named)
        self.db = self.pod("db", **other)
        self.guest = self.pod("guest", namespace="other", **other)
        self.put_pod("far", self.far.addresses, node="n2")
        self.put_pod("agent", self.node_host.addresses, hostNetwork=True)
        self.start()

    def put_pod(
        self, name: str, addresses: dict[int, str], namespace: str = "default", node: str = "n1", **spec: Any
    ) -> None:
        self.node.put(PODS, {
            "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}", "labels": {"app": name}},
            "spec": {"nodeName": node, **spec},
            "status": {"phase": "Running", "podIPs": [{"ip": one} for one in addresses.values()]},
        })  # fmt: skip

    def start(self, config: PolicyConfig | None = None) -> None:
        for name, team in (("default", "a"), ("other", "b")):
            self.node.put(NAMESPACES, {"metadata": {"name": name, "labels": {"team": team}}})
        self.server = self.node.call(
            self._make(config or PolicyConfig(hostname_override="n1", metrics_bind_address=""))
        )
        self.task = self.node.start(self.server.serve())

    async def _make(self, config: PolicyConfig) -> PolicyServer:
        return PolicyServer(config, self.node.client)

    def apply(self, *policies: Object) -> None:
        """Have these policies and no others, in force."""
        self.apply_unseen(*policies)
        wanted = {meta.key(one): parse_policy(one) for one in policies}
        self.agree(lambda: self.server.book.policies == wanted)

    def apply_unseen(self, *policies: Object) -> None:
        """Have these policies and no others in the hub, whoever watches it."""
        wanted = {meta.key(one) for one in policies}

        async def change() -> None:
            for one in self.node.client.objects(NETWORK_POLICIES):
                if meta.key(one) not in wanted:
                    self.node.client.remove(NETWORK_POLICIES, meta.name(one), meta.namespace(one))
            for one in policies:
                self.node.client.put(NETWORK_POLICIES, one)

        self.node.call(change())

    def agree(self, what: Callable[[], bool]) -> None:
        """Wait until the book has it, and the kernel has what the book has."""
        eventually(what)
        self.node.call(self.server.commit())

    def close(self) -> None:
        for listener, _ in self.listeners:
            listener.stop()
        for _, thread in self.listeners:
            thread.join(10)


def batch(namespace: str, *lines: str) -> None:
    done = subprocess.run(
        ["ip", "-n", namespace, "-batch", "-"],
        input="\n".join(lines) + "\n",
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
