"""Elections that disturb nobody: pre-vote, loyalty to a leader that works, one vote a voter (D12).

These rules stand beside PySyncObj's own, which decide who is voted for; ``RaftCore`` mixes both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from proto.raft import message_pb2 as pb
from store.raft.journal import Journal
from store.raft.part import Part

FOLLOWER = 0
"""PySyncObj's number for it."""


class Random(Protocol):
    """A source of random numbers."""

    def random(self) -> float:
        """Return a number in [0, 1)."""
        ...


@dataclass(frozen=True)
class Timing:
    """Raft's intervals in seconds."""

    heartbeat_s: float = 0.1
    election_s: float = 1.0


class ElectionRules(Part):
    """The part of a member's Raft state that says when to stand for election and when to listen to a candidate."""

    _clock: Callable[[], float]
    _timing: Timing
    _journal: Journal
    _nodes: dict[int, Any]
    _voting: frozenset[int]
    is_quorum: Callable[[Iterable[int]], bool]
    _SyncObj__raftElectionDeadline: float
    _SyncObj__raftLeader: Any
    _SyncObj__connectedNodes: set[Any]
    _SyncObj__onMessageReceived: Callable[[Any, dict[str, Any]], None]
    _SyncObj__setCurrentTerm: Callable[[int, int | None], None]
    _SyncObj__setState: Callable[[int], None]
    _SyncObj__generateRaftTimeout: Callable[[], float]

    def __init__(self) -> None:
        self._voters: set[int] = set()
        self._pre_votes: set[int] | None = None
        self._election_granted = False
        self._transfer = False
        self._leader_contact = float("-inf")

    @property
    def may_stand(self) -> bool:
        """Whether this member may become leader."""
        raise AssertionError("the roster knows")

    @property
    def stands_alone(self) -> bool:
        """Whether nobody else has a vote."""
        raise AssertionError("the roster knows")

    def hold(self, peer_id: int, frame: pb.Frame) -> None:
        """Send a frame as soon as everything before it is on disk."""
        raise AssertionError("the core sends")

    def _receive_vote_request(self, node: Any, frame: pb.Frame) -> None:
        request = frame.vote_request
        if not request.transfer and self._in_contact_with_leader():
            return
        message = {
            "type": "request_vote",
            "term": request.term,
            "last_log_index": request.last_index,
            "last_log_term": request.last_term,
        }
        self._SyncObj__onMessageReceived(node, message)

    def _in_contact_with_leader(self) -> bool:
        """Tell whether an election would only disturb a leader that works (D12)."""
        if self.is_leader:
            return True
        return self._clock() - self._leader_contact < self._timing.election_s

    def _receive_vote(self, node: Any, frame: pb.Frame) -> None:
        if frame.vote.term == self.term and self._first_vote_of(node):
            self._SyncObj__onMessageReceived(node, {"type": "response_vote", "term": frame.vote.term})

    def _first_vote_of(self, node: Any) -> bool:
        """Count each voter once: the library counts answers, so that a repeated one could make two leaders.

        A learner answers too, as it may be a voter without knowing so yet; here is decided whether that counts.
        """
        if node.id in self._voters or node.id not in self._voting:
            return False
        self._voters.add(node.id)
        return True

    def _receive_pre_vote_request(self, node: Any, frame: pb.Frame) -> None:
        request = frame.pre_vote_request
        mine = (self._journal[-1][2], self._journal.last_index)
        granted = (
            request.term > self.term
            and (request.last_term, request.last_index) >= mine
            and not self._in_contact_with_leader()
        )
        reply = pb.PreVote(term=request.term if granted else self.term, granted=granted)
        self.hold(node.id, pb.Frame(pre_vote=reply))

    def _receive_pre_vote(self, node: Any, frame: pb.Frame) -> None:
        reply = frame.pre_vote
        if not reply.granted:
            if reply.term > self.term:
                self._step_down(reply.term)
        elif self._pre_votes is not None and reply.term == self.term + 1 and self.may_stand:
            self._pre_votes.add(node.id)
            if self.is_quorum(self._pre_votes):
                self._stand_now()

    def _receive_timeout_now(self, node: Any, frame: pb.Frame) -> None:
        asked = frame.timeout_now.term == self.term and self._SyncObj__raftLeader == node
        if asked and self.may_stand:
            self._SyncObj__onMessageReceived(node, {"type": "timeout_now", "term": frame.timeout_now.term})
            self._transfer = self._election_granted = True

    # Elections.

    def _stand_when_due(self) -> None:
        """Ask whether an election would be won before disturbing anybody with a new term (pre-vote)."""
        if self.is_leader or (self._election_granted and self.may_stand):
            return
        if self.may_stand and (self.stands_alone or not self._SyncObj__connectedNodes):
            return
        if self._SyncObj__raftElectionDeadline >= self._clock():
            return
        # Moved on for one that has no vote too: the library stands as soon as this time is over.
        self._SyncObj__raftElectionDeadline = self._clock() + self._SyncObj__generateRaftTimeout()
        self._SyncObj__raftLeader = None
        if not self.may_stand:
            return
        self._pre_votes = set()
        request = pb.PreVoteRequest(
            term=self.term + 1, last_index=self._journal.last_index, last_term=self._journal[-1][2]
        )
        for peer_id in sorted(self._voting.intersection(self._nodes)):
            self.hold(peer_id, pb.Frame(pre_vote_request=request))

    def _stand_now(self) -> None:
        self._pre_votes = None
        self._election_granted = True
        self._SyncObj__raftElectionDeadline = self._clock() - 1.0

    def _step_down(self, term: int) -> None:
        self._SyncObj__setCurrentTerm(term, None)
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None
        self._pre_votes = None
        self._SyncObj__raftElectionDeadline = self._clock() + self._SyncObj__generateRaftTimeout()
