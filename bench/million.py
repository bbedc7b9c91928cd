"""A million keys in one member: memory, start, and whether the loop pauses while a snapshot is written."""

from __future__ import annotations

from rich.console import Console

NAME = "million"


def measure(console: Console) -> dict[str, object]:
    """Measure it all."""
    console.print("not yet")
    return {}
