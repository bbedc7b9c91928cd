"""Many who want to change the same key: whoever comes first does it for all who wait by then.

A key that is changed by compare-and-swap takes one change at a time; a hundred requests that each try on their own
fail ninety-nine times first. Here they queue, and one round trip carries them all. Other processes still compete, but
each with one change at a time. There is no task behind it: if the one who works is cancelled, the next takes over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Work = TypeVar("Work")
BATCH_MAX = 500


class Turn(Generic[Work]):
    """One who waits, and what became of it."""

    __slots__ = ("done", "error", "work")

    def __init__(self, work: Work) -> None:
        self.work = work
        self.done = False
        self.error: Exception | None = None

    def finish(self, error: Exception | None = None) -> None:
        """Say that this one is through."""
        self.done, self.error = True, error


class GroupCommit(Generic[Work]):
    """A queue whose head works for all who are in it.

    `carry_out` finishes every turn that it is given; those that it leaves out, because it was cancelled, wait on.
    """

    def __init__(
        self, carry_out: Callable[[Sequence[Turn[Work]]], Awaitable[None]], batch_max: int = BATCH_MAX
    ) -> None:
        self._carry_out = carry_out
        self._batch_max = batch_max
        self._lock = asyncio.Lock()
        self._waiting: list[Turn[Work]] = []

    async def do(self, work: Work) -> None:
        """Have work done, alone or with others; raises what was the matter with it."""
        turn = Turn(work)
        self._waiting.append(turn)
        try:
            async with self._lock:
                # The lock is fair, so all who came earlier are through, and we are at the head.
                if not turn.done:
                    await self._lead()
        finally:
            if not turn.done and turn in self._waiting:
                self._waiting.remove(turn)
        if turn.error is not None:
            raise turn.error

    async def _lead(self) -> None:
        batch = self._waiting[: self._batch_max]
        del self._waiting[: len(batch)]
        try:
            await self._carry_out(batch)
        except Exception as error:  # noqa: BLE001  (it is raised again where each of them waits)
            for turn in batch:
                if not turn.done:
                    turn.finish(error)
        finally:
            self._waiting[:0] = [turn for turn in batch if not turn.done]
