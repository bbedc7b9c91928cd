"""The raftsman command: mounts every subcommand, and imports only the one that is run."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass

import click

from lab.probe import MissingCapabilityError
from lab.state import LabError


@dataclass(frozen=True)
class Subcommand:
    """Where a subcommand lives, and its line in the help, so that help imports none."""

    module: str
    attribute: str
    summary: str


CLUSTER = {
    "up": Subcommand("cli.cluster", "up", "Start a cluster on this machine and deploy the demo."),
    "down": Subcommand("cli.cluster", "down", "Remove a cluster; nothing is left behind."),
    "status": Subcommand("cli.status", "status", "Show nodes, components and addresses of a cluster."),
    "logs": Subcommand("cli.status", "logs", "Print what a component wrote."),
    "node": Subcommand("cli.node", "node", "Add, stop, start or kill a node; or run its agent."),
    "link": Subcommand("cli.link", "link", "Make links between nodes slow, lossy or cut, and well again."),
    "kubectl": Subcommand("cli.kubectl", "kubectl", "Run kubectl against a cluster."),
    "net": Subcommand("cli.net", "net", "Explain the way of a packet; compare kernels with what is wanted."),
}
MACHINE = {
    "init": Subcommand("cli.machine.init", "init", "Make this machine the first of a new cluster."),
    "join": Subcommand("cli.machine.join", "join", "Make this machine part of a cluster that exists."),
    "token": Subcommand("cli.machine.token", "token", "Create, list or delete the tokens by which machines join."),
    "reset": Subcommand("cli.machine.reset", "reset", "Take this machine out of its cluster; nothing is left behind."),
}
COMPONENTS = {
    "store": Subcommand("store.command", "command", "Run a member of the replicated store (etcd's role)."),
    "apiserver": Subcommand("control.apiserver.command", "command", "Run an API server."),
    "scheduler": Subcommand("control.scheduler.command", "command", "Run the scheduler."),
    "controller-manager": Subcommand("control.controllers.command", "command", "Run the controllers."),
    "cloud-controller-manager": Subcommand("control.cloud.command", "command", "Run the cloud controllers."),
    "controlplane": Subcommand(
        "cli.controlplane", "controlplane", "Run API server, scheduler and controllers at once."
    ),
    "kubelet": Subcommand("node.command", "command", "Run the kubelet."),
    "proxy": Subcommand("net.proxy.command", "command", "Run the service proxy."),
    "cni": Subcommand("net.cni.command", "command", "Run the pod network daemon."),
    "announce": Subcommand("net.announce.command", "command", "Answer for load balancers' addresses on a node."),
    "dns": Subcommand("net.dns.command", "command", "Answer the cluster's names on a node."),
    "policy": Subcommand("net.policy.command", "command", "Enforce NetworkPolicy for a node's pods."),
    "routes": Subcommand("net.routes.command", "command", "Keep a node's routes to the other nodes' pods."),
}


class Lazy(click.Group):
    """A group whose subcommands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help."""
        return [*CLUSTER, *MACHINE, *COMPONENTS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand."""
        found = CLUSTER.get(cmd_name) or MACHINE.get(cmd_name) or COMPONENTS.get(cmd_name)
        if found is None:
            return None
        command = getattr(importlib.import_module(found.module), found.attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the two sections of the help."""
        sections = {
            "A cluster on this machine": CLUSTER,
            "A cluster of machines": MACHINE,
            "Components alone": COMPONENTS,
        }
        for title, commands in sections.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.summary) for name, entry in commands.items()])


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="raftsman")
def raftsman() -> None:
    """Raftsman: the Kubernetes architecture in readable Python.

    \b
    Examples:
      raftsman up                        a cluster of three nodes, with a demo
      raftsman status                    what runs
      raftsman down                      all of it removed
      raftsman init                      this machine as the first of a real cluster
      raftsman store --help              one component alone
    """


def main() -> None:
    """Run the command; errors that a person can do something about are one line."""
    # gRPC reads these once: we never fork without exec, and its notes on each refused handshake are no news.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        raftsman(prog_name="raftsman")
    except (LabError, MissingCapabilityError) as error:
        click.echo(f"raftsman: {error}", err=True)
        sys.exit(1)
    except PermissionError as error:
        if os.geteuid() == 0:
            raise
        click.echo(f"raftsman: {error.filename} belongs to another user; run this again with sudo", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
