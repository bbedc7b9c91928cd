"""``raftsman node``: the nodes of a cluster, and the agent that runs on each."""

from __future__ import annotations

import asyncio

import click
from rich.console import Console

from cli.options import name_option
from lab import cluster_api, lifecycle, nodes
from lab.lifecycle import NODES_TIMEOUT_S
from lab.progress import Progress
from lab.state import Cluster


class NodeGroup(click.Group):
    """Imports the agent, with all its parts, only where it is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help."""
        return ["add", "stop", "start", "kill", "run"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a subcommand."""
        if cmd_name == "run":
            from cli.agent import run

            return run
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help without importing the agent."""
        with formatter.section("Commands"):
            rows = [(name, command.get_short_help_str(80)) for name, command in self.commands.items()]
            formatter.write_dl([*rows, ("run", "Run a node's agent: kubelet, proxy and pod network in one process.")])


@click.group(cls=NodeGroup)
def node() -> None:
    """Add, stop, start or kill a node of a cluster; or run a node's agent.

    \b
    Examples:
      raftsman node add n4
      raftsman node kill n3            pull the plug
      raftsman node start n3
    """


async def _wait_ready(cluster: Cluster, node_name: str, progress: Progress) -> None:
    api = cluster_api.client(cluster)
    try:
        with progress.step(f"wait until {node_name} is Ready"):
            await cluster_api.allow_joining(api, cluster.bootstrap_token, NODES_TIMEOUT_S)
            await cluster_api.wait_nodes(api, {node_name}, NODES_TIMEOUT_S)
    finally:
        await api.close()


@node.command()
@click.argument("node_name", metavar="NAME")
@name_option
def add(node_name: str, name: str) -> None:
    """Add a worker and wait until it is Ready."""
    with Progress() as progress:
        cluster = lifecycle.add_node(name, node_name, progress)
        asyncio.run(_wait_ready(cluster, node_name, progress))


@node.command()
@click.argument("node_name", metavar="NAME")
@name_option
def start(node_name: str, name: str) -> None:
    """Start a node that is down and wait until it is Ready."""
    with Progress() as progress:
        cluster = lifecycle.start_nodes(name, [node_name], progress)
        asyncio.run(_wait_ready(cluster, node_name, progress))


@node.command()
@click.argument("node_name", metavar="NAME")
@name_option
def stop(node_name: str, name: str) -> None:
    """Shut a node down in order."""
    with Progress() as progress, progress.step(f"stop {node_name}"):
        lifecycle.on_node(name, node_name, nodes.stop)


@node.command()
@click.argument("node_name", metavar="NAME")
@name_option
def kill(node_name: str, name: str) -> None:
    """Pull a node's plug: every process of it ends at once."""
    lifecycle.on_node(name, node_name, nodes.kill)
    Console().print(f"{node_name} is dead; bring it back with: raftsman node start {node_name}", highlight=False)
