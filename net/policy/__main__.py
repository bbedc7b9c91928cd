"""Run `python -m net.policy`."""

from net.policy.command import command

if __name__ == "__main__":
    command()
