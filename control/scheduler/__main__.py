"""Runs the scheduler: ``python -m control.scheduler``."""

from control.scheduler.command import command

if __name__ == "__main__":
    command(prog_name="raftsman scheduler")
