"""Clusters of real members that come and go by etcdctl, with mutual TLS or without."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from typing import Any

import grpc

from lab import pki
from tests.store.processes import ROOT, StoreCluster, free_ports
from tests.store.programs import Etcdctl


class GrowingCluster(StoreCluster):
    """A cluster that begins with one member and is changed by etcdctl."""

    def __init__(self, directory: Path, etcdctl: Path, *, tls: bool) -> None:
        self.directory = directory
        self.flags = ("--snapshot-count", "200")
        self.tls = tls
        self.client_ports: dict[str, int] = {}
        self.peer_ports: dict[str, int] = {}
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self.ids: dict[str, int] = {}
        self.learners: set[str] = set()
        self._program = etcdctl
        self._authority = pki.make_authority(directory, "ca", "store") if tls else None
        if self._authority is not None:
            pki.issue(self._authority, directory, "client", "client", usages=[pki.CLIENT])

    @property
    def scheme(self) -> str:
        return "https" if self.tls else "http"

    @property
    def endpoints(self) -> str:
        """The members that run and are no learners: those refuse what etcdctl wants."""
        names = (name for name in self.processes if name not in self.learners)
        return ",".join(f"{self.scheme}://127.0.0.1:{self.client_ports[name]}" for name in names)

    @property
    def etcdctl(self) -> Etcdctl:
        """The command, pointed at the members that run now."""
        files = {"--cacert": "ca.crt", "--cert": "client.crt", "--key": "client.key"} if self.tls else {}
        flags = [part for flag, file in files.items() for part in (flag, str(self.directory / file))]
        return Etcdctl(self._program, self.endpoints, *flags, "--command-timeout", "30s")

    def peer_url(self, name: str) -> str:
        """Where other members dial this one."""
        return f"{self.scheme}://127.0.0.1:{self.peer_ports[name]}"

    def settle(self, name: str) -> None:
        """Give a member ports and a certificate."""
        self.client_ports[name], self.peer_ports[name] = free_ports(2)
        if self._authority is not None:
            uris = [f"raftsman://member/{name}"]
            usages = [pki.SERVER, pki.CLIENT]
            pki.issue(self._authority, self.directory, name, name, usages=usages, addresses=["127.0.0.1"], uris=uris)

    async def run(self, name: str, *, state: str, cluster: str, listen: str = "") -> None:
        """Start a member with an --initial-cluster."""
        client = f"{self.scheme}://127.0.0.1:{self.client_ports[name]}"
        flags = [
            *("--name", name, "--data-dir", str(self.data_dir(name)), "--initial-cluster-state", state),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", listen or self.peer_url(name)),
            *("--initial-advertise-peer-urls", self.peer_url(name), "--initial-cluster", cluster),
            *("--heartbeat-interval", "50", "--election-timeout", "400"),
            *self.flags,
        ]
        if self.tls:
            cert, key, authority = (str(self.directory / file) for file in (f"{name}.crt", f"{name}.key", "ca.crt"))
            flags += ["--cert-file", cert, "--key-file", key, "--trusted-ca-file", authority, "--client-cert-auth"]
            flags += ["--peer-cert-file", cert, "--peer-key-file", key, "--peer-trusted-ca-file", authority]
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "store", *flags, cwd=ROOT, stderr=log
            )

    async def begin(self, name: str) -> None:
        """Start the first member."""
        self.settle(name)
        await self.run(name, state="new", cluster=f"{name}={self.peer_url(name)}")
        await self.started(name)

    async def add(self, name: str, *flags: str) -> None:
        """Add a member by etcdctl and start it with what etcdctl prints."""
        self.settle(name)
        if "--learner" in flags:
            self.learners.add(name)
        said = await self.patiently("member", "add", name, f"--peer-urls={self.peer_url(name)}", *flags)
        environment = dict(line.split("=", 1) for line in said.splitlines() if line.startswith("ETCD_"))
        cluster = environment["ETCD_INITIAL_CLUSTER"].strip('"')
        await self.run(name, state=environment["ETCD_INITIAL_CLUSTER_STATE"].strip('"'), cluster=cluster)
        await self.started(name)

    async def patiently(self, *arguments: str) -> str:
        """Repeat a command while the cluster says that it is not healthy enough yet for a change."""
        async with asyncio.timeout(60):
            while True:
                code, output, errors = await self.etcdctl.run(*arguments)
                if code == 0:
                    return output
                assert "unhealthy cluster" in errors or "not enough started" in errors or "in sync" in errors, errors
                await asyncio.sleep(0.2)

    async def members(self) -> dict[str, Any]:
        """What member list says, by name."""
        members = (await self.etcdctl.json("member", "list"))["members"]
        return {member.get("name", ""): member for member in members}

    async def started(self, name: str) -> None:
        """Wait until a member has made itself known."""
        async with asyncio.timeout(60):
            while True:
                code, _, _ = await self.etcdctl.run("member", "list")
                if code == 0 and name in (members := await self.members()):
                    self.ids[name] = members[name]["ID"]
                    return
                await asyncio.sleep(0.1)

    async def promote(self, name: str) -> None:
        """Give a learner a vote by etcdctl."""
        await self.patiently("member", "promote", f"{self.ids[name]:x}")
        self.learners.discard(name)

    async def remove(self, name: str) -> None:
        """Remove a member by etcdctl."""
        await self.patiently("member", "remove", f"{self.ids[name]:x}")

    async def left(self, name: str) -> int:
        """Wait until a removed member has ended, and return its exit code."""
        async with asyncio.timeout(30):
            return await self.processes.pop(name).wait()

    def log(self, name: str) -> str:
        """What a member has written."""
        return (self.directory / f"{name}.log").read_text()

    def lose_disk(self, name: str) -> None:
        """Throw a member's log away."""
        shutil.rmtree(self.data_dir(name))

    def channel(self, name: str) -> grpc.aio.Channel:
        """A channel to one member."""
        if self.tls:
            return super().channel(name)
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.client_ports[name]}")
