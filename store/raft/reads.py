"""Read barriers: one question to the leader, or one round to a quorum, serves all reads that wait.

A read may be answered once this member has applied everything that was committed when it came. The leader notes its
commit index and has a quorum confirm, after that, that it still leads; a follower asks the leader for such an index.
Reads that come while a round is under way wait for the next one: the round may have begun before what they must see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Read:
    """One waiting read."""

    deadline: float
    done: Callable[[int | None], None]
    """Called with the index, or with None where it could not be had in time."""
    remote: bool = False
    """Another member waits: it is told the index at once and applies itself."""


class Reads:
    """The reads that wait on one member."""

    def __init__(self) -> None:
        self._waiting: list[Read] = []
        self._under_way: list[Read] = []
        self._confirmed: list[tuple[int, Read]] = []
        self.round = 0
        """Number of the latest round."""
        self.asked_at = 0.0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._under_way) + len(self._confirmed)

    def add(self, read: Read) -> None:
        """Have a read wait for the next round."""
        self._waiting.append(read)

    @property
    def under_way(self) -> bool:
        """Whether a round has begun and is not confirmed."""
        return bool(self._under_way)

    def begin(self, round_number: int, now: float) -> bool:
        """Begin a round for all waiting reads, unless one is under way or none waits."""
        if self._under_way or not self._waiting:
            return False
        self._under_way, self._waiting = self._waiting, []
        self.round = round_number
        self.asked_at = now
        return True

    def confirm(self, round_number: int, index: int) -> None:
        """End the round: its reads need this index applied."""
        if round_number != self.round or not self._under_way:
            return
        for read in self._under_way:
            if read.remote:
                read.done(index)
            else:
                self._confirmed.append((index, read))
        self._under_way = []

    def abandon(self) -> None:
        """Have the reads of an unfinished round wait for another one; those of other members ask again themselves."""
        unfinished = [*self._under_way, *self._waiting]
        self._under_way = []
        self._waiting = [read for read in unfinished if not read.remote]

    def applied(self, index: int) -> None:
        """Answer the reads that waited for this index."""
        if not self._confirmed:
            return
        ready = [read for needed, read in self._confirmed if needed <= index]
        if ready:
            self._confirmed = [(needed, read) for needed, read in self._confirmed if needed > index]
            for read in ready:
                read.done(index)

    def expire(self, now: float) -> None:
        """Give up the reads whose time is over."""
        if self.next_deadline() > now:
            return
        late = [read for read in (*self._waiting, *self._under_way) if read.deadline <= now]
        late += [read for _, read in self._confirmed if read.deadline <= now]
        if late:
            self._waiting = [read for read in self._waiting if read.deadline > now]
            self._under_way = [read for read in self._under_way if read.deadline > now]
            self._confirmed = [(needed, read) for needed, read in self._confirmed if read.deadline > now]
            for read in late:
                read.done(None)

    def next_deadline(self) -> float:
        """Return when the first read gives up; each list is in the order of its deadlines."""
        first = [*self._waiting[:1], *self._under_way[:1], *(read for _, read in self._confirmed[:1])]
        return min((read.deadline for read in first), default=float("inf"))
