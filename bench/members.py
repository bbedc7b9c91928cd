"""Three members of raftsman's store or of etcd on the loopback, started alike."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import http2
from lab import peers, pki
from proto.etcd import rpc_pb2 as pb

ROOT = Path(__file__).parents[1]
NAMES = ("a", "b", "c")
RAFTSMAN, ETCD = "raftsman", "etcd"
START_TIMEOUT_S = 60.0
_QUOTA_BYTES = 8 << 30


class Members:
    """A running cluster."""

    def __init__(self, side: str, directory: Path, *, tls: bool = False, flags: Sequence[str] = ()) -> None:
        self.side = side
        self.directory = directory
        self.flags = tuple(flags)
        self.tls: ssl.SSLContext | None = None
        self._scheme = "https" if tls else "http"
        ports = free_ports(6)
        self.client_ports = ports[:3]
        self.peer_ports = ports[3:]
        self.processes: list[asyncio.subprocess.Process] = []
        directory.mkdir(parents=True)
        if tls:
            self.tls = self._certificates()

    async def start(self) -> None:
        """Start all members and wait for one that leads."""
        for place in range(3):
            await self.start_member(place)
        await self.leader_port()

    async def start_member(self, place: int) -> None:
        """Start one member."""
        with (self.directory / f"{NAMES[place]}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self._program(), *self._arguments(place), *self.flags, cwd=ROOT, stdout=log, stderr=log
            )
        self.processes.append(process)

    async def stop(self) -> None:
        """End all members and remove their data."""
        for process in self.processes:
            if process.returncode is None:
                process.terminate()
        for process in self.processes:
            try:
                async with asyncio.timeout(10):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def cpu_s(self) -> float:
        """Return user and system time of all members so far."""
        return sum(cpu_of(process.pid) for process in self.processes)

    async def leader_port(self) -> int:
        """Return the client port of the member that leads, as soon as all agree on it."""
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                statuses = [await self._status(port) for port in self.client_ports]
                leaders = {status.leader if status else 0 for status in statuses}
                for port, status in zip(self.client_ports, statuses, strict=True):
                    if status and leaders == {status.header.member_id}:
                        return port
                if any(process.returncode is not None for process in self.processes):
                    raise RuntimeError(f"a member of {self.side} ended: {self.last_words()}")
                await asyncio.sleep(0.1)

    def last_words(self) -> str:
        """Return the ends of the members' logs."""
        return "\n".join((self.directory / f"{name}.log").read_text()[-500:] for name in NAMES)

    async def _status(self, port: int) -> pb.StatusResponse | None:
        try:
            body = await http2.call("/etcdserverpb.Maintenance/Status", port, b"", self.tls)
        except (OSError, TimeoutError):
            return None
        return pb.StatusResponse.FromString(body) if body is not None else None

    def _program(self) -> tuple[str, ...]:
        return (str(etcd_program()),) if self.side == ETCD else (sys.executable, "-m", "store")

    def _arguments(self, place: int) -> list[str]:
        name, scheme = NAMES[place], self._scheme
        client, peer = (f"{scheme}://127.0.0.1:{ports[place]}" for ports in (self.client_ports, self.peer_ports))
        cluster = ",".join(
            f"{one}={scheme}://127.0.0.1:{port}" for one, port in zip(NAMES, self.peer_ports, strict=True)
        )
        arguments = [
            *("--name", name, "--data-dir", str(self.directory / f"{name}.data")),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", cluster),
            *("--log-level", "error" if self.side == ETCD else "warning", "--quota-backend-bytes", str(_QUOTA_BYTES)),
        ]
        if self.tls is not None:
            cert, key, authority = (str(self.directory / file) for file in (f"{name}.crt", f"{name}.key", "ca.crt"))
            arguments += [
                *("--cert-file", cert, "--key-file", key, "--trusted-ca-file", authority, "--client-cert-auth"),
                *("--peer-cert-file", cert, "--peer-key-file", key, "--peer-trusted-ca-file", authority),
                "--peer-client-cert-auth",
            ]
        return arguments

    def _certificates(self) -> ssl.SSLContext:
        authority = pki.make_authority(self.directory, "ca", "bench")
        for name in NAMES:
            pki.issue(
                authority, self.directory, name, name, usages=[pki.SERVER, pki.CLIENT],
                addresses=["127.0.0.1"], dns_names=["localhost"], uris=[f"raftsman://member/{name}"],
            )  # fmt: skip
        pki.issue(authority, self.directory, "client", "client", usages=[pki.CLIENT])
        context = ssl.create_default_context(cafile=str(self.directory / "ca.crt"))
        context.load_cert_chain(self.directory / "client.crt", self.directory / "client.key")
        context.set_alpn_protocols(["h2"])
        return context


def etcd_program() -> Path:
    """Return Debian's newest etcd, fetched where it is not there yet."""
    given = os.environ.get("RAFTSMAN_BENCH_ETCD")
    return Path(given) if given else peers.fetch(ROOT / ".cache" / "peers", "etcd-server", "sid", "etcd")


def cpu_of(pid: int) -> float:
    """Return user and system time of a process in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports
