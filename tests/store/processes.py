"""Real members as processes on the loopback, with mutual TLS on both sides."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from pathlib import Path

import grpc

from lab import pki
from proto.etcd import rpc_pb2 as pb
from proto.etcd import rpc_pb2_grpc

ROOT = Path(__file__).parents[2]
NAMES = ("a", "b", "c")


class StoreCluster:
    """Three members of the store, each a process that can be killed and started again.

    Where members live is asked of methods, so that tests can put them on other disks and into other networks.
    """

    def __init__(self, directory: Path, *flags: str) -> None:
        self.directory = directory
        self.flags = flags
        ports = iter(free_ports(6))
        self.client_ports = {name: next(ports) for name in NAMES}
        self.peer_ports = {name: next(ports) for name in NAMES}
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        authority = pki.make_authority(directory, "ca", "store")
        for name in NAMES:
            pki.issue(
                authority,
                directory,
                name,
                name,
                usages=[pki.SERVER, pki.CLIENT],
                addresses=sorted({"127.0.0.1", self.host(name)}),
                uris=[f"raftsman://member/{name}"],
            )
        pki.issue(authority, directory, "client", "client", usages=[pki.CLIENT])

    @property
    def endpoints(self) -> str:
        """What etcdctl takes."""
        return ",".join(f"https://127.0.0.1:{port}" for port in self.client_ports.values())

    def host(self, name: str) -> str:
        """The address at which a member listens."""
        return "127.0.0.1"

    def program(self, name: str) -> tuple[str, ...]:
        """What starts a member, before its flags."""
        return (sys.executable, "-m", "store")

    def data_dir(self, name: str) -> Path:
        """Where a member keeps its log."""
        return self.directory / f"{name}.data"

    async def start(self, name: str) -> None:
        """Start a member, or start it again."""
        client, peer = (
            f"https://{self.host(name)}:{self.client_ports[name]}",
            f"https://{self.host(name)}:{self.peer_ports[name]}",
        )
        cluster = ",".join(f"{one}=https://{self.host(one)}:{port}" for one, port in self.peer_ports.items())
        cert, key, authority = (str(self.directory / file) for file in (f"{name}.crt", f"{name}.key", "ca.crt"))
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = await asyncio.create_subprocess_exec(
                *(*self.program(name), "--name", name, "--data-dir", str(self.data_dir(name))),
                *("--listen-client-urls", client, "--advertise-client-urls", client),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", cluster),
                *("--cert-file", cert, "--key-file", key, "--trusted-ca-file", authority, "--client-cert-auth"),
                *("--peer-cert-file", cert, "--peer-key-file", key, "--peer-trusted-ca-file", authority),
                *("--peer-client-cert-auth", "--heartbeat-interval", "50", "--election-timeout", "500"),
                *self.flags,
                cwd=ROOT,
                stderr=log,
            )

    async def kill(self, name: str) -> None:
        """End a member as a power cut would end its process."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        await process.wait()

    async def kill_all(self) -> None:
        """End all members at one moment."""
        processes = [*self.processes.values()]
        self.processes.clear()
        for process in processes:
            if process.returncode is None:
                process.kill()
        for process in processes:
            await process.wait()

    def pause(self, name: str) -> None:
        """Stop a member's clock, as a machine does that is put to sleep."""
        self.processes[name].send_signal(signal.SIGSTOP)

    def go_on(self, name: str) -> None:
        """Let a paused member run again; it does not know that time has passed."""
        self.processes[name].send_signal(signal.SIGCONT)

    async def stop(self) -> None:
        """End all members."""
        for name, process in self.processes.items():
            if process.returncode is None:
                self.go_on(name)
                process.terminate()
        for process in self.processes.values():
            await process.wait()

    def channel(self, name: str) -> grpc.aio.Channel:
        """A channel to one member."""
        certificate, key, authority = (
            (self.directory / file).read_bytes() for file in ("client.crt", "client.key", "ca.crt")
        )
        credentials = grpc.ssl_channel_credentials(authority, key, certificate)
        options = (("grpc.max_reconnect_backoff_ms", 200), ("grpc.initial_reconnect_backoff_ms", 50))
        return grpc.aio.secure_channel(f"127.0.0.1:{self.door(name)}", credentials, options)

    def door(self, name: str) -> int:
        """The port of the loopback at which clients reach a member."""
        return self.client_ports[name]

    async def leader(self) -> str:
        """The name of the member that leads, as soon as all that run agree on it."""
        while True:
            said = [await self._status(name) for name in self.processes]
            leaders = {status.leader if status else 0 for status in said}
            for name, status in zip(self.processes, said, strict=True):
                if status and leaders == {status.header.member_id}:
                    return name
            await asyncio.sleep(0.1)

    async def _status(self, name: str) -> pb.StatusResponse | None:
        async with self.channel(name) as channel:
            try:
                return await rpc_pb2_grpc.MaintenanceStub(channel).Status(pb.StatusRequest(), timeout=2)
            except grpc.aio.AioRpcError:
                return None


def free_ports(count: int) -> list[int]:
    """Ports that nobody has at the moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
