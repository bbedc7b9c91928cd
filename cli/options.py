"""Options that several subcommands share."""

from __future__ import annotations

import click

name_option = click.option(
    "--name", default="raftsman", show_default=True, envvar="RAFTSMAN_NAME", help="Which cluster of this machine."
)
