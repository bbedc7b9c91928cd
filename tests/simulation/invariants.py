"""What Raft promises, checked after every event: one leader a term, logs that match, nothing committed is lost."""

from __future__ import annotations

from dataclasses import dataclass

from store.raft.replica import Replica
from store.raft.wal import Entry


@dataclass
class _Seen:
    """How far one run of one member has been looked at."""

    term: int = 0
    commit: int = 0
    applied: int = 0
    last: tuple[int, int] = (0, 0)
    """Index and term of the last entry that was looked at."""
    led: int = 0
    """The newest term in which it led."""


class Invariants:
    """Holds all members to Raft's promises; it knows more than any of them."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.leaders: dict[int, int] = {}
        self.committed: dict[int, tuple[int, bytes, int]] = {}
        """By index: the entry's term and command, and the term in which it was first known to be committed."""
        self._entries: dict[tuple[int, int], tuple[bytes, int | None]] = {}
        """By index and term: command, and the term of the entry before."""
        self._seen: dict[int, _Seen] = {}

    def started(self, member_id: int) -> None:
        """Take note that a member begins anew with what its disk holds."""
        self._seen[member_id] = _Seen()

    def check(self, member_id: int, replica: Replica) -> None:
        """Look at everything that is new on a member."""
        core, seen = replica.core, self._seen[member_id]
        term, commit, applied = core.term, core.commit_index, core.applied_index
        assert term >= seen.term, f"member {member_id} goes back to term {term}; seed={self.seed}"
        assert commit >= seen.commit, f"member {member_id} takes its commit back to {commit}; seed={self.seed}"
        assert applied >= seen.applied, f"member {member_id} takes back what it applied; seed={self.seed}"
        assert applied <= commit, f"member {member_id} applied what is not committed; seed={self.seed}"
        seen.term, seen.applied = term, applied
        journal = core._journal
        last = journal[-1]
        if (last[1], last[2]) != seen.last:
            self._check_log(journal[0:], seen)
            seen.last = last[1], last[2]
        if commit > seen.commit:
            self._check_commit(member_id, journal[0:], max(seen.commit, 1), commit, term)
            seen.commit = commit
        if core.is_leader and seen.led != term:
            seen.led = term
            other = self.leaders.setdefault(term, member_id)
            assert other == member_id, f"two leaders in term {term}: {other} and {member_id}; seed={self.seed}"
            self._check_leader(member_id, journal[0:], term)

    def _check_log(self, entries: list[Entry], seen: _Seen) -> None:
        """Equal index and term mean equal logs up to there."""
        first = entries[0][1]
        at = seen.last[0] - first
        known = 0 <= at < len(entries) and entries[at][2] == seen.last[1]
        start = max(at + 1, 1) if known else 1
        for place in range(start, len(entries)):
            command, index, term = entries[place]
            # The first entry after a base may follow another base of the same term; its place is known all the same.
            before = entries[place - 1][2]
            other = self._entries.setdefault((index, term), (command, before))
            assert other == (command, before), f"logs differ at {index} in term {term}; seed={self.seed}"
            assert before <= term, f"terms fall within a log at {index}; seed={self.seed}"

    def _check_commit(self, member_id: int, entries: list[Entry], after: int, commit: int, now_term: int) -> None:
        """What one member takes for committed is what all others do."""
        base = entries[0][1]
        for index in range(max(after, base) + 1, commit + 1):
            command, _, term = entries[index - base]
            other = self.committed.setdefault(index, (term, command, now_term))
            assert other[:2] == (term, command), (
                f"entry {index} was committed in term {other[0]}, member {member_id} has one of {term}; "
                f"seed={self.seed}"
            )

    def _check_leader(self, member_id: int, entries: list[Entry], leader_term: int) -> None:
        """A leader holds everything that was committed before."""
        base, last = entries[0][1], entries[-1][1]
        for index, (term, _, known_in) in self.committed.items():
            if index <= base or known_in > leader_term:
                continue
            assert index <= last, f"leader {member_id} of term {leader_term} lacks entry {index}; seed={self.seed}"
            assert entries[index - base][2] == term, (
                f"leader {member_id} of term {leader_term} has another entry {index}; seed={self.seed}"
            )
