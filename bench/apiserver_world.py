"""What bench.apiserver measures: stores, API servers over them with certificates and RBAC, and the load of h2load."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import shutil
import ssl
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.members import ETCD, RAFTSMAN, ROOT, Members, cpu_of, etcd_program, free_ports
from lab import pki

START_TIMEOUT_S = 60.0
LOAD_TIMEOUT_S = 300.0
NAMESPACE, LISTED = "bench", "listed"
USER = "bench-user"
_READY = re.compile(r"ready address=\S+ port=(\d+) grpc=(\d+)")
_RATE = re.compile(r"finished in [\d.]+\w+, ([\d.]+) req/s")
_COUNTS = re.compile(r"(\d+) done, (\d+) succeeded")
_OK = re.compile(r"status codes: (\d+) 2xx")


@dataclass(frozen=True)
class Measured:
    """What one load gave."""

    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """CPU time of the API server for each request or event."""
    failed: int


class OneEtcd:
    """One member of etcd 3.5 on the loopback, as the peer had it."""

    side = ETCD

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._client, self._peer = free_ports(2)
        self._process: asyncio.subprocess.Process | None = None
        directory.mkdir(parents=True)

    @property
    def urls(self) -> str:
        """What --etcd-servers takes."""
        return f"http://127.0.0.1:{self._client}"

    async def start(self) -> None:
        """Start it and wait until it listens."""
        peer = f"http://127.0.0.1:{self._peer}"
        with (self._directory / "etcd.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(etcd_program()), "--data-dir", str(self._directory / "data"), "--listen-client-urls", self.urls,
                "--advertise-client-urls", self.urls, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                "--initial-cluster", f"default={peer}", "--log-level", "error", "--quota-backend-bytes", str(8 << 30),
                stdout=log, stderr=log,
            )  # fmt: skip
        await wait_for_port(self._client, self._process)

    async def stop(self) -> None:
        """End it and remove its data."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def cpu_s(self) -> float:
        """Return user and system time so far."""
        return cpu_of(self._process.pid) if self._process is not None else 0.0


class OurStore(Members):
    """Three members of our own store."""

    def __init__(self, directory: Path) -> None:
        super().__init__(RAFTSMAN, directory)

    @property
    def urls(self) -> str:
        """What --etcd-servers takes."""
        return ",".join(f"http://127.0.0.1:{port}" for port in self.client_ports)


Store = OneEtcd | OurStore


async def wait_for_port(port: int, process: asyncio.subprocess.Process) -> None:
    """Wait until something listens."""
    async with asyncio.timeout(START_TIMEOUT_S):
        while True:
            if process.returncode is not None:
                raise RuntimeError("the store ended as it began")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return


def make_pki(folder: Path) -> None:
    """Issue what server and clients need."""
    authority = pki.make_authority(folder, "ca", "kubernetes")
    pki.make_service_account_key(folder)
    pki.issue(authority, folder, "admin", "kubernetes-admin", organizations=["system:masters"])
    pki.issue(authority, folder, "user", USER)
    pki.issue(
        authority, folder, "apiserver", "kube-apiserver", usages=[pki.SERVER], dns_names=["localhost"],
        addresses=["127.0.0.1"],
    )  # fmt: skip


class Server:
    """A running API server."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path, port: int, hub_port: int) -> None:
        self.port = port
        self.hub_port = hub_port
        self.token = ""
        self.start_s = 0.0
        self.start_cpu_s = 0.0
        self._process = process
        self._folder = folder

    def tls(self, user: str = "", alpn: str = "http/1.1") -> ssl.SSLContext:
        """Return a client's context, with a certificate where a user is named."""
        context = ssl.create_default_context(cafile=str(self._folder / "ca.crt"))
        context.set_alpn_protocols([alpn])
        if user:
            context.load_cert_chain(self._folder / f"{user}.crt", self._folder / f"{user}.key")
        return context

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send one request as the administrator and return the answer's object."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=self.tls("admin"), timeout=60)
        try:
            data = json.dumps(body) if body is not None else None
            connection.request(method, path, data, {"content-type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]!r}")
        return json.loads(text) if text.startswith(b"{") else text.decode()

    def is_ready(self) -> bool:
        """Tell whether the server calls itself ready."""
        try:
            return bool(self.ask("GET", "/readyz") == "ok")
        except (RuntimeError, OSError):
            return False

    def cpu_s(self) -> float:
        """Return user and system time so far."""
        return cpu_of(self._process.pid)

    def rss_mb(self) -> float:
        """Return the resident memory."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self._process.pid}/status").read_text())
        return int(found[1]) / 1024 if found else 0.0

    def prepare(self) -> None:
        """Make namespaces, accounts, a role that allows what is measured, and the objects that are read."""
        for space in (NAMESPACE, LISTED):
            self.ask("POST", "/api/v1/namespaces", {"metadata": {"name": space}})
            for account in ("default", USER):
                self.ask("POST", f"/api/v1/namespaces/{space}/serviceaccounts", {"metadata": {"name": account}})
        group = "rbac.authorization.k8s.io"
        verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
        rules = [{"apiGroups": [""], "resources": ["configmaps", "pods"], "verbs": verbs}]
        self.ask("POST", f"/apis/{group}/v1/clusterroles", {"metadata": {"name": "bench"}, "rules": rules})
        subjects = [
            {"kind": "ServiceAccount", "namespace": NAMESPACE, "name": USER},
            {"kind": "User", "apiGroup": group, "name": USER},
        ]
        role = {"apiGroup": group, "kind": "ClusterRole", "name": "bench"}
        binding = {"metadata": {"name": "bench"}, "subjects": subjects, "roleRef": role}
        self.ask("POST", f"/apis/{group}/v1/clusterrolebindings", binding)
        path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{USER}/token"
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 7200},
        }
        self.token = self.ask("POST", path, request)["status"]["token"]


def with_bytecode() -> dict[str, str]:
    """Return an environment in which modules' bytecode is kept and found, as in any installation."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(ROOT / ".cache" / "bytecode")}


async def compile_modules() -> None:
    """Have the API server's modules compiled, as they are after any first start."""
    importing = "import control.apiserver.server, control.apiserver.command"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", importing, cwd=ROOT, env=with_bytecode())
    if await process.wait():
        raise RuntimeError("the API server cannot be imported")


@asynccontextmanager
async def api_server(store: Store, prefix: str, folder: Path, log: Path) -> AsyncIterator[Server]:
    """Start an API server on a part of the store that nobody has used."""
    command = [
        sys.executable, "-m", "control.apiserver", "--etcd-servers", store.urls, "--etcd-prefix", prefix,
        "--bind-address", "127.0.0.1", "--secure-port", "0", "--grpc-port", "0", "--tls-cert-file",
        str(folder / "apiserver.crt"), "--tls-private-key-file", str(folder / "apiserver.key"), "--client-ca-file",
        str(folder / "ca.crt"), "--service-account-signing-key-file", str(folder / "sa.key"),
        "--service-account-key-file", str(folder / "sa.pub"),
    ]  # fmt: skip
    with log.open("wb") as output:
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, stdout=output, stderr=output, env=with_bytecode()
        )
    try:
        while (found := _READY.search(text := _text(log))) is None:
            if process.returncode is not None or time.perf_counter() - began > START_TIMEOUT_S:
                raise RuntimeError(f"the API server did not start: {text[-2000:]}")
            await asyncio.sleep(0.005)
        server = Server(process, folder, int(found[1]), int(found[2]))
        while not server.is_ready():
            if time.perf_counter() - began > START_TIMEOUT_S:
                raise RuntimeError(f"the API server is not ready: {_text(log)[-2000:]}")
            await asyncio.sleep(0.02)
        server.start_s, server.start_cpu_s = time.perf_counter() - began, server.cpu_s()
        yield server
    finally:
        await _end(process)


def _text(log: Path) -> str:
    return log.read_text()


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(15):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def h2load(
    server: Server, path: str, directory: Path, *limits: str, body: bytes = b"", connections: int = 32
) -> Measured:
    """Have h2load ask over HTTP/1.1 with TLS and a bearer token; ``limits`` are its own: -n COUNT or -D TIME."""
    log, data = directory / "load.log", directory / "load.body"
    log.unlink(missing_ok=True)
    command = ["h2load", "--h1", "-t", "1", "-c", str(connections), *limits, "--log-file", str(log)]
    command += ["-H", f"authorization: Bearer {server.token}", "-H", "accept: application/json"]
    if body:
        data.write_bytes(body)
        command += ["-d", str(data), "-H", "content-type: application/json"]
    before_s = server.cpu_s()
    process = await asyncio.create_subprocess_exec(
        *command, f"https://127.0.0.1:{server.port}{path}", stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT, env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip
    async with asyncio.timeout(LOAD_TIMEOUT_S):
        output = (await process.communicate())[0].decode()
    cpu_s = server.cpu_s() - before_s
    rate, counts, ok = _RATE.search(output), _COUNTS.search(output), _OK.search(output)
    if rate is None or counts is None or ok is None or not int(ok[1]):
        raise RuntimeError(f"h2load came to nothing: {output[-800:]}")
    done = int(counts[1])
    took_us = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines()) or [0]
    return Measured(
        float(rate[1]), _at(took_us, 0.5) / 1e3, _at(took_us, 0.99) / 1e3, cpu_s / done * 1e6, done - int(ok[1])
    )


@asynccontextmanager
async def writing(server: Server, path: str, directory: Path, body: bytes, connections: int) -> AsyncIterator[None]:
    """Have h2load create objects meanwhile."""
    data = directory / "writing.body"
    data.write_bytes(body)
    command = ["h2load", "--h1", "-t", "1", "-c", str(connections), "-D", f"{LOAD_TIMEOUT_S:g}", "-d", str(data)]
    command += ["-H", f"authorization: Bearer {server.token}", "-H", "content-type: application/json"]
    process = await asyncio.create_subprocess_exec(
        *command, f"https://127.0.0.1:{server.port}{path}", stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _at(ordered: Sequence[int], share: float) -> int:
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def config_map(name: str = "") -> bytes:
    """Return a ConfigMap of 256 bytes of data; without a name the server makes one."""
    metadata = {"name": name} if name else {"generateName": "load-"}
    obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**metadata, "labels": {"app": "load"}}}
    return json.dumps({**obj, "data": {"key": "v" * 256}}).encode()


def pod() -> bytes:
    """Return a Pod as a Deployment's template has it."""
    container = {
        "name": "web", "image": "registry.example/web:1.2.3", "ports": [{"containerPort": 80}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "env": [{"name": "MODE", "value": "bench"}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 80}},
    }  # fmt: skip
    metadata = {"generateName": "load-", "labels": {"app": "load", "tier": "web"}}
    return json.dumps(
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}
    ).encode()
