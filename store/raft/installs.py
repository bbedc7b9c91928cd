"""Snapshots from the leader to a follower that lacks the log's beginning: one file, piece by piece.

The leader sends the next piece when the last one is on the follower's disk; a piece that stays unanswered is sent
again. Raft's own heartbeats go on meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from proto.raft import message_pb2 as pb
from store.raft.consensus import RaftCore
from store.raft.disk import DiskFullError
from store.raft.snapshots import Snapshot, SnapshotError, SnapshotReceiver, Snapshots

logger = logging.getLogger(__name__)

PIECE_BYTES = 512 << 10


@dataclass
class _Transfer:
    snapshot: Snapshot
    size: int
    offset: int
    sent_at: float


class Sender:
    """The leader's side: transfers under way, one to a follower."""

    def __init__(self, snapshots: Snapshots, retry_s: float, send: Callable[[int, pb.Frame], object]) -> None:
        self._snapshots = snapshots
        self._retry_s = retry_s
        self._send = send
        self._transfers: dict[int, _Transfer] = {}

    def clear(self) -> None:
        """Forget all transfers: the leadership is over."""
        self._transfers.clear()

    def help(self, peer_id: int, term: int, now: float) -> None:
        """Begin a transfer to a follower, or send again what it does not answer; called with each heartbeat."""
        transfer = self._transfers.get(peer_id)
        if transfer is None:
            newest = self._snapshots.newest()
            if newest is None:
                return
            logger.info("sending a snapshot: peer=%x index=%d", peer_id, newest.index)
            transfer = self._transfers[peer_id] = _Transfer(newest, self._snapshots.size(newest), 0, now)
        elif now - transfer.sent_at < self._retry_s:
            return
        self._send_piece(peer_id, transfer, term, now)

    def progress(self, peer_id: int, progress: pb.SnapshotProgress, term: int, now: float) -> None:
        """Send the piece after what has arrived; forget the transfer when all has."""
        transfer = self._transfers.get(peer_id)
        if transfer is None or progress.index != transfer.snapshot.index:
            return
        if progress.offset >= transfer.size or progress.offset == 0:
            # All is there, or it was of no use; then it begins anew with a heartbeat, not at once and for ever.
            del self._transfers[peer_id]
        elif progress.offset != transfer.offset:
            transfer.offset = progress.offset
            self._send_piece(peer_id, transfer, term, now)

    def _send_piece(self, peer_id: int, transfer: _Transfer, term: int, now: float) -> None:
        snapshot = transfer.snapshot
        try:
            data = self._snapshots.piece(snapshot, transfer.offset, PIECE_BYTES)
        except FileNotFoundError:
            # Newer snapshots took its place; the next heartbeat begins with the newest.
            del self._transfers[peer_id]
            return
        transfer.sent_at = now
        piece = pb.SnapshotPiece(
            term=term,
            index=snapshot.index,
            index_term=snapshot.term,
            offset=transfer.offset,
            size=transfer.size,
            data=data,
        )
        self._send(peer_id, pb.Frame(snapshot_piece=piece))


class Installer:
    """The follower's side: the snapshot that is arriving."""

    def __init__(self, snapshots: Snapshots, core: RaftCore) -> None:
        self._snapshots = snapshots
        self._core = core
        self._receiver: SnapshotReceiver | None = None

    def take(self, peer_id: int, piece: pb.SnapshotPiece, install: Callable[[], None]) -> None:
        """Take a piece; ``install`` is called when the snapshot is whole and in its place."""
        if piece.term != self._core.term or peer_id != self._core.leader_id:
            return
        snapshot = Snapshot(piece.index, piece.index_term)
        if piece.index <= self._core.commit_index:
            # Nothing is missing any more: what is committed here is a beginning of the leader's log.
            self._abandon()
            self._core.acknowledge_through(peer_id, piece.index)
            self._report(peer_id, piece, piece.size)
            return
        receiver = self._receiver
        if receiver is None or receiver.snapshot != snapshot or receiver.size != piece.size:
            self._abandon()
            try:
                receiver = self._receiver = self._snapshots.receive(snapshot, piece.size)
            except DiskFullError as error:
                logger.warning("no room for a snapshot that arrives: %s", error)
                self._report(peer_id, piece, 0)
                return
        receiver.take(piece.offset, piece.data)
        if receiver.complete and not self._finish(receiver):
            self._report(peer_id, piece, 0)
            return
        if receiver.complete:
            install()
            self._core.acknowledge_through(peer_id, piece.index)
        self._report(peer_id, piece, receiver.received)

    def _finish(self, receiver: SnapshotReceiver) -> bool:
        self._receiver = None
        try:
            receiver.finish(self._snapshots)
        except SnapshotError as error:
            logger.warning("a snapshot arrived damaged: %s", error)
            return False
        except DiskFullError as error:
            logger.warning("no room for a snapshot that has arrived: %s", error)
            return False
        return True

    def _abandon(self) -> None:
        if self._receiver is not None:
            self._receiver.abandon()
            self._receiver = None

    def _report(self, peer_id: int, piece: pb.SnapshotPiece, offset: int) -> None:
        progress = pb.SnapshotProgress(term=self._core.term, index=piece.index, offset=offset)
        self._core.hold(peer_id, pb.Frame(snapshot_progress=progress))
