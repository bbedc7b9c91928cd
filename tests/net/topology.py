"""Network namespaces as nodes, pods and strangers, for tests with real packets. Needs root."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from control.api.meta import Object
from control.api.resources import Resource
from net.cni import wiring
from net.cni.plan import Plan
from net.ipam.allocator import Attachment
from net.netlink import inside
from tests.fakes.fake_client import FakeClient

T = TypeVar("T")
_numbers = itertools.count()
CLUSTER_CIDR = "10.244.0.0/16"
SERVICE_CIDR = "10.96.0.0/16"
FABRIC = "192.168.77"
CONNECT_TIMEOUT_S = 3.0


def run(command: str, **options: Any) -> str:
    """Run a command and return its output; it must succeed."""
    done = subprocess.run(command.split(), capture_output=True, text=True, timeout=60, check=False, **options)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return str(done.stdout)


def eventually(what: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Poll until something is true."""
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.02)


def family_of(address: str) -> int:
    """Return the socket family of an address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def plain(address: str) -> str:
    """Return an IPv4 address that a socket of both families saw as the IPv4 address that it is."""
    return address.removeprefix("::ffff:")


Answer = tuple[str, str]
"""Who answered, and which client address it saw."""


class Namespace:
    """A network namespace of our own."""

    def __init__(self, role: str) -> None:
        self.name = f"rt{os.getpid()}-{next(_numbers)}-{role}"
        run(f"ip netns add {self.name}")
        self.path = f"/run/netns/{self.name}"
        self.descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        self._servers: list[tuple[socket.socket, threading.Thread]] = []
        self.is_closing = False
        # Else the first seconds of an interface pass with asking whether its IPv6 address is taken.
        self.run("sysctl -qw net.ipv6.conf.default.accept_dad=0")
        self.ip("link set lo up")

    def close(self) -> None:
        """Remove the namespace and end its servers."""
        self.is_closing = True
        for server, thread in self._servers:
            # A thread that still waits on a closed descriptor may wake up on the next owner of its number.
            with suppress(OSError):  # "not connected", of datagram sockets; it wakes their readers all the same
                server.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            server.close()
        os.close(self.descriptor)
        run(f"ip netns del {self.name}")

    def ip(self, arguments: str) -> str:
        """Run ip(8) inside."""
        return run(f"ip -n {self.name} {arguments}")

    def run(self, command: str, **options: Any) -> str:
        """Run a command inside."""
        return run(f"nsenter --net={self.path} {command}", **options)

    def open_socket(
        self, kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET, protocol: int = 0
    ) -> socket.socket:
        """Return a socket that lives inside."""
        with inside(self.descriptor):
            made = socket.socket(family, kind, protocol)
        made.settimeout(CONNECT_TIMEOUT_S)
        return made

    def serve(self, name: str, port: int, kind: int = socket.SOCK_STREAM) -> None:
        """Answer every connection or datagram of either family with "name <client's address>"."""
        server = self.open_socket(kind, socket.AF_INET6)
        server.settimeout(None)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind(("::", port))
        if kind == socket.SOCK_STREAM:
            server.listen(128)
        answer = _answer_streams if kind == socket.SOCK_STREAM else _answer_datagrams
        self.answer_by(server, lambda: answer(server, name))

    def answer_by(self, server: socket.socket, answer: Callable[[], None]) -> None:
        """Run a server in a thread until the namespace is closed."""
        thread = threading.Thread(target=answer, daemon=True)
        self._servers.append((server, thread))
        thread.start()

    def ask(self, address: str, port: int, source_port: int = 0, timeout_s: float = CONNECT_TIMEOUT_S) -> Answer:
        """Connect by TCP and return who answered and which client address it saw."""
        with self.open_socket(family=family_of(address)) as client:
            client.settimeout(timeout_s)
            if source_port:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                client.bind(("", source_port))
            client.connect((address, port))
            name, _, seen = client.recv(200).decode().partition(" ")
            return name, seen

    def ask_by_datagram(self, client: socket.socket, address: str, port: int, timeout_s: float = 1.0) -> str:
        """Send a datagram and return who answered; empty for nobody."""
        client.settimeout(timeout_s)
        try:
            client.sendto(b"who?", (address, port))
            return client.recv(200).decode().partition(" ")[0]
        except (TimeoutError, ConnectionRefusedError):
            return ""


def _answer_streams(server: socket.socket, name: str) -> None:
    while True:
        try:
            connection, client = server.accept()
        except OSError:  # closed: the test is over
            return
        with connection:
            try:
                connection.sendall(f"{name} {plain(client[0])}".encode())
            except OSError:  # the client has gone already
                continue


def _answer_datagrams(server: socket.socket, name: str) -> None:
    while True:
        try:
            _, client = server.recvfrom(200)
            if not client:  # shut down: the test is over
                return
            server.sendto(f"{name} {plain(client[0])}".encode(), client)
        except OSError:
            return


def _tell_failure(task: asyncio.Task[None]) -> None:
    """Print why a component ended by itself: what waits for its work would only say that it did not come."""
    if not task.cancelled() and (error := task.exception()) is not None:
        traceback.print_exception(error)


class Node(Namespace):
    """A node: a namespace on the fabric, and a thread in it that runs components on a fake API."""

    def __init__(self, number: int, fabric: Fabric, address: str = "") -> None:
        super().__init__(f"n{number}")
        self.number, self.node_name = number, f"n{number}"
        self.address = address or f"{FABRIC}.{10 + number}"
        self.pod_cidr = f"10.244.{number}.0/24"
        fabric.join(self, self.address)
        self.run("sysctl -qw net.ipv4.ip_forward=1")
        self._pods = itertools.count(2)
        self.loop = asyncio.new_event_loop()
        self._tasks: list[asyncio.Task[Any]] = []
        self._thread = threading.Thread(target=self._run_loop, daemon=True)
        self._thread.start()
        self.client = self.call(self._make_client())

    async def _make_client(self) -> FakeClient:
        return FakeClient()

    def _run_loop(self) -> None:
        with inside(self.descriptor):
            asyncio.set_event_loop(self.loop)
            self.loop.run_forever()

    def call(self, work: Coroutine[Any, Any, T], timeout_s: float = 60.0) -> T:
        """Run a coroutine in the node's thread, and so in its namespace."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout_s)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a component that runs until the node is closed."""

        async def begin() -> asyncio.Task[None]:
            task = self.loop.create_task(work)
            task.add_done_callback(_tell_failure)
            return task

        task = self.call(begin())
        self._tasks.append(task)
        return task

    def stop(self, task: asyncio.Task[None]) -> None:
        """Cancel a component and wait for its end."""

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._tasks.remove(task)
        self.call(end())

    def put(self, resource: Resource, obj: Object) -> None:
        """Store an object in this node's API."""

        async def put() -> None:
            self.client.put(resource, obj)

        self.call(put())

    def remove(self, resource: Resource, name: str, namespace: str = "") -> None:
        """Remove an object from this node's API."""

        async def remove() -> None:
            self.client.remove(resource, name, namespace)

        self.call(remove())

    def close(self) -> None:
        """End components, thread and namespace."""
        for task in list(self._tasks):
            self.stop(task)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()
        super().close()

    def add_pod(self) -> Pod:
        """Make a pod with the product's own wiring."""
        pod = Pod(self, f"10.244.{self.number}.{next(self._pods)}")
        plan = Plan(Attachment(pod.name, "eth0"), pod.path, (pod.ip_address,), 1500)

        async def wire() -> None:
            wiring.attach(plan)

        self.call(wire())
        return pod

    def object(self) -> Object:
        """Return the Node object."""
        return {
            "metadata": {"name": self.node_name},
            "spec": {"podCIDR": self.pod_cidr, "podCIDRs": [self.pod_cidr]},
            "status": {"addresses": [{"type": "InternalIP", "address": self.address}]},
        }


class Pod(Namespace):
    """A pod's sandbox."""

    def __init__(self, node: Node, address: str) -> None:
        super().__init__(f"p{address.replace('.', '-')}"[:20])
        self.node, self.ip_address = node, address


class Fabric(Namespace):
    """The bridge between nodes; its own address is their default gateway."""

    def __init__(self) -> None:
        super().__init__("fabric")
        self.ip("link add br0 address 02:00:00:00:00:01 type bridge")
        self.ip(f"addr add {FABRIC}.1/24 dev br0")
        self.ip("link set br0 up")
        self.run("sysctl -qw net.ipv4.ip_forward=1")
        self._ports = itertools.count(1)

    def join(self, member: Namespace, address: str, default_route: bool = True) -> None:
        """Give a namespace an eth0 on the bridge."""
        port = f"v{next(self._ports)}"
        self.ip(f"link add {port} type veth peer name eth0 netns {member.name}")
        self.ip(f"link set {port} master br0 up")
        member.ip(f"addr add {address}/24 dev eth0")
        member.ip("link set eth0 up")
        if default_route:
            member.ip(f"route add default via {FABRIC}.1")


@contextmanager
def closing_all() -> Iterator[list[Namespace]]:
    """Close every namespace in the list at the end, the last one first."""
    made: list[Namespace] = []
    try:
        yield made
    finally:
        for namespace in reversed(made):
            namespace.close()


def service(name: str, cluster_ip: str, port: int = 80, protocol: str = "TCP", **spec: Any) -> Object:
    """Return a Service with one port."""
    node_port = spec.pop("nodePort", 0)
    entry: dict[str, Any] = {"name": "main", "port": port, "protocol": protocol}
    if node_port:
        entry["nodePort"] = node_port
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "ports": [entry], **spec},
    }


def endpoint_slice(service_name: str, pods: list[tuple[str, str]], port: int = 8080, protocol: str = "TCP") -> Object:
    """Return an EndpointSlice; pods are (address, node) pairs."""
    return {
        "metadata": {
            "name": f"{service_name}-abc",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": service_name},
        },
        "addressType": "IPv4",
        "ports": [{"name": "main", "port": port, "protocol": protocol}],
        "endpoints": [
            {"addresses": [address], "nodeName": node, "conditions": {"ready": True}} for address, node in pods
        ],
    }


def proc_text(path: str) -> str:
    """Read a file of /proc."""
    return Path(path).read_text()
