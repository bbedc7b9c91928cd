"""Run the controller manager: ``python -m control.controllers``."""

from control.controllers.command import command

command(prog_name="raftsman controller-manager")
