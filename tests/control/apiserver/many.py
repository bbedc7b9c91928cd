"""Several API servers on one store behind one address: a door that spreads connections, and the servers, to be killed."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from control.api.resources import SERVICES
from control.api.status import ApiError
from control.client.client import Client
from control.client.kubeconfig import Kubeconfig, Material
from tests.control.apiserver.processes import Server, api_server, free_port, process, wait_for_port


class Door:
    """One address that leads each new connection to the next server that takes it."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        self.port = 0
        self._next = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Door]:
        """Serve for the time of a block."""
        server = await asyncio.start_server(self._lead, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            for _ in range(len(self.ports)):
                port = self.ports[next(self._next) % len(self.ports)]
                try:
                    there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    continue
                await self._join(reader, writer, there_reader, there_writer)
                return
        except asyncio.CancelledError:
            return  # the door closes
        finally:
            self._tasks.discard(task)
            writer.close()

    @staticmethod
    async def _join(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
        there_reader: asyncio.StreamReader, there_writer: asyncio.StreamWriter,
    ) -> None:  # fmt: skip
        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(1 << 16):
                    sink.write(data)
                    await sink.drain()
            except OSError:
                return

        ways = [asyncio.ensure_future(pump(reader, there_writer)), asyncio.ensure_future(pump(there_reader, writer))]
        try:
            # Whoever hangs up, or is killed, ends both ways.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.wait(ways)
            there_writer.close()


@dataclass
class Servers:
    """API servers on one store; each may be killed and replaced."""

    store_url: str
    directory: Path
    flags: tuple[str, ...] = ()
    running: list[Server] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)

    def start(self, instead_of: Server | None = None) -> Server:
        """Start one more, or one again at the ports that it had."""
        ports: tuple[str, ...] = ()
        if instead_of is not None:
            ports = ("--secure-port", str(instead_of.port), "--grpc-port", str(instead_of.hub_port))
        server = self._stack.enter_context(api_server(self.store_url, self.directory, *self.flags, *ports))
        self.running.append(server)
        return server

    def kill(self, index: int = 0) -> Server:
        """Kill one as a power cut does."""
        server = self.running.pop(index)
        server.process.kill()
        server.process.wait()
        return server

    def close(self) -> None:
        """End all."""
        self._stack.close()

    @property
    def ports(self) -> list[int]:
        """Where REST is served."""
        return [server.port for server in self.running]

    def config(self, port: int, *, hub: bool = False, user: str = "admin") -> Kubeconfig:
        """Return how to reach one of them, or the door before them."""
        folder = self.directory / "pki"
        hubs = tuple(f"127.0.0.1:{server.hub_port}" for server in self.running) if hub else ()
        authority, certificate, key = (
            Material(path=folder / name) for name in ("ca.crt", f"{user}.crt", f"{user}.key")
        )
        return Kubeconfig(f"https://127.0.0.1:{port}", hubs, authority, certificate, key, tls_server_name="localhost")

    def client(self, port: int, *, hub: bool = False) -> Client:
        """Return a client that may do everything."""
        return self.config(port, hub=hub).client()


@contextmanager
def several(store_url: str, directory: Path, *flags: str, count: int = 3) -> Iterator[Servers]:
    """Run API servers on one store."""
    servers = Servers(store_url, directory, flags)
    try:
        for _ in range(count):
            servers.start()
        yield servers
    finally:
        servers.close()


@contextmanager
def own_store(directory: Path) -> Iterator[str]:
    """Run one member of our store, and return its URL."""
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    command = [
        sys.executable, "-m", "store", "--name", "a", "--data-dir", str(directory / "store"),
        "--listen-client-urls", client, "--advertise-client-urls", client,
        "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"a={peer}",
    ]  # fmt: skip
    with process(command, directory / "store.log") as started:
        wait_for_port(int(client.rpartition(":")[2]), started)
        yield client


async def make_services(clients: list[Client], count: int, in_flight: int, space: str) -> Counter[str]:
    """Create Services with node ports through all clients at once; count what came of it: "made", or what was said."""
    numbers = iter(range(count))
    told: Counter[str] = Counter()

    async def work(client: Client) -> None:
        for number in numbers:
            service = {"metadata": {"name": f"s{number}"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}}
            try:
                await client.create(SERVICES, service, space)
                told["made"] += 1
            except ApiError as error:
                told[f"{error.code} {error.message}"] += 1

    async with asyncio.TaskGroup() as group:
        for index in range(in_flight):
            group.create_task(work(clients[index % len(clients)]))
    return told
