"""Run the cloud controller manager: ``python -m control.cloud``."""

from control.cloud.command import command

command(prog_name="raftsman cloud-controller-manager")
