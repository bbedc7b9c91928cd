"""``raftsman status`` and ``raftsman logs``."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from cli.options import name_option
from control.api.status import ApiError
from lab import cluster_api, nodes, processes, state
from lab.state import Cluster, LabError


@click.command()
@name_option
def status(name: str) -> None:
    """Show what runs of a cluster: nodes, components with their pid and memory, addresses.

    \b
    Examples:
      raftsman status
      raftsman status --name second
    """
    cluster = state.require(name)
    console = Console()
    ready = asyncio.run(_readiness(cluster))
    table = Table("node", "address", "state", "component", "pid", "PSS MB", box=None, pad_edge=False)
    for node in cluster.nodes:
        running = nodes.is_running(cluster, node)
        told = {True: "Ready", False: "NotReady"}.get(ready[node.name], "?") if node.name in ready else "not joined"
        first = (node.name, cluster.address(node), told if running else "down")
        components = ["containerd", "store", "controlplane", "node", "dns"]
        for component in components:
            process = processes.main_process(cluster, f"{node.name}/{component}") if running else None
            if process is not None:
                memory = f"{proportional_set_size_kib(process.pid) / 1024:.0f}"
                table.add_row(*first, component, str(process.pid), memory)
                first = ("", "", "")
        if first[0]:
            table.add_row(*first, "", "", "")
    console.print(table)
    console.print(f"\nAPI server: https://127.0.0.1:{cluster.api_port}", highlight=False)
    console.print(f"KUBECONFIG={cluster.kubeconfig}", soft_wrap=True, highlight=False)


async def _readiness(cluster: Cluster) -> dict[str, bool]:
    api = cluster_api.client(cluster)
    try:
        async with asyncio.timeout(5):
            return await cluster_api.ready_nodes(api)
    except (ApiError, TimeoutError) as error:
        click.echo(f"the API server does not answer: {error}", err=True)
        return {}
    finally:
        await api.close()


def proportional_set_size_kib(pid: int) -> int:
    """Return a process's memory, shared pages counted in parts."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)


def log_paths(cluster: Cluster, component: str) -> list[Path]:
    """Return the files of COMPONENT or NODE/COMPONENT; raises LabError naming what there is."""
    if component == "forwarder":
        return [cluster.directory / "forwarder.log"]
    node_name, _, wanted = component.rpartition("/")
    chosen = [cluster.node(node_name)] if node_name else list(cluster.nodes)
    paths = [cluster.node_directory(node) / "log" / f"{wanted}.log" for node in chosen]
    found = [path for path in paths if path.exists()]
    if not found:
        every = {path.stem for node in cluster.nodes for path in (cluster.node_directory(node) / "log").glob("*.log")}
        raise LabError(
            f"nothing called {component!r} wrote a log; there are {', '.join(sorted(every | {'forwarder'}))}"
        )
    return found


@click.command()
@click.argument("component")
@click.option("-f", "--follow", is_flag=True, help="Go on as it writes.")
@name_option
def logs(component: str, follow: bool, name: str) -> None:
    """Print what a component wrote; COMPONENT is store, controlplane, node, containerd, init or NODE/COMPONENT.

    \b
    Examples:
      raftsman logs controlplane
      raftsman logs n2/store -f
    """
    paths = log_paths(state.require(name), component)
    sys.stdout.flush()
    lines = ["-n", "+1"] if not follow else ["-n", "50", "-F"]
    os.execvp("tail", ["tail", *lines, *map(str, paths)])
