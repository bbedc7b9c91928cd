"""How long requests may take: looked at once a second for all of them, so that none costs a timer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

LOOK_S = 1.0


class Bounds:
    """Ends what takes longer than it may."""

    def __init__(self, timeout_s: float, look_s: float = LOOK_S) -> None:
        self._timeout_s = timeout_s
        self._look_s = min(look_s, timeout_s)
        self._ends_at: dict[asyncio.Task[Any], float] = {}
        self._overdue: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def within(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it in the task that calls; raises TimeoutError where it takes too long."""
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        self._ends_at[task] = loop.time() + self._timeout_s
        if self._timer is None:
            self._timer = loop.call_later(self._look_s, self._look)
        try:
            await work
        except asyncio.CancelledError:
            # Whoever else cancelled it meant the task, not the time.
            if task in self._overdue and task.uncancel() <= 0:
                raise TimeoutError from None
            raise
        finally:
            del self._ends_at[task]
            self._overdue.discard(task)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for task, ends_at in self._ends_at.items():
            if ends_at <= now and task not in self._overdue:
                self._overdue.add(task)
                task.cancel()
        self._timer = loop.call_later(self._look_s, self._look) if self._ends_at else None
