"""Run `python -m net.proxy`."""

from net.proxy.command import command

if __name__ == "__main__":
    command()
