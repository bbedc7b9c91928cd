"""Runs the API server: ``python -m control.apiserver``."""

from control.apiserver.command import command

if __name__ == "__main__":
    command()
