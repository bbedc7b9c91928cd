"""``python -m store``: one member of the replicated store."""

from store.command import command

command(prog_name="python -m store")
