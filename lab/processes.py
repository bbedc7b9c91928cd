"""Finds a cluster's processes by the mark that each of them carries in its environment."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lab.state import Cluster, LabError

CLUSTER_MARK = "RAFTSMAN_CLUSTER"
COMPONENT_MARK = "RAFTSMAN_COMPONENT"


@dataclass(frozen=True)
class Process:
    """One process of a cluster."""

    pid: int
    component: str
    """ "n1/store", "n1/init", "forwarder"."""
    command: str


def environment(cluster: Cluster, component: str) -> dict[str, str]:
    """Return the environment of a process of the cluster, with its mark."""
    kept = ("PATH", "LANG", "SSL_CERT_FILE", "RAFTSMAN_LOG")
    own = {name: os.environ[name] for name in kept if name in os.environ}
    root = str(Path(__file__).resolve().parent.parent)
    marks = {CLUSTER_MARK: str(cluster.directory), COMPONENT_MARK: component}
    return own | marks | {"PYTHONPATH": root, "HOME": "/root", "MALLOC_ARENA_MAX": "2"}


def find(cluster: Cluster) -> list[Process]:
    """Return all living processes that carry the cluster's mark."""
    wanted = f"{CLUSTER_MARK}={cluster.directory}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
            if wanted not in variables:
                continue
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # it ended while we looked
        mark = f"{COMPONENT_MARK}=".encode()
        component = next((v[len(mark) :].decode() for v in variables if v.startswith(mark)), "")
        if command:
            found.append(Process(int(entry.name), component, command))
    return sorted(found, key=lambda process: process.pid)


def parent(pid: int) -> int:
    """Return a process's parent, 0 where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def child(pid: int) -> int:
    """Return a process's first child, 0 where it has none."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    return int(children[0]) if children else 0


def is_alive(pid: int) -> bool:
    """Tell whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def main_process(cluster: Cluster, component: str) -> Process | None:
    """Return the program itself of a component, not its children."""
    own = [process for process in find(cluster) if process.component == component]
    pids = {process.pid for process in own}
    return next((process for process in own if parent(process.pid) not in pids and _is_program(process)), None)


def _is_program(process: Process) -> bool:
    """Tell a program from the pause between two runs of it."""
    return not process.command.startswith("sleep ")


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def wait_gone(pids: Iterable[int], timeout_s: float) -> None:
    """Wait until all processes have ended; raises LabError naming the survivors."""
    deadline = time.monotonic() + timeout_s
    left = [pid for pid in pids if is_alive(pid)]
    while left:
        if time.monotonic() > deadline:
            raise LabError(f"processes {left} do not end; see what holds them with: cat /proc/{left[0]}/stack")
        time.sleep(0.02)
        left = [pid for pid in left if is_alive(pid)]
