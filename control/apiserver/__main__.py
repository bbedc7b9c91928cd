"""Runs the API server: ``python -m control.apiserver``."""

import gc

if __name__ == "__main__":
    # What is imported stays: looking for garbage among it is a tenth of the start. The server turns it on again.
    gc.disable()
    from control.apiserver.command import command

    command()
