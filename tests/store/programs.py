"""etcd's own programs, unmodified: etcdctl pointed at a cluster, and an etcd to compare with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from proto.etcd import rpc_pb2 as pb
from proto.etcd import rpc_pb2_grpc
from tests.store.processes import StoreCluster, free_ports

TIMEOUT_S = 60


class Etcdctl:
    """The command, pointed at a cluster."""

    def __init__(
        self, program: Path, endpoints: str, *flags: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.endpoints = endpoints
        self.command = (str(program), *flags)
        self.environment = {"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin", "ETCDCTL_DIAL_TIMEOUT": "10s"}
        self.environment |= environment or {}

    @property
    def first(self) -> str:
        """One member's endpoint."""
        return self.endpoints.split(",")[0]

    async def start(self, *arguments: str, endpoints: str = "") -> asyncio.subprocess.Process:
        """Start it and leave it running."""
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *(*self.command, "--endpoints", endpoints or self.endpoints, *arguments),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=self.environment,
        )

    async def run(self, *arguments: str, typed: str = "", endpoints: str = "") -> tuple[int, str, str]:
        """Its exit code, and what it wrote to either side."""
        process = await self.start(*arguments, endpoints=endpoints)
        async with asyncio.timeout(TIMEOUT_S):
            output, errors = await process.communicate(typed.encode())
        return process.returncode or 0, output.decode(), errors.decode()

    async def said(self, *arguments: str, typed: str = "", endpoints: str = "") -> str:
        """What it prints when it succeeds."""
        code, output, errors = await self.run(*arguments, typed=typed, endpoints=endpoints)
        assert code == 0, errors
        return output

    async def refused(self, *arguments: str, typed: str = "", endpoints: str = "") -> str:
        """What it complains of when it fails."""
        code, output, errors = await self.run(*arguments, typed=typed, endpoints=endpoints)
        assert code != 0, output
        return errors

    async def json(self, *arguments: str, endpoints: str = "") -> Any:
        """What it prints when it is asked for JSON."""
        return json.loads(await self.said(*arguments, "-w", "json", endpoints=endpoints))


def etcdctl_of(program: Path, cluster: StoreCluster) -> Etcdctl:
    """The command with the certificates of a cluster of ours."""
    files = {"--cacert": "ca.crt", "--cert": "client.crt", "--key": "client.key"}
    flags = (part for flag, file in files.items() for part in (flag, str(cluster.directory / file)))
    return Etcdctl(program, cluster.endpoints, *flags)


async def lines_of(process: asyncio.subprocess.Process, count: int) -> list[str]:
    """The next lines that a program prints; what it complains of where it ends instead."""
    assert process.stdout is not None
    assert process.stderr is not None
    lines: list[str] = []
    async with asyncio.timeout(TIMEOUT_S):
        while len(lines) < count:
            line = await process.stdout.readline()
            assert line, f"it ended after {lines}: {(await process.stderr.read()).decode()}"
            lines.append(line.decode().strip())
    return lines


async def end(process: asyncio.subprocess.Process, *, kill: bool = False) -> None:
    """End a program that may have ended by itself."""
    if process.returncode is None:
        if kill:
            process.kill()
        else:
            process.terminate()
    async with asyncio.timeout(TIMEOUT_S):
        await process.communicate()


@asynccontextmanager
async def etcd_server(program: Path, directory: Path, *flags: str) -> AsyncIterator[str]:
    """Run one member of etcd and yield where it serves clients, as HOST:PORT."""
    ports = free_ports(2)
    client, peer = (f"http://127.0.0.1:{port}" for port in ports)
    process = await asyncio.create_subprocess_exec(
        *(str(program), "--data-dir", str(directory), "--log-level", "error"),
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"),
        *flags,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports[0]}") as channel, asyncio.timeout(TIMEOUT_S):
            await rpc_pb2_grpc.KVStub(channel).Range(pb.RangeRequest(key=b"a"), wait_for_ready=True)
        yield f"127.0.0.1:{ports[0]}"
    finally:
        process.terminate()
        await process.wait()
