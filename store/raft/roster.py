"""Whom a member exchanges frames with, and who of them counts: the membership in effect, put into PySyncObj's sets.

PySyncObj counts a majority over its *other nodes* and itself. So that only voters count, its other nodes are the other
voters, and everybody else who gets the log (learners, members that join, members that are being removed) stands among
its *read-only nodes*, which it counts nowhere. A leader that has no vote itself, because it removes itself, is
counted by the library all the same; a node that never answers makes up for that.

*Guests* are peers that this member's own log does not name: one that was away for long may meet a
leader that joined meanwhile. It takes the log from a guest, and votes for one, but never counts one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from proto.raft import membership_pb2
from proto.raft import message_pb2 as pb
from store.raft.contract import MemberChange
from store.raft.journal import Journal
from store.raft.membership import Membership, entry_of
from store.raft.part import Part

NOBODY = 0
"""No member's id: the node that never answers."""
GUESTS_MAX = 16
_FROM_GUESTS = frozenset({"append_entries", "vote_request", "pre_vote_request", "timeout_now"})


class Roster(Part):
    """The part of a member's Raft state that knows the members."""

    _clock: Callable[[], float]
    _journal: Journal
    _floor: dict[int, int]
    _new_node: Callable[[int], Any]
    append: Callable[[bytes], int]
    _SyncObj__otherNodes: set[Any]
    _SyncObj__readonlyNodes: set[Any]
    _SyncObj__connectedNodes: set[Any]
    _SyncObj__raftMatchIndex: dict[Any, int]
    _SyncObj__raftNextIndex: dict[Any, int]
    _SyncObj__lastResponseTime: dict[Any, float]
    _SyncObj__sendAppendEntries: Callable[[], None]
    _SyncObj__setState: Callable[[int], None]

    def __init__(self) -> None:
        self._nodes: dict[int, Any] = {}
        """Who gets frames from this member, by id."""
        self._guests: dict[int, Any] = {}
        self._voting: frozenset[int] = frozenset()
        """Who counts, this member among them where it does."""
        self.joining: tuple[int, ...] = ()
        """Who is to get a vote as soon as it has the log."""
        self.members_changed = True
        """Whether there is something new in effect or applied; whoever looks at it sets it back."""
        self.on_members_applied: Callable[[membership_pb2.MembershipEntry], None] = lambda _entry: None

    @property
    def membership(self) -> Membership:
        """The membership as of the applied index."""
        return self._journal.memberships.at(self.applied_index)

    @property
    def voters(self) -> frozenset[int]:
        """Who makes up quorums now, this member among them where it does."""
        return self._voting

    @property
    def quorum(self) -> int:
        """How many members decide."""
        return len(self._voting) // 2 + 1

    def is_quorum(self, peers: Iterable[int]) -> bool:
        """Tell whether peers, together with this member, decide."""
        return len(self._voting.intersection((*peers, self.member_id))) >= self.quorum

    @property
    def may_stand(self) -> bool:
        """Whether this member may become leader.

        One whose removal is not committed must be able to, without counting itself: nobody else may have that entry,
        and without it be voted for.
        """
        return self.member_id in self._voting or self.member_id in self.membership.voters

    @property
    def stands_alone(self) -> bool:
        """Whether nobody else has a vote."""
        return self._voting <= {self.member_id}

    # Changes.

    @property
    def change_is_possible(self) -> bool:
        """Whether the leader may add a change now (D8: the library's own guard is never armed).

        The change before must be applied, hence committed; and so must an entry of this term, or a change that an
        earlier leader had begun might still come to be beside it.
        """
        before = self._journal.memberships.current.index
        return self.is_leader and self.term_started and before <= self.applied_index

    def append_change(self, change: MemberChange, origin_id: int = 0, sequence: int = 0) -> None:
        """Add a change of membership to the leader's log; raise ChangeRefusedError where it cannot be."""
        assert self.change_is_possible, "one change at a time"
        index = self._journal.last_index + 1
        membership = self._journal.memberships.current.changed(change, index)
        self.append(entry_of(membership, change, origin_id, sequence))

    def _follow_membership(self) -> None:
        """Put the membership in effect into the library's sets; who leaves is kept until that is applied."""
        current = self._journal.memberships.current
        wanted = (current.ids | self.membership.ids) - {self.member_id}
        for peer_id in sorted(self._nodes.keys() - wanted):
            self._let_go(peer_id)
        for peer_id in sorted(wanted - self._nodes.keys()):
            self._take_in(peer_id)
        self._nodes = dict(sorted(self._nodes.items()))
        self._voting = current.voters
        self.joining = tuple(one.member_id for one in current.members if one.is_joining)
        self.members_changed = True
        others = {node for peer_id, node in self._nodes.items() if peer_id in self._voting}
        self._SyncObj__readonlyNodes = set(self._nodes.values()) - others
        if self.member_id not in self._voting:
            others.add(self._one_who_never_answers())
        self._SyncObj__otherNodes = others

    def _take_in(self, peer_id: int) -> None:
        node = self._nodes[peer_id] = self._guests.pop(peer_id, None) or self._new_node(peer_id)
        self._floor[peer_id] = self._journal.last_index
        self._SyncObj__raftNextIndex[node] = self._journal.last_index + 1
        self._SyncObj__raftMatchIndex[node] = 0
        self._SyncObj__lastResponseTime[node] = self._clock()

    def _let_go(self, peer_id: int) -> None:
        node = self._nodes.pop(peer_id)
        if node in self._SyncObj__connectedNodes:
            # It may still have something to say, until its connection is closed.
            self._guests[peer_id] = node
        del self._floor[peer_id]
        for known in (self._SyncObj__raftNextIndex, self._SyncObj__raftMatchIndex, self._SyncObj__lastResponseTime):
            known.pop(node, None)

    def _one_who_never_answers(self) -> Any:
        node = self._new_node(NOBODY)
        self._SyncObj__raftMatchIndex[node] = 0
        self._SyncObj__raftNextIndex[node] = 1
        self._SyncObj__lastResponseTime[node] = float("-inf")
        return node

    def _membership_applied(self, entry: membership_pb2.MembershipEntry) -> None:
        if self.is_leader:
            # The last that those hear who leave: that their removal is committed.
            self._SyncObj__sendAppendEntries()
        self._follow_membership()
        self.on_members_applied(entry)

    # Guests.

    def _node_of(self, peer_id: int, kind: str) -> Any:
        """Return the node whose frame of a kind is taken, None where it is not."""
        node = self._nodes.get(peer_id)
        if node is None and kind in _FROM_GUESTS:
            node = self._guests.get(peer_id)
        return node

    def _welcome(self, peer_id: int) -> Any:
        """Return the node of a peer that has connected, None where it is one guest too many."""
        node = self._nodes.get(peer_id) or self._guests.get(peer_id)
        if node is None and len(self._guests) < GUESTS_MAX and peer_id not in self.membership.removed:
            node = self._guests[peer_id] = self._new_node(peer_id)
        return node

    def hold(self, peer_id: int, frame: pb.Frame) -> None:
        """Send a frame as soon as everything before it is on disk."""
        raise AssertionError("the core sends")
