"""The log in memory over the write-ahead log, in the shape in which PySyncObj asks for it.

Place 0 always holds the *base*: a stand-in for everything that a snapshot covers (index 1, term 0 in an empty log).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import overload

from store.raft.disk import DiskFullError
from store.raft.membership import MEMBERS, Membership, Memberships, decode, encode
from store.raft.wal import Entry, Recovered, Wal, suffix_after

NO_OPERATION = b"\x01"
"""PySyncObj's command that does nothing."""
EMPTY_BASE: Entry = (NO_OPERATION, 1, 0)


class Journal:
    """One member's log."""

    def __init__(self, wal: Wal, recovered: Recovered) -> None:
        self._wal = wal
        self._term = recovered.term
        self._vote = recovered.vote
        self._commit = recovered.commit
        self._commit_noted = recovered.commit
        base = EMPTY_BASE
        if recovered.base_index > EMPTY_BASE[1]:
            base = (NO_OPERATION, recovered.base_index, recovered.base_term)
        self._entries: list[Entry] = [base, *recovered.entries]
        self.bytes_added = sum(len(entry[0]) for entry in recovered.entries)
        """Bytes of commands that the log has taken in; only differences have a meaning."""
        self.durable_index = self.last_index
        self.full = False
        """Whether the last ``sync`` found no room: nothing that has waited since then may be promised."""
        self.memberships = Memberships(decode(recovered.members))
        for command, index, _ in recovered.entries:
            if command[:1] == MEMBERS:
                self.memberships.add(index, command)
        self.on_membership: Callable[[], None] = lambda: None
        """Called whenever another membership has taken effect."""

    # What PySyncObj calls.

    def add(self, command: bytes, index: int, term: int) -> None:
        """Append an entry."""
        entry = (command, index, term)
        self._entries.append(entry)
        self.bytes_added += len(command)
        self._wal.append_entry(entry)
        if command[:1] == MEMBERS and self.memberships.add(index, command):
            self.on_membership()

    def clear(self) -> None:
        """Refuse: entries leave the log by a snapshot alone."""
        raise AssertionError("the log is never cleared as a whole")

    def deleteEntriesFrom(self, place: int) -> None:  # noqa: N802
        """Void the entries from a place on."""
        index = self._entries[0][1] + place
        if index <= self._commit:
            raise AssertionError(f"entry {index} is committed (up to {self._commit}) and cannot be voided")
        del self._entries[place:]
        self.durable_index = min(self.durable_index, index - 1)
        self._wal.truncate(index)
        if self.memberships.cut(index):
            self.on_membership()

    def deleteEntriesTo(self, place: int) -> None:  # noqa: N802
        """Refuse: the log is cut by ``move_base``."""
        raise AssertionError(f"the log is cut by snapshots, not to place {place}")

    @overload
    def __getitem__(self, place: int) -> Entry: ...
    @overload
    def __getitem__(self, place: slice) -> list[Entry]: ...
    def __getitem__(self, place: int | slice) -> Entry | list[Entry]:
        return self._entries[place]

    def __len__(self) -> int:
        return len(self._entries)

    def setRaftCommitIndex(self, index: int) -> None:  # noqa: N802
        """Take note of the commit index; it reaches the disk with the next entry."""
        self._commit = index

    def getRaftCommitIndex(self) -> int:  # noqa: N802
        """Return the commit index to start with."""
        return max(self.base_index, min(self._commit, self.last_index))

    def setCurrentTerm(self, term: int, vote: int | None) -> None:  # noqa: N802
        """Take term and vote; no message leaves before they are on disk."""
        if (term, vote or 0) != (self._term, self._vote):
            self._term, self._vote = term, vote or 0
            self._wal.set_hard_state(self._term, self._vote)

    def getCurrentTerm(self) -> int:  # noqa: N802
        """Return the term."""
        return self._term

    def getVotedForNodeId(self) -> int | None:  # noqa: N802
        """Return whom this member voted for in its term."""
        return self._vote or None

    def onOneSecondTimer(self) -> None:  # noqa: N802
        """Do nothing: an idle log does not touch the disk."""

    def _destroy(self) -> None:
        self._wal.close()

    # What the replica calls.

    @property
    def base_index(self) -> int:
        """Index of the last entry that is not held."""
        return self._entries[0][1]

    @property
    def last_index(self) -> int:
        """Index of the last entry."""
        return self._entries[-1][1]

    @property
    def dirty(self) -> bool:
        """Whether a promise depends on a ``sync``."""
        return self._wal.dirty

    def term_at(self, index: int) -> int | None:
        """Return the term of an entry, None where it is not held."""
        place = index - self._entries[0][1]
        return self._entries[place][2] if 0 <= place < len(self._entries) else None

    def sync(self) -> bool:
        """Have everything on disk; return whether anything was done, which a full disk prevents."""
        if not self._wal.dirty:
            return False
        if self._commit > self._commit_noted:
            self._commit_noted = min(self._commit, self.last_index)
            self._wal.set_commit(self._commit_noted)
        try:
            self._wal.sync()
        except DiskFullError:
            self.full = True
            return False
        self.full = False
        self.durable_index = self.last_index
        return True

    def last_common_candidate(self, index: int, term: int) -> int:
        """Return the last index, not above the one given, whose entry has at most a term: others cannot be common.

        Of what is before the base nothing is known; there the index itself is returned, or that before the base.
        """
        place = min(index - self.base_index, len(self._entries) - 1)
        while place >= 0 and self._entries[place][2] > term:
            place -= 1
        return self.base_index + place

    def move_base(self, index: int, term: int, membership: Membership | None = None) -> None:
        """Let a snapshot stand for everything up to an index; a matching suffix stays.

        The snapshot must be on disk already: the log before it is given up here. It says who the members were, unless
        the log itself holds that index.
        """
        base: Entry = (NO_OPERATION, index, term)
        suffix = suffix_after(self._entries, index, term)
        if not suffix and len(self._entries) > 1:
            # Said for itself: when this is read again, the entry that did not match may be gone with its segment.
            self._wal.truncate(self.base_index + 1)
        self._entries = [base, *suffix]
        self._commit = max(self._commit, index)
        self.durable_index = max(min(self.durable_index, self.last_index), index)
        before = self.memberships.current
        self.memberships.rebase(index, membership or self.memberships.at(index))
        if not suffix:
            self.memberships.cut(index + 1)
        self._wal.set_base(index, term, encode(self.memberships.base))
        if self.memberships.current != before:
            self.on_membership()

    def drop_segments(self, index: int) -> int:
        """Remove the segments that hold only entries up to an index."""
        return self._wal.drop_through(index)
