"""``raftsman up`` and ``raftsman down``."""

from __future__ import annotations

import asyncio

import click
from rich.console import Console
from rich.table import Table

from cli.options import name_option
from lab import lifecycle, state
from lab import nodes as lab_nodes
from lab.progress import Progress
from lab.site import Timers
from lab.state import Cluster


@click.command()
@name_option
@click.option("--nodes", default=3, show_default=True, help="How many nodes.")
@click.option("--control-planes", default=1, show_default=True, help="How many of them run a control plane: 1 or 3.")
@click.option("--single-stack", is_flag=True, help="Give nodes and pods IPv4 addresses alone.")
@click.option("--demo/--no-demo", default=True, show_default=True, help="Deploy the guestbook.")
def up(name: str, nodes: int, control_planes: int, single_stack: bool, demo: bool) -> None:
    """Start a cluster on this machine, deploy the demo and show that it answers.

    \b
    Examples:
      raftsman up
      raftsman up --name second --nodes 5 --control-planes 3
    """
    console = Console()
    recorded = state.load(name)
    if recorded is not None and lifecycle.is_whole(recorded):
        console.print(f"Cluster {name} runs already, with {len(recorded.nodes)} nodes; nothing was changed.")
        _show_end(console, recorded, None)
        return
    with Progress(console) as progress:
        answer = asyncio.run(_bring_up(recorded, name, nodes, control_planes, single_stack, demo, progress))
        elapsed_s = progress.elapsed_s
    cluster = state.require(name)
    timers = Timers()
    console.print(f"\nCluster {name} is up after {elapsed_s:.1f} s.")
    console.print(
        f"Timers are the lab's: a silent node is NotReady after {timers.node_monitor_grace_period_s} s "
        f"(Kubernetes: 50 s), its pods leave after {timers.default_toleration_s} s more (Kubernetes: 300 s)."
    )
    _show_end(console, cluster, answer)


async def _bring_up(
    recorded: Cluster | None,
    name: str,
    nodes: int,
    control_planes: int,
    single_stack: bool,
    demo: bool,
    progress: Progress,
) -> str | None:
    if recorded is not None and recorded.phase == "running":
        down = [node.name for node in recorded.nodes if not lab_nodes.is_running(recorded, node)]
        cluster = lifecycle.start_nodes(name, down, progress)
    else:
        if recorded is not None:
            with progress.step("remove what an interrupted start left"):
                lifecycle.remove(name, Progress(Console(quiet=True)))
        cluster = lifecycle.create(name, nodes, control_planes, progress, single_stack=single_stack)
    cluster = await lifecycle.bring_up(cluster, progress)
    return await lifecycle.deploy_demo(cluster, progress) if demo else None


def _show_end(console: Console, cluster: Cluster, answer: str | None) -> None:
    table = Table("node", "address", "runs", box=None, pad_edge=False)
    for node in cluster.nodes:
        roles = [role for role, has in (("store", node.store), ("control plane", node.control_plane)) if has]
        table.add_row(node.name, cluster.address(node), ", ".join([*roles, "pods"]))
    console.print(table)
    if answer is not None:
        console.print(f"\nThe demo at http://127.0.0.1:{cluster.demo_port} says: {answer}", highlight=False)
    suffix = "" if cluster.name == "raftsman" else f" --name {cluster.name}"
    console.print(f"\n  export KUBECONFIG={cluster.kubeconfig}", soft_wrap=True, highlight=False)
    console.print("\nTry next:")
    for line in (
        f"curl http://127.0.0.1:{cluster.demo_port}/?say=hello",
        f"./raftsman kubectl{suffix} get pods -o wide",
        f"./raftsman node kill n{len(cluster.nodes)}{suffix}    # and watch its pods move",
    ):
        console.print(f"  {line}", soft_wrap=True, highlight=False)


@click.command()
@name_option
def down(name: str) -> None:
    """Remove a cluster with all its processes, links, rules, mounts, groups and files.

    \b
    Examples:
      raftsman down
      raftsman down --name second
    """
    console = Console()
    with Progress(console) as progress:
        found = lifecycle.remove(name, progress)
    if found:
        console.print(f"Cluster {name} is gone; it took {progress.elapsed_s:.1f} s.")
    else:
        console.print(f"There is no cluster {name}; nothing was changed.")
