"""Members in network namespaces of their own, on one bridge, between which packets can be dropped one way.

Clients stay where the test is: a relay on the loopback takes their connections into the bridge's namespace. So cuts are
between members alone, unless a cable is pulled.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from tests.store.processes import NAMES, StoreCluster

CLONE_NEWNET = 0x40000000
COMMAND_TIMEOUT_S = 20
READY_TIMEOUT_S = 40.0
HUB_ADDRESS = "10.77.0.254"
ADDRESSES = {name: f"10.77.0.{number}" for number, name in enumerate(NAMES, 1)}

Cut = tuple[str, str]
"""Packets from the first member to the second are dropped."""

_LIBC = ctypes.CDLL(None, use_errno=True)


def both_ways(one: Iterable[str], other: Iterable[str]) -> set[Cut]:
    """Drop everything between two groups."""
    pairs = list(itertools.product(one, other))
    return {*pairs, *((target, source) for source, target in pairs)}


def isolated(name: str) -> set[Cut]:
    """Drop everything between one member and the others."""
    return both_ways([name], [other for other in NAMES if other != name])


class Network:
    """A bridge in one namespace and a cable to each member's."""

    def __init__(self) -> None:
        self._run = f"faults{uuid.uuid4().hex[:8]}"
        self.hub = f"{self._run}-hub"
        self._made: list[str] = []

    def namespace(self, name: str) -> str:
        return f"{self._run}-{name}"

    def start(self) -> None:
        """Make namespaces, bridge and cables."""
        for namespace in (self.hub, *map(self.namespace, NAMES)):
            self._made.append(namespace)
            _run("ip", "netns", "add", namespace)
        _ip(
            self.hub,
            "link set lo up",
            "link add br0 address 02:00:00:00:00:01 type bridge",
            f"address add {HUB_ADDRESS}/24 dev br0",
        )
        _ip(self.hub, "link set br0 up")
        for name in NAMES:
            _ip(self.hub, f"link add name to-{name} type veth peer name eth0 netns {self.namespace(name)}")
            _ip(self.hub, f"link set to-{name} master br0 up")
            _ip(
                self.namespace(name),
                "link set lo up",
                f"address add {ADDRESSES[name]}/24 dev eth0",
                "link set eth0 up",
            )

    def stop(self) -> None:
        """Take everything away; cables and bridge go with the namespaces."""
        for namespace in self._made:
            subprocess.run(
                ["ip", "netns", "delete", namespace], capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False
            )

    def cut(self, cuts: set[Cut]) -> None:
        """Drop these packets and no others."""
        for name in NAMES:
            rules = [f"-A INPUT -s {ADDRESSES[source]} -j DROP" for source, target in sorted(cuts) if target == name]
            table = "\n".join(["*filter", ":INPUT ACCEPT", *rules, "COMMIT", ""])
            _run("ip", "netns", "exec", self.namespace(name), "iptables-restore", "-w", text=table)

    def heal(self) -> None:
        """Let everything through."""
        self.cut(set())

    def plug(self, name: str, plugged: bool) -> None:
        """Pull a member's cable, which its clients lose too, or plug it in."""
        _ip(self.hub, f"link set to-{name} {'up' if plugged else 'down'}")

    @contextmanager
    def in_hub(self) -> Iterator[None]:
        """Make sockets in the bridge's namespace."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        hub = os.open(f"/run/netns/{self.hub}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(hub)
            try:
                yield
            finally:
                _enter(before)
        finally:
            os.close(before)
            os.close(hub)


class Relay:
    """Ports of the loopback behind which members stand."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._servers: list[asyncio.Server] = []
        self._open: set[asyncio.StreamWriter] = set()

    async def listen(self, host: str, port: int) -> int:
        """Relay a port of ours to a member's; return ours."""

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._relay(reader, writer, host, port)

        server = await asyncio.start_server(accepted, "127.0.0.1", 0)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        for writer in list(self._open):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
        self._open.add(writer)
        try:
            with self._network.in_hub():
                there = socket.socket()
            there.setblocking(False)
            try:
                async with asyncio.timeout(COMMAND_TIMEOUT_S):
                    await asyncio.get_running_loop().sock_connect(there, (host, port))
            except (OSError, TimeoutError):
                there.close()
                return
            to_reader, to_writer = await asyncio.open_connection(sock=there)
            self._open.add(to_writer)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(_pump(reader, to_writer))
                    tasks.create_task(_pump(to_reader, writer))
            finally:
                self._open.discard(to_writer)
                to_writer.transport.abort()
        finally:
            self._open.discard(writer)
            writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(64 << 10):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # one side is gone, and so is the other in a moment
    finally:
        writer.transport.abort()


class NetworkCluster(StoreCluster):
    """Three members, each in a network namespace, with mutual TLS."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self.network = Network()
        self.relay = Relay(self.network)
        self._doors: dict[str, int] = {}
        super().__init__(directory, *flags)

    def host(self, name: str) -> str:
        return ADDRESSES[name]

    def program(self, name: str) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.network.namespace(name), sys.executable, "-m", "store")

    def door(self, name: str) -> int:
        return self._doors[name]

    async def start_all(self) -> None:
        """Start all members and wait until one leads."""
        for name in NAMES:
            if name not in self._doors:
                self._doors[name] = await self.relay.listen(self.host(name), self.client_ports[name])
            await self.start(name)
        await self.one_leader()

    async def one_leader(self) -> str:
        """The leader on which all agree, soon."""
        async with asyncio.timeout(READY_TIMEOUT_S):
            return await self.leader()


@asynccontextmanager
async def networked(directory: Path, *flags: str) -> AsyncIterator[NetworkCluster]:
    """Have such a cluster while the context lasts."""
    cluster = NetworkCluster(directory, *flags)
    async with running(cluster):
        yield cluster


@asynccontextmanager
async def running(cluster: NetworkCluster) -> AsyncIterator[None]:
    """Have a cluster's networks and members while the context lasts."""
    try:
        cluster.network.start()
        await cluster.start_all()
        yield
    finally:
        await cluster.kill_all()
        await cluster.relay.stop()
        cluster.network.stop()


def _ip(namespace: str, *lines: str) -> None:
    _run("ip", "-n", namespace, "-batch", "-", text="\n".join(lines))


def _run(*command: str, text: str = "") -> None:
    done = subprocess.run(command, input=text, text=True, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()} ({text})"


def _enter(descriptor: int) -> None:
    if _LIBC.setns(descriptor, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
