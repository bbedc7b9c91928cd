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
from store.raft.elections import FOLLOWER, ElectionRules, Random, Timing
from store.raft.journal import Journal
from store.raft.messages import contiguous, frame_of

logger = logging.getLogger(__name__)

# The library's import puts a function for Windows in place of socket.inet_ntop, on every system; it goes back at once.
win_inet_pton.socket.inet_ntop = _socket.inet_ntop

GROUP = b"\x10"
"""First byte of a log entry that holds requests; PySyncObj's own no-operation begins with 1."""
LEADER = 2
"""PySyncObj's number for it."""
APPEND_BYTES_MAX = 1 << 20
WINDOW_ENTRIES_MAX = 128
"""Entries under way to one follower."""
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


class RaftCore(ElectionRules, SyncObj):  # type: ignore[misc]
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
        self._nodes = {one: _MemberNode(one) for one in sorted(peer_ids)}
        self._floor = dict.fromkeys(self._nodes, 0)
        ElectionRules.__init__(self)
        self._conflict = False
        self._echoed_round = 0
        self._commit_told = 0
        self.read_round = 0
        self.on_contact: Callable[[int, int], None] = lambda _peer, _round: None
        self.on_behind: Callable[[int], None] = lambda _peer: None
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
        nodes = list(self._nodes.values())
        SyncObj.__init__(self, _MemberNode(member_id), nodes, configuration, transport=_Outlet(self))
        self._SyncObj__raftLastApplied = journal.base_index
        self._SyncObj__raftCommitIndex = journal.getRaftCommitIndex()
        # A member that has just started asks early: a leader would be heard by then, and asking disturbs nobody.
        patience_s = timing.heartbeat_s * (2.0 + 4.0 * random.random()) if self._nodes else -1.0
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
    def term_started(self) -> bool:
        """Whether an entry of the current term has been applied: before that a leader knows too little to serve."""
        return self._journal.term_at(self.applied_index) == self.term

    def connected(self, peer_id: int) -> None:
        """Take note that frames can be sent to a peer."""
        self._enter()
        self._SyncObj__onNodeConnected(self._nodes[peer_id])

    def disconnected(self, peer_id: int) -> None:
        """Take note that frames cannot be sent to a peer."""
        self._enter()
        self._SyncObj__onNodeDisconnected(self._nodes[peer_id])

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
        if self.is_leader and self.commit_index > self._commit_told:
            self._SyncObj__sendAppendEntries()
        self.sync()

    def next_deadline(self) -> float:
        """Return when ``tick`` has something to do."""
        if self.applied_index < self.commit_index:
            return self._clock()
        if self.is_leader:
            return float(self._SyncObj__newAppendEntriesTime) + 0.001
        if self._nodes and not self._SyncObj__connectedNodes:
            return float("inf")
        return float(self._SyncObj__raftElectionDeadline) + 0.001

    def install(self, index: int, term: int) -> None:
        """Go on after a snapshot that is on disk and in the state machine (D5: a log that matches it stays)."""
        self._enter()
        if self._journal.term_at(index) != term:
            self._journal.move_base(index, term)
        self._SyncObj__raftLastApplied = index
        self._SyncObj__raftCommitIndex = max(self.commit_index, index)
        self._journal.setRaftCommitIndex(self.commit_index)

    def acknowledge_through(self, peer_id: int, index: int) -> None:
        """Tell the leader that this log equals its own up to an index that is committed."""
        frame = pb.Acknowledgement(term=self.term, next_index=index + 1, success=True)
        self.hold(peer_id, pb.Frame(acknowledgement=frame))

    def transfer_leadership(self, peer_id: int) -> bool:
        """Ask a follower that has the whole log to stand for election at once."""
        self._enter()
        node = self._nodes[peer_id]
        ready = node in self._SyncObj__connectedNodes and self.is_leader
        if not ready or self._SyncObj__raftMatchIndex.get(node, 0) != self._journal.last_index:
            return False
        self.hold(peer_id, pb.Frame(timeout_now=pb.TimeoutNow(term=self.term)))
        return True

    def retire(self) -> None:
        """Lead no longer, in the same term; the follower that has most of the log is asked to stand at once."""
        self._enter()
        connected = self._SyncObj__connectedNodes
        match = self._SyncObj__raftMatchIndex
        heirs = [peer_id for peer_id, node in self._nodes.items() if node in connected]
        if self.is_leader and heirs:
            heir = max(heirs, key=lambda peer_id: (match.get(self._nodes[peer_id], 0), peer_id))
            # It depends on nothing that is not on disk, and so waits for nothing.
            self._send_frame(heir, pb.Frame(timeout_now=pb.TimeoutNow(term=self.term)))
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None
        self._pre_votes = None
        self._SyncObj__raftElectionDeadline = self._clock() + self._SyncObj__generateRaftTimeout()

    def receive(self, peer_id: int, frame: pb.Frame) -> bool:
        """Take a frame of Raft's own; return whether it was one."""
        handler = _HANDLERS.get(frame.WhichOneof("body") or "")
        if handler is None:
            return False
        node = self._nodes.get(peer_id)
        if node is not None:
            self._enter()
            handler(self, node, frame)
        return True

    def frame_of(self, message: dict[str, Any]) -> pb.Frame:
        """Return what PySyncObj wants sent, with what it does not know."""
        return frame_of(message, self.term, self._echoed_round, self._transfer)

    def hold(self, peer_id: int, frame: pb.Frame) -> None:
        """Send a frame as soon as everything before it is on disk."""
        self._held.append((peer_id, frame))

    def _enter(self) -> None:
        _Injected.clock = self._clock
        _Injected.journal = self._journal

    # Frames from peers.

    def _receive_append(self, node: _MemberNode, frame: pb.Frame) -> None:
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
        message = {
            "type": "append_entries",
            "term": request.term,
            "commit_index": request.commit_index,
            "entries": entries,
            "prevLogIdx": request.previous_index,
            "prevLogTerm": request.previous_term,
        }
        message, self._conflict = self._without_known_prefix(message)
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

    def _receive_acknowledgement(self, node: _MemberNode, frame: pb.Frame) -> None:
        reply = frame.acknowledgement
        if reply.term > self.term:
            self._step_down(reply.term)
        if not self._belongs_to_this_leadership(reply):
            return
        self.on_contact(node.id, reply.read_round)
        next_before = self._SyncObj__raftNextIndex[node]
        message = {
            "type": "next_node_idx",
            "next_node_idx": min(reply.next_index, self._journal.last_index + 1),
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
            next_index = min(reply.next_index, self._journal.last_index + 1)
            self._SyncObj__raftNextIndex[node] = next_index
            self._SyncObj__raftMatchIndex[node] = min(match, next_index - 1)
            self._floor[node.id] = next_index - 1
        if self._SyncObj__raftNextIndex[node] <= self._journal.last_index:
            self._send_append(node, news_only=True)

    def _belongs_to_this_leadership(self, reply: pb.Acknowledgement) -> bool:
        """Count no acknowledgement that was meant for another term (D6: the library's carry none)."""
        return self.is_leader and reply.term == self.term

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
        self._commit_told = 0
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
        self._commit_told = self.commit_index
        for node in self._nodes.values():
            if node in self._SyncObj__connectedNodes:
                self._send_append(node)

    def _send_append(self, node: _MemberNode, news_only: bool = False) -> None:
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

    def _SyncObj__applyLogEntries(self) -> bool:  # noqa: N802
        """Apply what is committed, for a bounded time (D10: an entry is applied once, whatever it holds)."""
        deadline = self._clock() + APPLY_SECONDS_MAX
        while self.applied_index < self.commit_index and self._clock() <= deadline:
            index = self.applied_index + 1
            command = self._journal[index - self._journal.base_index][0]
            self._SyncObj__raftLastApplied = index
            self._apply_entry(index, command[1:] if command[:1] == GROUP else b"")
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
