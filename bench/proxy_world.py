"""A client, a node and a server in network namespaces, for `bench.proxy`; the kernel's memory, and the chart."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.machine import RESULTS
from bench.proxy_chart import draw_rows
from bench.proxy_hub import SERVERS
from net.netlink import inside
from net.nftables.events import NftablesEvents

CASES = [
    ("nftables", 1_000, 3),
    ("nftables", 10_000, 3),
    ("nftables", 5_000, 50),
    ("iptables-legacy", 5_000, 3),
    ("iptables-nft", 5_000, 3),
]
NODE_ADDRESS, CLIENT_ADDRESS = "192.168.88.1", "192.168.88.2"


def run(command: str) -> str:
    """Run a command; it must succeed."""
    done = subprocess.run(command.split(), capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr}")
    return done.stdout


class Space:
    """A network namespace of our own."""

    def __init__(self, role: str) -> None:
        self.name = f"bench{os.getpid()}-{role}"
        run(f"ip netns add {self.name}")
        self.path = f"/run/netns/{self.name}"
        self.descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        self.ip("link set lo up")

    def ip(self, arguments: str) -> str:
        """Run the program ip inside."""
        return run(f"ip -n {self.name} {arguments}")

    def run(self, command: str) -> str:
        """Run a command inside."""
        return run(f"nsenter --net={self.path} {command}")

    def socket(self) -> socket.socket:
        """Return a TCP socket that lives inside."""
        with inside(self.descriptor):
            return socket.socket(socket.AF_INET, socket.SOCK_STREAM)

    def close(self) -> None:
        """Remove the namespace."""
        os.close(self.descriptor)
        run(f"ip netns del {self.name}")


class World:
    """The machines."""

    def __init__(self) -> None:
        self.node, self.client, self.server = Space("node"), Space("client"), Space("server")
        for space, link in ((self.client, "c"), (self.server, "s")):
            self.node.ip(f"link add {link} type veth peer name eth0 netns {space.name}")
            self.node.ip(f"link set {link} up")
            space.ip("link set eth0 up")
        self.node.ip(f"addr add {NODE_ADDRESS}/24 dev c")
        self.node.ip("addr add 10.244.9.254/24 dev s")
        self.client.ip(f"addr add {CLIENT_ADDRESS}/24 dev eth0")
        self.client.ip(f"route add default via {NODE_ADDRESS}")
        for address in SERVERS:
            self.server.ip(f"addr add {address}/24 dev eth0")
        self.server.ip("route add default via 10.244.9.254")
        self.node.run("sysctl -qw net.ipv4.ip_forward=1")
        # Without any route the kernel refuses before the rules are asked.
        self.node.ip(f"route add default via {CLIENT_ADDRESS}")
        self._listening = self.server.socket()
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listening.bind(("0.0.0.0", 8080))
        self._listening.listen(1024)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:  # closed: the run is over
                return
            connection.close()

    def close(self) -> None:
        """Remove all."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for space in (self.client, self.server, self.node):
            space.close()

    def listening_socket(self) -> socket.socket:
        """Return a socket that listens on the node's loopback."""
        made = self.node.socket()
        made.bind(("127.0.0.1", 0))
        made.listen(64)
        return made

    def clean(self) -> None:
        """Leave no rules on the node."""
        run(f"nsenter --net={self.node.path} {sys.executable} -m net.proxy cleanup")

    def fetch(self, port: int, path: str) -> str:
        """Ask the node's loopback by HTTP."""
        with self.node.socket() as client:
            client.settimeout(30)
            client.connect(("127.0.0.1", port))
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            parts = []
            while data := client.recv(1 << 16):
                parts.append(data)
        return b"".join(parts).partition(b"\r\n\r\n")[2].decode()

    def connect_us(self, address: str, port: int) -> float:
        """Return what one TCP connection takes, in microseconds."""
        with self.client.socket() as client:
            client.settimeout(5)
            began = time.perf_counter()
            client.connect((address, port))
            return (time.perf_counter() - began) * 1e6

    def refusal_ms(self, address: str, port: int) -> float:
        """Return after how many milliseconds a connection is refused."""
        with self.client.socket() as client:
            client.settimeout(5)
            began = time.perf_counter()
            try:
                client.connect((address, port))
            except ConnectionRefusedError:
                return (time.perf_counter() - began) * 1000
        raise RuntimeError(f"{address}:{port} was not refused")


@contextmanager
def built() -> Iterator[World]:
    """Make the machines, and remove them."""
    world = World()
    try:
        yield world
    finally:
        world.close()


def kernel_kib() -> int:
    """Return the kernel's own memory: slabs, vmalloc, per-CPU."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(words[1]) for words in lines if words[0] in ("Slab:", "VmallocUsed:", "Percpu:"))


def wait_for(events: NftablesEvents, timeout_s: float) -> None:
    """Wait until a transaction on elements is heard of."""
    deadline = time.perf_counter() + timeout_s
    while time.perf_counter() < deadline:
        select.select([events.fileno()], [], [], 1.0)
        if any(event.kind == "element" for event in events.drain()):
            return
    raise RuntimeError(f"no change within {timeout_s:.0f} s")


def draw(cases: Sequence[dict[str, Any]]) -> None:
    """Write the chart."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "proxy.svg").write_text(draw_rows(cases))
