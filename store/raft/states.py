"""Keeps the state machine on disk: writes snapshots in slices while writes go on, loads them, and cuts the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Protocol

from store.raft.contract import StateMachine
from store.raft.disk import DiskFullError
from store.raft.journal import Journal
from store.raft.membership import Membership, decode, encode
from store.raft.sessions import Sessions
from store.raft.snapshots import MEMBERS_SINCE, Snapshot, Snapshots, SnapshotWriter

logger = logging.getLogger(__name__)

SLICE_BYTES = 256 << 10


class SnapshotLimits(Protocol):
    """When a snapshot is due."""

    @property
    def snapshot_entries(self) -> int:
        """Log entries between two snapshots."""
        ...

    @property
    def snapshot_bytes(self) -> int:
        """Bytes of log between two snapshots."""
        ...


class StateKeeper:
    """The snapshots of one member's state machine and of its log's sessions."""

    def __init__(
        self,
        machine: StateMachine,
        sessions: Sessions,
        snapshots: Snapshots,
        journal: Journal,
        limits: SnapshotLimits,
    ) -> None:
        self._machine = machine
        self._sessions = sessions
        self._snapshots = snapshots
        self._journal = journal
        self._limits = limits
        self._writer: SnapshotWriter | None = None
        self._chunks: Iterator[bytes] = iter(())
        self._last_index = 0
        self._last_bytes = 0
        self.membership: Membership | None = None
        """What the snapshot said that was loaded last; None where its format knew nothing of members."""

    @property
    def writing(self) -> bool:
        """Whether a snapshot is being written."""
        return self._writer is not None

    def load_newest(self) -> Snapshot | None:
        """Restore the state of the newest snapshot, if there is one, and return its name."""
        snapshot = self._snapshots.newest()
        if snapshot is None:
            return None
        self.abandon()
        chunks = self._snapshots.chunks(snapshot)
        has_members = self._snapshots.version_of(snapshot) >= MEMBERS_SINCE
        self.membership = decode(next(chunks, b"")) if has_members else None
        self._sessions.load(next(chunks, b""))
        self._machine.restore(chunks)
        self._last_index = snapshot.index
        return snapshot

    def advance(self, applied_index: int) -> None:
        """Write the next slice, or begin a snapshot where one is due."""
        try:
            if self._writer is not None:
                self._write_slice(self._writer)
            elif applied_index > max(self._last_index, 1) and self._due(applied_index):
                self.begin(applied_index)
        except DiskFullError as error:
            # The log has all of it. The next attempt is made when a tenth of the usual distance is gone.
            logger.warning("no room for a snapshot: index=%d reason=%s", applied_index, error)
            self.abandon()
            self._last_index = applied_index - self._limits.snapshot_entries * 9 // 10

    def begin(self, applied_index: int) -> None:
        """Begin to write the state as it is now."""
        term = self._journal.term_at(applied_index)
        assert term is not None, "the log holds what has just been applied"
        self._writer = self._snapshots.begin(Snapshot(applied_index, term))
        self._writer.write(encode(self._journal.memberships.at(applied_index)))
        self._writer.write(self._sessions.dump())
        self._chunks = iter(self._machine.snapshot())
        # A generator captures its state at the first step, so that step is taken now.
        self._writer.write(next(self._chunks, b""))
        self._last_index = applied_index
        self._last_bytes = self._journal.bytes_added

    def abandon(self) -> None:
        """Give up a snapshot that is being written."""
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None
            self._chunks = iter(())

    def _due(self, applied_index: int) -> bool:
        return (
            applied_index - self._last_index >= self._limits.snapshot_entries
            or self._journal.bytes_added - self._last_bytes >= self._limits.snapshot_bytes
        )

    def _write_slice(self, writer: SnapshotWriter) -> None:
        written = 0
        for chunk in self._chunks:
            writer.write(chunk)
            written += len(chunk)
            if written >= SLICE_BYTES:
                writer.sync()
                return
        writer.finish()
        self._writer = None
        logger.info("wrote a snapshot: index=%d", writer.snapshot.index)
        self._cut(self._snapshots.prune())

    def _cut(self, oldest: Snapshot | None) -> None:
        """Cut the log at the oldest snapshot kept, so that the newest is not the only way back."""
        if oldest is not None and oldest.index > self._journal.base_index:
            self._journal.move_base(oldest.index, oldest.term)
            self._journal.sync()
            self._journal.drop_segments(oldest.index)
