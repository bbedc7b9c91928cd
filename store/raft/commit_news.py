"""When followers are told what has been committed: with the next entries where those come at once, else by themselves.

A frame for itself costs each follower a turn and the leader two, which under load are better spent on the next entries.
"""

from __future__ import annotations

from collections.abc import Callable

from store.raft.part import Part

DELAY_SECONDS_MAX = 0.001
NEVER = float("inf")


class CommitNews(Part):
    """The leader's share; part of ``RaftCore``."""

    _SyncObj__sendAppendEntries: Callable[[], None]

    def __init__(self) -> None:
        self.commit_told = 0
        """What the followers have been told."""
        self.commit_due = NEVER
        """When they are to be told by a frame for that."""

    def tell_commit_soon(self) -> None:
        """Take note that a client of another member waits for what has just been committed."""
        self.commit_due = 0.0

    def tell_commit_when_due(self, now: float) -> None:
        """Send the followers a frame where it is time."""
        if not self.is_leader or self.commit_index <= self.commit_told:
            self.commit_due = NEVER
            return
        self.commit_due = min(self.commit_due, now + DELAY_SECONDS_MAX)
        if now >= self.commit_due:
            self._SyncObj__sendAppendEntries()

    def commit_news_sent(self) -> None:
        """Take note that a frame with the commit index leaves now."""
        self.commit_told = self.commit_index
        self.commit_due = NEVER
