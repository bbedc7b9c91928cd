"""Runs the kubelet: ``python -m node``."""

from node.command import command

command(prog_name="python -m node")
