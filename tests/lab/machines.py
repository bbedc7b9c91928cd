"""Nodes of the lab that are cables and namespaces alone. Needs root."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from lab import fabric, faults, links, processes, state
from lab.faults import Fault
from tests.net.echo import echo
from tests.net.topology import Namespace


class Machines:
    """Three nodes that are cables and namespaces alone, held by a sleeping process each."""

    def __init__(self, folder: Path) -> None:
        self.cluster = state.plan("links", 0, folder / "clusters" / "links", 3, 1)
        state.save(self.cluster)
        fabric.make(self.cluster)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.namespaces: dict[str, Namespace] = {}
        for node in self.cluster.nodes:
            self.boot(node.name)

    def boot(self, name: str) -> None:
        node = self.cluster.node(name)
        namespace = Namespace(name)
        self.namespaces[name] = namespace
        environment = processes.environment(self.cluster, f"{name}/init")
        command = ["nsenter", f"--net={namespace.path}", "sleep", "600"]
        self.processes[name] = subprocess.Popen(command, env=environment)
        self.cluster = self.cluster.with_changes(
            init_pids=self.cluster.init_pids | {name: self.processes[name].pid}
        )  # fmt: skip
        state.save(self.cluster)
        deadline = time.monotonic() + 20
        there = os.stat(namespace.path).st_ino
        while os.stat(f"/proc/{self.processes[name].pid}/ns/net").st_ino != there:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        fabric.cable(self.cluster, node, self.processes[name].pid)
        namespace.ip(f"address add {self.cluster.address(node)}/24 dev eth0")
        namespace.ip("link set eth0 up")

    def stop(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()
        self.namespaces.pop(name).close()

    def set(self, source: str, target: str, fault: Fault, one_way: bool = False) -> None:
        links.set_faults(self.cluster, faults.with_fault(faults.load(self.cluster), source, target, fault, one_way))

    def reset(self) -> None:
        links.set_faults(self.cluster, {})

    def ping(self, source: str, target: str, length: int = 84, timeout_s: float = 1.0) -> float:
        """Return how long an answer took, 0 where none came."""
        address = self.cluster.address(self.cluster.node(target))
        answer = echo(self.namespaces[source], address, length, timeout_s=timeout_s)
        return answer.seconds if answer.answered else 0.0

    def close(self) -> None:
        links.set_faults(self.cluster, {})
        for name in list(self.processes):
            self.stop(name)
        fabric.remove(self.cluster)
