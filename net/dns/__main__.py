"""Run `python -m net.dns`."""

from net.dns.command import command

if __name__ == "__main__":
    command()
