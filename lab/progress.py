"""Shows the steps of a long command: a live list on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text


class Progress:
    """Steps in the order of their start, each with its time; use as a context manager."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._steps: list[tuple[str, float, float | None, bool]] = []
        self._live: Live | None = None
        self.started = time.monotonic()

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=10)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self.started

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Show a step while its block runs."""
        index, began = len(self._steps), time.monotonic()
        self._steps.append((text, began, None, False))
        try:
            yield
        except BaseException:
            self._finish(index, failed=True)
            raise
        self._finish(index, failed=False)

    def _finish(self, index: int, *, failed: bool) -> None:
        text, began, _, _ = self._steps[index]
        took = time.monotonic() - began
        self._steps[index] = (text, began, took, failed)
        if self._live is None:
            mark = "failed" if failed else "done"
            self._console.print(f"{mark:6} {took:6.2f} s  {text}", highlight=False, markup=False)

    def _render(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for text, began, took, failed in self._steps:
            seconds = time.monotonic() - began if took is None else took
            mark = Text("…", "yellow") if took is None else Text("✗", "red") if failed else Text("✓", "green")
            table.add_row(mark, Text(f"{seconds:6.2f} s", "dim"), Text(text))
        return table
