"""Whether there is room for one member's log on its disk, asked for again and again while there is none.

A member whose disk is full can promise nothing: no entry, no vote, no term. It leads no longer, hears nothing and says
nothing, as if it were away, so that the others go on without it. What it had taken in stays in memory and is the first
thing to be written when there is room; only then do the promises leave that depend on it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from store.raft.consensus import RaftCore
from store.raft.journal import Journal

logger = logging.getLogger(__name__)

RETRY_S = 0.25


class Room:
    """The room for one member's log."""

    def __init__(self, journal: Journal, core: RaftCore, clock: Callable[[], float]) -> None:
        self._journal = journal
        self._core = core
        self._clock = clock
        self._is_missed = False
        self._asked_at = 0.0

    @property
    def is_full(self) -> bool:
        """Whether there was none when it was last needed."""
        return self._is_missed or self._journal.full

    @property
    def next_deadline(self) -> float:
        """When to ask again."""
        return self._asked_at + RETRY_S

    def ask(self) -> bool:
        """Return whether there is room, trying what waits where it is time to; without any, this member retires."""
        if not self.is_full:
            return True
        now = self._clock()
        if not self._is_missed:
            self._is_missed = True
            self._asked_at = now
            logger.error("no room for the log: this member takes no part until there is")
            self._core.retire()
            return False
        if now < self.next_deadline:
            return False
        self._asked_at = now
        self._core.sync()
        self._is_missed = self._journal.full
        if not self._is_missed:
            logger.info("room for the log again: this member takes part")
        return not self._is_missed
