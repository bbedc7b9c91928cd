"""Run `python -m net.routes`."""

from net.routes.command import command

if __name__ == "__main__":
    command()
