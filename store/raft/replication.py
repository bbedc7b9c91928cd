"""What leader and followers say to each other about the log: appends, acknowledgements, and where logs differ.

These rules stand beside PySyncObj's own, which decide what is committed; ``RaftCore`` mixes both.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from proto.raft import message_pb2 as pb
from store.raft.journal import Journal
from store.raft.messages import contiguous
from store.raft.part import Part

logger = logging.getLogger(__name__)

APPEND_BYTES_MAX = 1 << 20
WINDOW_ENTRIES_MAX = 128
"""Entries under way to one follower."""


class ReplicationRules(Part):
    """The part of a member's Raft state that says what a follower takes, and what a leader sends."""

    _clock: Callable[[], float]
    _journal: Journal
    _nodes: dict[int, Any]
    _pre_votes: set[int] | None
    _leader_contact: float
    _send_frame: Callable[[int, pb.Frame], object]
    _SyncObj__raftMatchIndex: dict[Any, int]
    _SyncObj__raftNextIndex: dict[Any, int]
    _SyncObj__onMessageReceived: Callable[[Any, dict[str, Any]], None]
    _step_down: Callable[[int], None]

    def __init__(self) -> None:
        self._floor: dict[int, int] = {}
        """Up to which entry each follower is known to have the log, or hoped to."""
        self._conflict = False
        self._refused_term = 0
        """Term of the entry before a message, while that message is dealt with."""
        self._echoed_round = 0
        self.read_round = 0
        self.on_contact: Callable[[int, int], None] = lambda _peer, _round: None
        self.on_behind: Callable[[int], None] = lambda _peer: None

    def hold(self, peer_id: int, frame: pb.Frame) -> None:
        """Send a frame as soon as everything before it is on disk."""
        raise AssertionError("the core sends")

    def match_index(self, peer_id: int) -> int:
        """Return up to which entry a peer is known to have this leader's log."""
        node = self._nodes.get(peer_id)
        return 0 if node is None else self._SyncObj__raftMatchIndex.get(node, 0)

    def _receive_append(self, node: Any, frame: pb.Frame) -> None:
        request = frame.append_entries
        if request.term < self.term:
            # The library keeps silent; a leader that is not told of a later term would never stop.
            refusal = pb.Acknowledgement(term=self.term, next_index=self._journal.last_index + 1)
            self.hold(node.id, pb.Frame(acknowledgement=refusal))
            return
        if request.term == self.term and self.is_leader:
            logger.critical("two leaders in one term: term=%d other=%x", self.term, node.id)
            return
        entries = [(entry.command, entry.index, entry.term) for entry in request.entries]
        if not contiguous(request.previous_index, entries):
            logger.warning("dropping a malformed append from peer=%x", node.id)
            return
        self._leader_contact = self._clock()
        self._pre_votes = None
        self._echoed_round = request.read_round
        message: dict[str, Any] = {
            "type": "append_entries",
            "term": request.term,
            "commit_index": request.commit_index,
            "entries": entries,
            "prevLogIdx": request.previous_index,
            "prevLogTerm": request.previous_term,
        }
        message, self._conflict = self._without_known_prefix(message)
        self._refused_term = message["prevLogTerm"]
        self._SyncObj__onMessageReceived(node, self._commit_no_further_than_verified(message))
        self._conflict = False

    def _without_known_prefix(self, message: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """Drop what the log already holds; tell whether what remains conflicts with it (D1).

        The library cuts its log at the message's beginning and writes the message again, so that an old duplicate
        voids entries that were acknowledged.
        """
        previous, entries = message["prevLogIdx"], message["entries"]
        term = message["prevLogTerm"]
        base = self._journal.base_index
        if previous < base:
            # Everything up to the base is committed, so the leader's entries there are ours.
            entries = entries[base - previous :]
            previous, term = base, self._journal.term_at(base)
        elif self._journal.term_at(previous) != term:
            return message, False
        known = 0
        for _, index, entry_term in entries:
            if self._journal.term_at(index) != entry_term:
                break
            known += 1
        if known:
            previous, term = entries[known - 1][1], entries[known - 1][2]
        rest = entries[known:]
        return dict(message, prevLogIdx=previous, prevLogTerm=term, entries=rest), bool(rest)

    def _commit_no_further_than_verified(self, message: dict[str, Any]) -> dict[str, Any]:
        """Let a message commit only what it proves to be equal to the leader's log (D2)."""
        verified = message["prevLogIdx"] + len(message["entries"])
        return dict(message, commit_index=min(message["commit_index"], verified))

    def _receive_acknowledgement(self, node: Any, frame: pb.Frame) -> None:
        reply = frame.acknowledgement
        if reply.term > self.term:
            self._step_down(reply.term)
        if not self._belongs_to_this_leadership(reply) or node.id not in self._nodes:
            return
        self.on_contact(node.id, reply.read_round)
        next_before = self._SyncObj__raftNextIndex[node]
        message: dict[str, Any] = {
            "type": "next_node_idx",
            "next_node_idx": self._next_for(reply),
            "reset": reply.reset,
            "success": reply.success,
        }
        self._SyncObj__onMessageReceived(node, message)
        match = self._SyncObj__raftMatchIndex[node]
        if reply.success:
            # The library goes back to the acknowledged entry and sends everything after it once more (D1).
            self._SyncObj__raftNextIndex[node] = max(next_before, self._SyncObj__raftNextIndex[node])
            self._floor[node.id] = max(self._floor[node.id], match)
        elif reply.reset:
            # A follower that has less than it once acknowledged lost its disk: believe it, or it never catches up.
            next_index = self._next_for(reply)
            self._SyncObj__raftNextIndex[node] = next_index
            self._SyncObj__raftMatchIndex[node] = min(match, next_index - 1)
            self._floor[node.id] = next_index - 1
        if self._SyncObj__raftNextIndex[node] <= self._journal.last_index:
            self._send_append(node, news_only=True)

    def _belongs_to_this_leadership(self, reply: pb.Acknowledgement) -> bool:
        """Count no acknowledgement that was meant for another term (D6: the library's carry none)."""
        return self.is_leader and reply.term == self.term

    def _next_for(self, reply: pb.Acknowledgement) -> int:
        """Return where to go on: where terms differ, whole terms are passed over and not entry by entry."""
        next_index = min(reply.next_index, self._journal.last_index + 1)
        if reply.reset and reply.hint_term:
            next_index = self._journal.last_common_candidate(next_index - 1, reply.hint_term) + 1
        return next_index

    def _hint(self, next_index: int) -> tuple[int, int]:
        """Return where a leader whose log differs at an entry should go on, and the term of the entry before."""
        # What is before the base is committed: the leader has it too.
        index = max(self._journal.last_common_candidate(next_index - 1, self._refused_term), self._journal.base_index)
        return index + 1, self._journal.term_at(index) or 0

    def _send_append(self, node: Any, news_only: bool = False) -> None:
        next_index: int = self._SyncObj__raftNextIndex[node]
        base, last = self._journal.base_index, self._journal.last_index
        if next_index <= base:
            # What it lacks is only in a snapshot; the heartbeat keeps it from standing for election meanwhile.
            self.on_behind(node.id)
            next_index = base + 1
            entries = []
        else:
            window_end = self._floor[node.id] + WINDOW_ENTRIES_MAX
            entries = self._batch(next_index, min(last, window_end))
            self._SyncObj__raftNextIndex[node] = next_index + len(entries)
        if news_only and not entries:
            return
        request = pb.AppendEntries(
            term=self.term,
            previous_index=next_index - 1,
            previous_term=self._journal.term_at(next_index - 1) or 0,
            commit_index=self.commit_index,
            entries=[pb.Entry(index=index, term=term, command=command) for command, index, term in entries],
            read_round=self.read_round,
        )
        self._send_frame(node.id, pb.Frame(append_entries=request))

    def _batch(self, first: int, last: int) -> list[tuple[bytes, int, int]]:
        base = self._journal.base_index
        entries = self._journal[first - base : last - base + 1]
        total = 0
        for place, entry in enumerate(entries):
            total += len(entry[0])
            if total > APPEND_BYTES_MAX and place:
                return entries[:place]
        return entries
