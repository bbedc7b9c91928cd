"""The only door to PySyncObj: its elections, log matching and commit, with what it lacks for safety added around.

Theory of operation. ``RaftCore`` is driven from outside and never waits: ``receive`` takes a peer's frame, ``tick``
does what is due, frames leave by ``send``. Nothing in here has a clock, a source of chance or a socket of its own.

*Nothing is promised before it is on disk.* Frames that depend on the log (acknowledgements, votes, new terms) wait in
``_held`` until the owner calls ``sync``; only ``AppendEntries`` leave at once, so that followers write while the leader
does. ``tick`` syncs first, so that the leader never counts itself for an entry that is not on its own disk.

PySyncObj's methods are private by name (``__x``) but looked up on the object, so a subclass replaces one by defining
``_SyncObj__x``. Each method here that starts so covers a defect, named in its docstring; a test lists everything of
the library's inside that we rely on. What the library takes from its module
(clock, journal, poller, pickle) is replaced there once, below.
"""

from __future__ import annotations

import _socket
import logging
from collections.abc import Callable, Iterable
from typing import Any

import pysyncobj.syncobj as library
from pysyncobj import SyncObj, SyncObjConf, win_inet_pton
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from proto.raft import message_pb2 as pb
from store.raft.commit_news import CommitNews
from store.raft.contract import MemberRecord
from store.raft.elections import FOLLOWER, ElectionRules, Random, Timing
from store.raft.journal import Journal
from store.raft.membership import Membership, Memberships, read_entry
from store.raft.messages import frame_of
from store.raft.replication import ReplicationRules
from store.raft.roster import NOBODY, Roster

logger = logging.getLogger(__name__)

# The library's import puts a function for Windows in place of socket.inet_ntop, on every system; it goes back at once.
win_inet_pton.socket.inet_ntop = _socket.inet_ntop

GROUP = b"\x10"
"""First byte of a log entry that holds requests; PySyncObj's own no-operation begins with 1."""
LEADER = 2
"""PySyncObj's number for it."""
APPLY_SECONDS_MAX = 0.05
COMMAND_BYTES_MAX = 8 << 20


class _MemberNode(Node):  # type: ignore[misc]
    """A node that hashes by its integer id, so that sets of nodes have the same order in every process (D14)."""

    def __hash__(self) -> int:
        return hash(self._id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _MemberNode) and self._id == other._id

    def __str__(self) -> str:
        return f"{self._id:x}"


class _Outlet(Transport):  # type: ignore[misc]
    """Where PySyncObj puts its messages."""

    def __init__(self, core: RaftCore) -> None:
        super().__init__(core, None, ())
        self._core = core

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        if node.id != NOBODY:
            self._core.hold(node.id, self._core.frame_of(message))
        return True


class _NoPoller:
    """Stands for the library's poller: it has no descriptors of its own here."""

    def poll(self, timeout: float) -> None:
        """Do nothing."""


class _NoPickle:
    """Stands for pickle in the library's module: nothing that a peer sent is ever unpickled (D13)."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"pickle.{name} is not used in this program")


class _Injected:
    """What the library takes from its module's globals: that of the core which runs now (D14)."""

    clock: Callable[[], float]
    journal: Journal


def _monotonic() -> float:
    return _Injected.clock()


library.monotonicTime = _monotonic
library.createJournal = lambda _file: _Injected.journal
library.createPoller = lambda _kind: _NoPoller()
library.pickle = _NoPickle()


class RaftCore(Roster, CommitNews, ElectionRules, ReplicationRules, SyncObj):  # type: ignore[misc]
    """One member's Raft state."""

    def __init__(
        self,
        member_id: int,
        peer_ids: Iterable[int],
        journal: Journal,
        clock: Callable[[], float],
        random: Random,
        timing: Timing,
        send: Callable[[int, pb.Frame], object],
        apply: Callable[[int, bytes], None],
    ) -> None:
        self._clock = clock
        self._random = random
        self._timing = timing
        self._journal = journal
        self._send_frame = send
        self._apply_entry = apply
        self._held: list[tuple[int, pb.Frame]] = []
        if not journal.memberships.current.members:
            first = Membership.of(MemberRecord(one) for one in (member_id, *peer_ids))
            journal.memberships = Memberships(first)
        ElectionRules.__init__(self)
        CommitNews.__init__(self)
        ReplicationRules.__init__(self)
        Roster.__init__(self)
        self._enter()
        configuration = SyncObjConf(
            autoTick=False,
            appendEntriesUseBatch=True,
            appendEntriesPeriod=timing.heartbeat_s,
            raftMinTimeout=timing.election_s,
            raftMaxTimeout=2 * timing.election_s,
            connectionTimeout=4 * timing.election_s,
            leaderFallbackTimeout=timing.election_s,
            appendEntriesBatchSizeBytes=4 * COMMAND_BYTES_MAX,
            dynamicMembershipChange=False,
            useFork=False,
        )
        SyncObj.__init__(self, _MemberNode(member_id), (), configuration, transport=_Outlet(self))
        self._SyncObj__raftLastApplied = journal.base_index
        self._SyncObj__raftCommitIndex = journal.getRaftCommitIndex()
        self._follow_membership()
        journal.on_membership = self._follow_membership
        # A member that has just started asks early: a leader would be heard by then, and asking disturbs nobody.
        patience_s = -1.0 if self.stands_alone else timing.heartbeat_s * (2.0 + 4.0 * random.random())
        self._SyncObj__raftElectionDeadline = clock() + patience_s

    # What the owner sees and calls.

    @property
    def member_id(self) -> int:
        """This member."""
        return int(self.selfNode.id)

    @property
    def term(self) -> int:
        """The current term."""
        return int(self._SyncObj__raftCurrentTerm)

    @property
    def is_leader(self) -> bool:
        """Whether this member leads."""
        return bool(self._SyncObj__raftState == LEADER)

    @property
    def leader_id(self) -> int:
        """The leader's id, 0 where none is known."""
        leader = self._SyncObj__raftLeader
        return 0 if leader is None else int(leader.id)

    @property
    def commit_index(self) -> int:
        """Highest committed index known."""
        return int(self._SyncObj__raftCommitIndex)

    @property
    def applied_index(self) -> int:
        """Highest index applied."""
        return int(self._SyncObj__raftLastApplied)

    @property
    def last_index(self) -> int:
        """Index of the log's last entry."""
        return self._journal.last_index

    @property
    def term_started(self) -> bool:
        """Whether an entry of the current term has been applied: before that a leader knows too little to serve."""
        return self._journal.term_at(self.applied_index) == self.term

    def connected(self, peer_id: int) -> None:
        """Take note that frames can be sent to a peer."""
        self._enter()
        node = self._welcome(peer_id)
        if node is not None:
            self._SyncObj__onNodeConnected(node)

    def disconnected(self, peer_id: int) -> None:
        """Take note that frames cannot be sent to a peer."""
        self._enter()
        self._guests.pop(peer_id, None)
        self._SyncObj__onNodeDisconnected(_MemberNode(peer_id))

    def append(self, command: bytes) -> int:
        """Add an entry to the leader's log and send it; return its index."""
        assert self.is_leader, "only the leader adds to the log"
        assert len(command) < COMMAND_BYTES_MAX, "the owner keeps commands small"
        self._enter()
        index = self._journal.last_index + 1
        self._journal.add(command, index, self.term)
        self._SyncObj__sendAppendEntries()
        return index

    def heartbeat(self) -> None:
        """Let the followers hear now what they would hear at the next heartbeat."""
        self._enter()
        self._SyncObj__sendAppendEntries()

    def sync(self) -> None:
        """Have the log on disk, then let the frames go that waited for it; all stay where the disk is full."""
        self._journal.sync()
        while self._held and not self._journal.full:
            held, self._held = self._held, []
            for peer_id, frame in held:
                self._send_frame(peer_id, frame)

    def tick(self) -> None:
        """Do what is due: elections, commit, apply, heartbeats."""
        self._enter()
        self.sync()
        if self._journal.full:
            # The library counts this member for every entry that it holds, on disk or not.
            return
        self._stand_when_due()
        self._onTick(0)
        self._election_granted = self._transfer = False
        self.tell_commit_when_due(self._clock())
        self.sync()

    def next_deadline(self) -> float:
        """Return when ``tick`` has something to do."""
        alone = self.is_leader and self.stands_alone and self.commit_index < self.last_index
        if self.applied_index < self.commit_index or alone:
            return self._clock()
        if self.is_leader:
            return min(float(self._SyncObj__newAppendEntriesTime) + 0.001, self.commit_due)
        if not self.stands_alone and not self._SyncObj__connectedNodes:
            return float("inf")
        return float(self._SyncObj__raftElectionDeadline) + 0.001

    def install(self, index: int, term: int, membership: Membership | None = None) -> None:
        """Go on after a snapshot that is on disk and in the state machine (D5: a log that matches it stays)."""
        self._enter()
        if self._journal.term_at(index) != term:
            self._journal.move_base(index, term, membership)
        self._SyncObj__raftLastApplied = index
        self._SyncObj__raftCommitIndex = max(self.commit_index, index)
        self._journal.setRaftCommitIndex(self.commit_index)
        self._follow_membership()

    def acknowledge_through(self, peer_id: int, index: int) -> None:
        """Tell the leader that this log equals its own up to an index that is committed."""
        frame = pb.Acknowledgement(term=self.term, next_index=index + 1, success=True)
        self.hold(peer_id, pb.Frame(acknowledgement=frame))

    def transfer_leadership(self, peer_id: int) -> bool:
        """Ask a voter that has the whole log to stand for election at once."""
        self._enter()
        node = self._nodes.get(peer_id)
        ready = node in self._SyncObj__connectedNodes and self.is_leader and peer_id in self.voters
        if not ready or self.match_index(peer_id) != self._journal.last_index:
            return False
        self.hold(peer_id, pb.Frame(timeout_now=pb.TimeoutNow(term=self.term)))
        return True

    def retire(self) -> None:
        """Lead no longer, in the same term; the follower that has most of the log is asked to stand at once."""
        self._enter()
        heirs = [one for one in sorted(self.voters) if self._nodes.get(one) in self._SyncObj__connectedNodes]
        if self.is_leader and heirs:
            heir = max(heirs, key=lambda peer_id: (self.match_index(peer_id), peer_id))
            # It depends on nothing that is not on disk, and so waits for nothing.
            self._send_frame(heir, pb.Frame(timeout_now=pb.TimeoutNow(term=self.term)))
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None
        self._pre_votes = None
        self._SyncObj__raftElectionDeadline = self._clock() + self._SyncObj__generateRaftTimeout()

    def receive(self, peer_id: int, frame: pb.Frame) -> bool:
        """Take a frame of Raft's own; return whether it was one."""
        kind = frame.WhichOneof("body") or ""
        handler = _HANDLERS.get(kind)
        if handler is None:
            return False
        node = self._node_of(peer_id, kind)
        if node is not None:
            self._enter()
            handler(self, node, frame)
        return True

    def frame_of(self, message: dict[str, Any]) -> pb.Frame:
        """Return what PySyncObj wants sent, with what it does not know."""
        frame = frame_of(message, self.term, self._echoed_round, self._transfer)
        reply = frame.acknowledgement
        if frame.HasField("acknowledgement") and reply.reset:
            reply.next_index, reply.hint_term = self._hint(reply.next_index)
        return frame

    def step_aside(self) -> None:
        """End this leadership, whose member has no vote any more; whoever has the whole log is asked to follow."""
        self._enter()
        for peer_id in sorted(self.voters):
            if self.transfer_leadership(peer_id):
                break
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None

    def hold(self, peer_id: int, frame: pb.Frame) -> None:
        """Send a frame as soon as everything before it is on disk."""
        self._held.append((peer_id, frame))

    def _new_node(self, member_id: int) -> _MemberNode:
        return _MemberNode(member_id)

    def _enter(self) -> None:
        _Injected.clock = self._clock
        _Injected.journal = self._journal

    # What the library calls by its private names.

    def _SyncObj__generateRaftTimeout(self) -> float:  # noqa: N802
        """Draw an election timeout from the injected source (D14)."""
        return self._timing.election_s * (1.0 + self._random.random())

    def _SyncObj__setCurrentTerm(self, term: int, vote: int | None) -> None:  # noqa: N802
        if term != self._SyncObj__raftCurrentTerm:
            self._voters.clear()
        super()._SyncObj__setCurrentTerm(term, vote)

    def _SyncObj__onBecomeLeader(self) -> None:  # noqa: N802
        """Open a leadership: nothing is known yet of what the followers have."""
        self.commit_told = 0
        self.read_round += 1
        for peer_id in self._floor:
            self._floor[peer_id] = self._journal.last_index
        super()._SyncObj__onBecomeLeader()
        self._journal.sync()
        if self._journal.full:
            self.retire()

    def _SyncObj__getEntries(  # noqa: N802
        self,
        first: int | None,
        count: int | None = None,
        maxSizeBytes: int | None = None,  # noqa: N803
    ) -> list[tuple[bytes, int, int]]:
        """Show the append handler only the entry before a message that conflicts with nothing (D1).

        It takes more than one entry as the order to cut its log.
        """
        if count is None and maxSizeBytes is None and not self._conflict:
            count = 1
        entries: list[tuple[bytes, int, int]] = super()._SyncObj__getEntries(first, count, maxSizeBytes)
        return entries

    def _SyncObj__sendAppendEntries(self) -> None:  # noqa: N802
        """Send each follower what it lacks, in a fixed order and within a window (D7, D14: no pieces, no pickle)."""
        self._SyncObj__newAppendEntriesTime = self._clock() + self._timing.heartbeat_s
        self.commit_news_sent()
        for node in self._nodes.values():
            if node in self._SyncObj__connectedNodes:
                self._send_append(node)

    def _SyncObj__applyLogEntries(self) -> bool:  # noqa: N802
        """Apply what is committed, for a bounded time (D10: an entry is applied once, whatever it holds)."""
        deadline = self._clock() + APPLY_SECONDS_MAX
        while self.applied_index < self.commit_index and self._clock() <= deadline:
            index = self.applied_index + 1
            command = self._journal[index - self._journal.base_index][0]
            self._SyncObj__raftLastApplied = index
            self._apply_entry(index, command[1:] if command[:1] == GROUP else b"")
            entry = read_entry(command)
            if entry is not None:
                self._membership_applied(entry)
        return False

    def _checkCommandsToApply(self) -> None:  # noqa: N802
        """Do nothing: proposals come through ``append`` (D9, D11)."""

    def _SyncObj__tryLogCompaction(self) -> None:  # noqa: N802
        """Do nothing: the owner writes snapshots (D5)."""

    def _SyncObj__loadDumpFile(self, clearJournal: bool) -> None:  # noqa: N802, N803
        raise AssertionError("snapshots do not come through the library")

    def _SyncObj__doApplyCommand(self, command: bytes) -> None:  # noqa: N802
        raise AssertionError("entries are applied by the owner")

    def _SyncObj__parseChangeClusterRequest(self, command: bytes) -> None:  # noqa: N802
        """Find no membership change in any command (D8, D13: the library would unpickle it)."""


_HANDLERS: dict[str, Callable[[RaftCore, _MemberNode, pb.Frame], None]] = {
    "append_entries": RaftCore._receive_append,
    "acknowledgement": RaftCore._receive_acknowledgement,
    "vote_request": RaftCore._receive_vote_request,
    "vote": RaftCore._receive_vote,
    "pre_vote_request": RaftCore._receive_pre_vote_request,
    "pre_vote": RaftCore._receive_pre_vote,
    "timeout_now": RaftCore._receive_timeout_now,
}
