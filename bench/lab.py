"""How long the lab takes from nothing to Ready and to the demo's answer, and what it costs while it idles.

python -m bench.lab [--rounds N] [--idle-s N] [--json]
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bench import machine
from cli.status import proportional_set_size_kib
from lab import cluster_api, lifecycle, processes, state
from lab.progress import Progress
from lab.state import Cluster

NAME = "bench"
OURS = ("store", "controlplane", "node", "dns", "forwarder")
GOALS = {"ready_s": 5.0, "answer_s": 15.0, "down_s": 5.0, "pss_mib": 400.0, "idle_cpu_percent": 5.0}
LABELS = {
    "ready_s": "start to three Ready nodes, s",
    "answer_s": "start to the demo's first answer, s",
    "down_s": "down to nothing left, s",
    "pss_mib": "summed PSS of our processes, MiB",
    "idle_cpu_percent": "idle CPU, % of one core",
}


def our_processes(cluster: Cluster) -> dict[str, list[int]]:
    """Return the pids of Raftsman's own processes by component; containerd and its children apart."""
    found: dict[str, list[int]] = {}
    for process in processes.find(cluster):
        component = process.component.rpartition("/")[2]
        if component in OURS and not process.command.startswith("sleep "):
            found.setdefault(component, []).append(process.pid)
    return found


def cpu_seconds(pids: list[int]) -> float:
    """Return user and system time of processes, their ended children apart."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


async def one_round(idle_s: float) -> dict[str, Any]:
    """Start a cluster, wait for each mark, let it idle, and remove it."""
    progress = Progress(Console(quiet=True))
    began = time.monotonic()
    try:
        cluster = lifecycle.create(NAME, 3, 1, progress)
        cluster = await lifecycle.bring_up(cluster, progress)
        ready_s = time.monotonic() - began
        api = cluster_api.client(cluster)
        try:
            await cluster_api.deploy(api, lifecycle.DEMO_MANIFEST, lifecycle.READY_TIMEOUT_S)
            await cluster_api.first_answer(cluster.demo_port, lifecycle.DEMO_TIMEOUT_S)
            answer_s = time.monotonic() - began
            await cluster_api.wait_available(api, lifecycle.DEMO_DEPLOYMENTS, lifecycle.DEMO_TIMEOUT_S)
        finally:
            await api.close()
        await asyncio.sleep(5)  # what the start set in motion ends
        parts = our_processes(cluster)
        memory = {part: sum(map(proportional_set_size_kib, pids)) / 1024 for part, pids in parts.items()}
        before = {part: cpu_seconds(pids) for part, pids in parts.items()}
        await asyncio.sleep(idle_s)
        cpu = {part: (cpu_seconds(pids) - before[part]) / idle_s * 100 for part, pids in parts.items()}
    finally:
        began = time.monotonic()
        lifecycle.remove(NAME, progress)
        down_s = time.monotonic() - began
    return {
        "ready_s": ready_s, "answer_s": answer_s, "down_s": down_s,
        "pss_mib": sum(memory.values()), "idle_cpu_percent": sum(cpu.values()),
        "pss_mib_by_component": memory, "idle_cpu_percent_by_component": cpu,
    }  # fmt: skip


@click.command()
@click.option("--rounds", default=3, show_default=True, help="How often; medians are told.")
@click.option("--idle-s", default=20.0, show_default=True, help="How long the idle cluster is watched.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(rounds: int, idle_s: float, as_json: bool) -> None:
    """Measure the lab."""
    if state.load(NAME) is not None:
        lifecycle.remove(NAME, Progress(Console(quiet=True)))
    measured = [asyncio.run(one_round(idle_s)) for _ in range(rounds)]
    medians = {key: round(statistics.median(entry[key] for entry in measured), 2) for key in GOALS}
    figures = {"rounds": measured, "medians": medians, "goals": GOALS}
    path = machine.keep("lab", figures)
    if as_json:
        click.echo(json.dumps(figures, indent=2))
        return
    table = Table("figure", f"median of {rounds}", "goal", "reached")
    for key, goal in GOALS.items():
        table.add_row(LABELS[key], f"{medians[key]:.1f}", f"≤ {goal:g}", "yes" if medians[key] <= goal else "no")
    console = Console()
    console.print(table)
    console.print(f"{path} holds every round and the machine's description.")


if __name__ == "__main__":
    main()
