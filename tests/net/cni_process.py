"""The CNI daemon as a process in a node's namespace, and the real shim as a runtime execs it. Needs root."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.net.topology import Fabric, Namespace, closing_all, eventually

IPV4, BOTH = "10.244.1.0/24", "10.244.1.0/24,fd00:10:244:1::/64"
NODE, NODE6 = "192.168.77.11", "fd00:77::11"
STRANGER, STRANGER6 = "192.168.77.100", "fd00:77::100"
ROOT = Path(__file__).parents[2]


class Daemon:
    """The daemon as a process of its own in a node's namespace."""

    def __init__(self, node: Namespace, folder: Path, fabric: Fabric, *flags: str) -> None:
        self.node, self.folder, self.fabric, self.flags = node, folder, fabric, flags
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        folder = self.folder
        self.process = subprocess.Popen(
            [
                *("nsenter", f"--net={self.node.path}", sys.executable, "-m", "net.cni"),
                *("--socket", folder / "run/cni.sock", "--state-dir", folder / "state"),
                *("--cni-conf-dir", folder / "conf", "--cni-bin-dir", folder / "bin"),
                *self.flags,
            ],
            cwd=ROOT,
        )
        eventually(lambda: (folder / "conf/10-raftsman.conflist").exists() and self.answers(), 20)

    def answers(self) -> bool:
        if not (self.folder / "bin/raftsman-cni").exists():
            return False
        return self.call("STATUS", None, cniVersion="1.1.0")[0] == 0

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def call(
        self, command: str, pod: Namespace | None, container: str = "", plugin: str = "raftsman-cni", **more: Any
    ) -> tuple[int, dict[str, Any]]:
        """Exec the shim as a runtime does; return its exit code and output."""
        environment = {"CNI_COMMAND": command, "PATH": "/usr/bin:/bin", "CNI_PATH": str(self.folder / "bin")}
        if pod is not None or container:
            environment |= {
                "CNI_CONTAINERID": container or (pod.name if pod else ""),
                "CNI_NETNS": pod.path if pod else "",
                "CNI_IFNAME": "lo" if plugin == "loopback" else "eth0",
                "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-1;K8S_POD_UID=u1",
            }
        configuration = {"cniVersion": "1.0.0", "name": "raftsman", "type": plugin, **more}
        done = subprocess.run(
            [self.folder / "bin" / plugin],
            input=json.dumps(configuration).encode(),
            env=environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert not done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout) if done.stdout else {}


@contextmanager
def started(folder: Path, pod_cidr: str = IPV4, *flags: str) -> Iterator[Daemon]:
    """Run a daemon on a node of its own, which has addresses of both families on the fabric."""
    with closing_all() as namespaces:
        fabric = Fabric()
        node = Namespace("node")
        namespaces.extend([fabric, node])
        fabric.join(node, NODE)
        node.ip(f"addr add {NODE6}/64 dev eth0 nodad")
        node.ip("link set eth0 mtu 1400")
        daemon = Daemon(node, folder, fabric, "--pod-cidr", pod_cidr, *flags)
        try:
            yield daemon
        finally:
            daemon.kill()


def stranger_of(daemon: Daemon, made: list[Namespace]) -> Namespace:
    """Make a machine on the fabric that knows the way to the node's pods."""
    stranger = Namespace("stranger")
    made.append(stranger)
    daemon.fabric.join(stranger, STRANGER)
    stranger.ip(f"addr add {STRANGER6}/64 dev eth0 nodad")
    stranger.ip(f"route add 10.244.1.0/24 via {NODE}")
    stranger.ip(f"-6 route add fd00:10:244:1::/64 via {NODE6}")
    return stranger


def new_pod(made: list[Namespace], role: str = "pod") -> Namespace:
    """Make a pod's sandbox as a runtime does."""
    pod = Namespace(role)
    made.append(pod)
    pod.ip("link set lo down")
    return pod


def addresses_of(result: dict[str, Any]) -> list[str]:
    """Return the pod's addresses of an ADD's result."""
    return [str(entry["address"]).partition("/")[0] for entry in result["ips"]]


def host_links(node: Namespace) -> list[str]:
    """Return the node's ends of pods' interfaces."""
    return [entry["ifname"] for entry in json.loads(node.ip("-j link")) if entry["ifname"].startswith("raft")]


def state_claims(daemon: Daemon) -> list[dict[str, Any]]:
    """Return the claims on disk."""
    text = (daemon.folder / "state/addresses.state").read_text()
    claims: list[dict[str, Any]] = json.loads(text.split("\n", 1)[1])["claims"]
    return claims
