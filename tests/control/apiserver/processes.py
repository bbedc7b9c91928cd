"""Real processes: a store, an API server over it, and kubectl to ask."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from control.client.client import Client
from control.client.kubeconfig import Kubeconfig, Material
from lab import pki

ROOT = Path(__file__).parents[3]
START_TIMEOUT_S = 120.0
ADVERTISED = "192.0.2.10"
_READY = re.compile(r"ready address=\S+ port=(\d+) grpc=(\d+)")


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in the background; its output goes to a file."""
    with log.open("ab") as output:
        started = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    try:
        yield started
    finally:
        if started.poll() is None:
            started.send_signal(signal.SIGCONT)
            started.terminate()
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


def wait_for_port(port: int, started: subprocess.Popen[bytes]) -> None:
    """Wait until something listens."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        assert started.poll() is None, "the program ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline, f"nothing listens on {port}"
        time.sleep(0.05)


class EtcdServer:
    """One member of etcd that can be killed and started again on its data."""

    def __init__(self, program: Path, directory: Path) -> None:
        self._directory = directory
        self._port = free_port()
        peer = f"http://127.0.0.1:{free_port()}"
        self.url = f"http://127.0.0.1:{self._port}"
        self._command = [
            str(program), "--data-dir", str(directory / "etcd"), "--listen-client-urls", self.url,
            "--advertise-client-urls", self.url, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", f"default={peer}",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens."""
        with (self._directory / "etcd.log").open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output)
        wait_for_port(self._port, self._process)

    def kill(self) -> None:
        """Kill it as power loss does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def etcd_server(program: Path, directory: Path) -> Iterator[EtcdServer]:
    """Run one member of etcd."""
    server = EtcdServer(program, directory)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@dataclass
class Server:
    """A running API server and how to reach it."""

    process: subprocess.Popen[bytes]
    port: int
    hub_port: int
    directory: Path

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def hub_client(self, user: str = "admin") -> Client:
        """Return a client of the hub for one of the issued users."""
        folder = self.directory / "pki"
        return Kubeconfig(
            self.url,
            hub=(f"localhost:{self.hub_port}",),
            certificate_authority=Material(path=folder / "ca.crt"),
            client_certificate=Material(path=folder / f"{user}.crt"),
            client_key=Material(path=folder / f"{user}.key"),
        ).client()

    def kubeconfig(self, user: str = "admin") -> Path:
        """Write a kubeconfig for one of the issued users; "nobody" has no credentials."""
        path, folder = self.directory / f"{user}.kubeconfig", self.directory / "pki"
        credentials = {"client-certificate": str(folder / f"{user}.crt"), "client-key": str(folder / f"{user}.key")}
        cluster = {"server": self.url, "certificate-authority": str(folder / "ca.crt")}
        made = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {} if user == "nobody" else credentials}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        # Threads may ask for the same file at once, and read it while another writes.
        fresh = path.with_suffix(f".{threading.get_ident()}")
        fresh.write_text(yaml.safe_dump(made))
        fresh.replace(path)
        return path


def make_pki(folder: Path) -> None:
    """Issue what an API server and its users need."""
    authority = pki.make_authority(folder, "ca", "kubernetes")
    stranger = pki.make_authority(folder / "other", "ca", "kubernetes")
    pki.make_service_account_key(folder)
    pki.issue(authority, folder, "admin", "kubernetes-admin", organizations=["system:masters"])
    pki.issue(authority, folder, "scheduler", "system:kube-scheduler")
    pki.issue(authority, folder, "controllers", "system:kube-controller-manager")
    pki.issue(stranger, folder, "stranger", "kubernetes-admin", organizations=["system:masters"])
    pki.issue(authority, folder, "kubelet", "system:node:fake", usages=[pki.SERVER], addresses=["127.0.0.1"])
    pki.issue(
        authority, folder, "apiserver", "kube-apiserver", usages=[pki.SERVER], dns_names=["localhost"],
        addresses=["127.0.0.1"],
    )  # fmt: skip


@contextmanager
def api_server(store_url: str, directory: Path, *flags: str) -> Iterator[Server]:
    """Run an API server over a store, with certificates and RBAC."""
    folder = directory / "pki"
    if not folder.exists():
        make_pki(folder)
    log = directory / f"apiserver-{free_port()}.log"
    command = [
        sys.executable, "-m", "control.apiserver", "--etcd-servers", store_url, "--bind-address", "127.0.0.1",
        "--secure-port", "0", "--grpc-port", "0", "--tls-cert-file", str(folder / "apiserver.crt"),
        "--tls-private-key-file", str(folder / "apiserver.key"), "--client-ca-file", str(folder / "ca.crt"),
        "--service-account-signing-key-file", str(folder / "sa.key"), "--service-account-key-file",
        str(folder / "sa.pub"), "--advertise-address", ADVERTISED, *flags,
    ]  # fmt: skip
    with process(command, log) as started:
        deadline = time.monotonic() + START_TIMEOUT_S
        while (found := _READY.search(log.read_text())) is None:
            assert started.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield Server(started, int(found[1]), int(found[2]), directory)


@dataclass
class Kubectl:
    """kubectl with a kubeconfig and a home folder of its own."""

    program: Path
    kubeconfig: Path
    home: Path

    def command(self, *arguments: str) -> list[str]:
        return [str(self.program), "--kubeconfig", str(self.kubeconfig), *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {"HOME": str(self.home), "PATH": os.environ["PATH"], "KUBECTL_PORT_FORWARD_WEBSOCKETS": "true"}

    def run(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command whatever comes of it."""
        return subprocess.run(
            self.command(*arguments),
            input=text,
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=60,
            check=False,
        )

    def __call__(self, *arguments: str, text: str = "") -> str:
        """Run a command that must succeed; return what it prints."""
        done = self.run(*arguments, text=text)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}{done.stdout}"
        return done.stdout

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Run a command in the background."""
        return subprocess.Popen(
            self.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment
        )

    def finish(self, started: subprocess.Popen[str], timeout_s: float = 40.0) -> str:
        """Wait for a command in the background; return what it printed."""
        output, _ = started.communicate(timeout=timeout_s)
        assert started.returncode == 0, output
        return output
