"""Run `python -m net.announce`."""

from net.announce.command import command

if __name__ == "__main__":
    command()
