"""Run `python -m net.cni`."""

from net.cni.command import command

if __name__ == "__main__":
    command()
