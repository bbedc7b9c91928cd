"""``raftsman kubectl``: an unmodified kubectl, set to a cluster of this machine."""

from __future__ import annotations

import os
import shutil

import click

from cli.machine.settings import PLACES
from lab import peers, state


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}
)
@click.option("--name", default="raftsman", envvar="RAFTSMAN_NAME", help="Which cluster of this machine.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def kubectl(name: str, arguments: tuple[str, ...]) -> None:
    """Run kubectl (from PATH, else Debian's) against a cluster, or against the one that this machine is part of."""
    cluster = state.load(name)
    config = (
        PLACES.administrator if cluster is None and PLACES.administrator.exists() else state.require(name).kubeconfig
    )
    program = shutil.which("kubectl")
    if program is None:
        click.echo("kubectl is not on PATH; fetching Debian's once", err=True)
        program = str(peers.fetch(state.state_root() / "cache" / "peers", "kubectl", "sid", "kubectl"))
    os.execve(program, ["kubectl", *arguments], {**os.environ, "KUBECONFIG": str(config)})
