"""Machines for tests: namespaces with files, processes and a network card of their own, and nothing else of Raftsman's."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lab import processes
from lab.nodes import remove_cgroup_trees

ROOT = Path(__file__).parent.parent.parent
NETWORK = "10.79.0"
_BOOT = """
set -eu
hostname {name}
for folder in etc var/log; do
  mkdir -p {directory}/$folder {directory}/scratch/$folder
  mount -t overlay -o lowerdir=/$folder,upperdir={directory}/$folder,workdir={directory}/scratch/$folder overlay /$folder
done
mkdir -p {directory}/lib {directory}/varlib {directory}/scratch/varlib
mount -t overlay -o lowerdir=/var/lib,upperdir={directory}/varlib,workdir={directory}/scratch/varlib overlay /var/lib
mkdir -p /var/lib/raftsman && mount --bind {directory}/lib /var/lib/raftsman
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/mount
ip link set lo up
read -r cable
ip address add {address}/24 dev eth0
ip link set eth0 up
ip route add default via {gateway}
exec catatonit -P
"""


@dataclass
class TestMachine:
    """One machine: what a person at its console can do."""

    __test__ = False
    name: str
    address: str
    directory: Path
    pid: int
    outer: subprocess.Popen[bytes]

    def run(self, *command: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine."""
        inside = ["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p", *command]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAFTSMAN")}
        return subprocess.run(
            inside, capture_output=True, text=True, timeout=timeout_s, check=False, env=environment, cwd="/"
        )

    def raftsman(self, *arguments: str, timeout_s: float = 240) -> str:
        """Run a raftsman command; a failure fails the test."""
        done = self.run(sys.executable, "-m", "cli.main", *arguments, timeout_s=timeout_s)
        assert done.returncode == 0, f"{self.name}: raftsman {arguments}: {done.stdout}\n{done.stderr}\n{self.logs()}"
        return done.stdout

    def logs(self) -> str:
        """Return the ends of what the components wrote."""
        texts = []
        for path in sorted((self.directory / "var" / "log" / "raftsman").glob("*.log")):
            texts.append(f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:]))
        return "\n".join(texts)


@dataclass
class Site:
    """Some machines on one network."""

    namespace: str
    directory: Path
    machines: list[TestMachine] = field(default_factory=list)

    def machine(self, name: str) -> TestMachine:
        """Boot one machine more."""
        index = len(self.machines) + 1
        directory, address = self.directory / name, f"{NETWORK}.{10 + index}"
        directory.mkdir()
        text = _BOOT.format(name=name, directory=directory, address=address, gateway=f"{NETWORK}.1")
        outer = subprocess.Popen(
            ["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
             "--propagation", "private", "sh", "-c", text],
            stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip
        pid = _wait_for_child(outer)
        lines = f"link add {name} type veth peer name eth0 netns {pid}\nlink set {name} master br0 up\n"
        subprocess.run(["ip", "-n", self.namespace, "-batch", "-"], input=lines, text=True, check=True)
        assert outer.stdin is not None
        outer.stdin.write(b"cable\n")
        outer.stdin.close()
        made = TestMachine(name, address, directory, pid, outer)
        self.machines.append(made)
        deadline = time.monotonic() + 20
        while made.run("ip", "route", "get", f"{NETWORK}.1").returncode:
            assert time.monotonic() < deadline, f"{name} has no network"
            time.sleep(0.05)
        return made


def _wait_for_child(outer: subprocess.Popen[bytes]) -> int:
    ours, deadline = os.readlink("/proc/self/ns/net"), time.monotonic() + 20
    while time.monotonic() < deadline:
        pid = processes.child(outer.pid)
        if pid and os.readlink(f"/proc/{pid}/ns/net") != ours:
            return pid
        time.sleep(0.01)
    raise AssertionError("a machine did not boot")


@contextmanager
def site(directory: Path) -> Iterator[Site]:
    """A network without machines; all that are made go with it."""
    namespace = f"raftsman-machines-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    made = Site(namespace, directory)
    try:
        lines = f"link set lo up\nlink add br0 address 02:00:00:00:00:01 type bridge\naddress add {NETWORK}.1/24 dev br0\nlink set br0 up\n"
        subprocess.run(["ip", "-n", namespace, "-batch", "-"], input=lines, text=True, check=True)
        yield made
    finally:
        for machine in made.machines:
            processes.send(machine.pid, signal.SIGKILL)
        for machine in made.machines:
            machine.outer.wait(20)
        subprocess.run(["ip", "netns", "delete", namespace], check=True)
        for machine in made.machines:
            remove_cgroup_trees(f"raftsman-{machine.name}")
            shutil.rmtree(machine.directory)
