"""One member without a world: frames, requests and time come in by calls, frames and results go out by calls.

Theory of operation. ``advance`` does all that can be done now: it makes groups of waiting requests, has the log on
disk, lets held frames go, commits, applies. The owner calls it after each batch of input and when ``next_deadline``
comes; a batch costs one sync, however many requests and frames it had. The asyncio shell (``driver``) and the tests'
simulator are the two owners.

A request walks: ``propose`` → ``Waiting`` (numbered, with a deadline) → the leader's ``Groups``, here or by a Forward
frame → one log entry → applied on every member; the member that numbered it answers from its own state. Until then it
is handed over again to each new leader: sessions let it take effect once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from google.protobuf.message import DecodeError

from proto.raft import command_pb2, membership_pb2
from proto.raft import message_pb2 as pb
from store.raft.changes import Changes, Health
from store.raft.consensus import COMMAND_BYTES_MAX, GROUP, RaftCore
from store.raft.contract import (
    DiskIsFullError,
    Done,
    MemberChange,
    MemberRecord,
    ProposalError,
    RequestTooLargeError,
    RunStateMachine,
    StateMachine,
    TooManyRequestsError,
)
from store.raft.disk import Disk
from store.raft.elections import Random, Timing
from store.raft.environment import Clock, Identity, Limits
from store.raft.installs import Installer, Sender
from store.raft.journal import Journal
from store.raft.members import check_same_members
from store.raft.membership import Membership, encode
from store.raft.proposals import Groups, Waiting
from store.raft.reads import Read, Reads
from store.raft.room import Room
from store.raft.sessions import Sessions, first_sequence
from store.raft.snapshots import Snapshots
from store.raft.states import StateKeeper
from store.raft.wal import CorruptWalError, Wal

logger = logging.getLogger(__name__)

ReadDone = Callable[[int | None], None]


class Replica:
    """One member of the cluster."""

    def __init__(
        self,
        identity: Identity,
        machine: StateMachine,
        disk: Disk,
        clock: Clock,
        random: Random,
        send: Callable[[int, pb.Frame], object],
        timing: Timing | None = None,
        limits: Limits | None = None,
        membership: Membership | None = None,
    ) -> None:
        """Recover from disk; ``membership`` is that of a new log, without it ``identity`` names the first voters."""
        self._limits = limits or Limits()
        if self._limits.group_bytes_max + self._limits.payload_bytes_max >= COMMAND_BYTES_MAX // 2:
            raise ValueError(f"a group and a request together must stay below {COMMAND_BYTES_MAX} bytes")
        self._clock = clock
        self._send = send
        self._machine = machine
        self._run = machine.apply_run if isinstance(machine, RunStateMachine) else self._one_by_one
        self._timing = timing or Timing()
        self.member_id = identity.member_id
        first = membership or Membership.of(map(MemberRecord, (identity.member_id, *identity.peer_ids)))
        self._sessions = Sessions()
        self._wal = Wal(disk, identity.cluster_id, identity.member_id, self._limits.segment_bytes)
        recovered = self._wal.open(
            encode(first), clock.time_ns() // 1_000_000_000, lambda names: check_same_members(names, first)
        )
        if recovered.cut_bytes:
            logger.warning("cut a torn tail of the log: bytes=%d", recovered.cut_bytes)
        self._journal = Journal(self._wal, recovered)
        snapshots = Snapshots(disk, identity.cluster_id)
        self._keeper = StateKeeper(machine, self._sessions, snapshots, self._journal, self._limits)
        snapshot = self._keeper.load_newest()
        if self._journal.base_index > (snapshot.index if snapshot else 1):
            raise CorruptWalError(disk, "", 0, f"no snapshot covers the entries up to {self._journal.base_index}")
        self.core = self._make_core(identity, random)
        if snapshot is not None:
            self.core.install(snapshot.index, snapshot.term, self._keeper.membership)
        self._health = Health(self._timing.election_s, self._limits.strict_reconfiguration)
        # Answers to what an earlier start of this member asked may still arrive.
        self.first_number = first_sequence(recovered.start)
        self._changes = Changes(self.core, self._health, self.first_number, self._send)
        self._members_told: tuple[MemberRecord, ...] = ()
        self._heir: tuple[int, float] | None = None
        self._sender = Sender(snapshots, self._timing.election_s, self.core.hold)
        self._installer = Installer(snapshots, self.core)
        self._waiting = Waiting(self.member_id, self.first_number)
        self._room = Room(self._journal, self.core, clock.monotonic)
        self._groups = Groups(self._limits.group_bytes_max, self._limits.queue_requests_max)
        self._reads = Reads()
        self._read_id = self.first_number
        self._confirming: set[int] = set()
        self._retried_at = 0.0
        self._read_commit = 0
        self._leadership = (0, 0)
        self._serving = False
        self.on_leadership: list[Callable[[bool, int], None]] = []
        self.on_applied: list[Callable[[int], None]] = []
        self.on_members: list[Callable[[], None]] = []
        """Called whenever other members are to be dialled, or a membership was applied."""

    def _make_core(self, identity: Identity, random: Random) -> RaftCore:
        core = RaftCore(
            identity.member_id,
            identity.peer_ids,
            self._journal,
            self._clock.monotonic,
            random,
            self._timing,
            self._send,
            self._apply,
        )
        core.on_contact = self._confirm_read
        core.on_behind = self._help_behind
        core.on_members_applied = self._members_applied
        return core

    @property
    def serving(self) -> bool:
        """Whether this member leads and knows all that was committed before its term."""
        return self._serving

    @property
    def is_full(self) -> bool:
        """Whether this member has no room for its log; it takes no part then, and goes on by itself."""
        return self._room.is_full

    # Members.

    @property
    def membership(self) -> Membership:
        """The membership as of the applied index."""
        return self.core.membership

    @property
    def contacts(self) -> tuple[MemberRecord, ...]:
        """All members that frames are exchanged with: those in effect, and those whose removal is not applied."""
        current = self._journal.memberships.current
        leaving = (one for one in self.membership.members if one.member_id not in current.ids)
        return tuple(sorted((*current.members, *leaving), key=lambda one: one.member_id))

    @property
    def removed(self) -> bool:
        """Whether this member has applied its own removal."""
        return self.member_id in self.membership.removed

    def change_members(self, change: MemberChange, done: Done) -> None:
        """Have the cluster carry out a change of membership; ``done`` gets all members after it, or why not."""
        self._changes.ask(change, self._deadline(), done)

    def _members_applied(self, entry: membership_pb2.MembershipEntry) -> None:
        self._changes.applied(entry)

    def _follow_members(self) -> None:
        """Tell of members that are new or gone; a leader that is itself removed hands on."""
        if not self.core.members_changed:
            return
        self.core.members_changed = False
        if self.core.is_leader and self.removed:
            logger.info("this member was removed and leads no longer: term=%d", self.core.term)
            self.core.step_aside()
        told = (*self.contacts, *self.membership.members)
        if told != self._members_told:
            self._members_told = told
            for callback in self.on_members:
                callback()

    # Requests of this member.

    @property
    def pending(self) -> int:
        """Requests of this member that have no result yet."""
        return len(self._waiting)

    def propose(self, payload: bytes, done: Done) -> None:
        """Have a request replicated; ``done`` gets the state machine's result, or the reason why there is none."""
        error: ProposalError | None = None
        if self.is_full:
            error = DiskIsFullError("no room for the log")
        elif len(payload) > self._limits.payload_bytes_max:
            error = RequestTooLargeError(f"request of {len(payload)} bytes, limit {self._limits.payload_bytes_max}")
        elif len(self._waiting) >= self._limits.queue_requests_max:
            error = TooManyRequestsError("too many requests wait")
        if error is not None:
            done(None, error)
            return
        self._waiting.add(payload, self._deadline(), done)

    def read_index(self, done: ReadDone) -> None:
        """Call ``done`` once everything is applied that was committed when this was called."""
        if len(self._reads) >= self._limits.queue_requests_max:
            done(None)
            return
        self._reads.add(Read(self._deadline(), done))

    def _deadline(self) -> float:
        return self._clock.monotonic() + self._limits.request_timeout_s

    def hand_leadership_on(self, peer_id: int | None = None) -> bool:
        """Ask a follower that has the whole log to lead, or a certain one; return whether it was asked."""
        candidates = [peer for peer in sorted(self.core.voters) if peer_id in (None, peer)]
        return self.core.is_leader and any(self.core.transfer_leadership(peer) for peer in candidates)

    def move_leadership(self, peer_id: int) -> None:
        """Have a certain voter lead: it gets the rest of the log, while requests wait, and is then asked to stand."""
        self._heir = (peer_id, self._clock.monotonic() + self._timing.election_s)

    def _make_heir_lead(self) -> None:
        if self._heir is None:
            return
        peer_id, until = self._heir
        if not self.core.is_leader or self._clock.monotonic() >= until or self.core.transfer_leadership(peer_id):
            self._heir = None

    # The owner's input.

    def connected(self, peer_id: int) -> None:
        """Take note that frames reach a peer; what it may have missed is sent again."""
        self.core.connected(peer_id)
        self._health.since[peer_id] = self._clock.monotonic()
        if peer_id == self.core.leader_id:
            self._waiting.send_again()
            self._reads.abandon()

    def disconnected(self, peer_id: int) -> None:
        """Take note that frames do not reach a peer."""
        self.core.disconnected(peer_id)
        self._health.since.pop(peer_id, None)

    def receive(self, peer_id: int, frame: pb.Frame) -> bool:
        """Take a frame from a peer; return whether ``advance`` has anything to do after it.

        An idle cluster's frames are heartbeats and acknowledgements of nothing new: they are answered here, and a pass
        is spared that would find nothing. What is due later has its deadline. A full member takes none at all.
        """
        if self.is_full:
            return False
        kind = frame.WhichOneof("body")
        if not self.core.receive(peer_id, frame):
            self._receive_own(peer_id, kind, frame)
        elif kind in ("append_entries", "acknowledgement") and self._is_quiet():
            self.core.sync()
            return False
        return True

    def _is_quiet(self) -> bool:
        core = self.core
        return (
            (core.leader_id, core.term) == self._leadership
            and core.applied_index == core.commit_index == self._journal.last_index
            and not (len(self._waiting) or len(self._reads) or self._groups.ready or self._keeper.writing)
            and self._heir is None
            and self._changes.next_deadline() == float("inf")
        )

    def _receive_own(self, peer_id: int, kind: str | None, frame: pb.Frame) -> None:
        if kind == "forward":
            if self.core.is_leader:
                for batch in frame.forward.batches:
                    self._groups.add(batch)
        elif kind == "read_request":
            if self.core.is_leader and len(self._reads) < self._limits.queue_requests_max:
                self._reads.add(self._remote_read(peer_id, frame.read_request.id))
        elif kind == "read_reply":
            if not self.core.is_leader and frame.read_reply.id == self._read_id:
                self._reads.confirm(frame.read_reply.id, frame.read_reply.index)
        elif kind == "snapshot_piece":
            self._installer.take(peer_id, frame.snapshot_piece, self._install)
        elif kind == "snapshot_progress":
            if self.core.is_leader and frame.snapshot_progress.term == self.core.term:
                self._sender.progress(peer_id, frame.snapshot_progress, self.core.term, self._clock.monotonic())
        elif kind == "change_request":
            self._changes.receive_request(peer_id, frame.change_request)
        elif kind == "change_reply":
            self._changes.receive_reply(peer_id, frame.change_reply)
        else:
            logger.warning("dropping a frame of an unknown kind from peer=%x", peer_id)

    def changes_nothing(self, peer_id: int, frame: pb.Frame) -> bool:
        """Tell whether a frame that was received leaves nothing to do: a late word on what is committed."""
        is_late = self.core.is_leader and self.core.match_index(peer_id) <= self.core.commit_index
        return is_late and not len(self._reads) and frame.WhichOneof("body") == "acknowledgement"

    def advance(self) -> None:
        """Do everything that can be done now."""
        if not self._room.ask():
            self._wait_for_room()
            return
        self._follow_leadership()
        self._begin_round()
        self._hand_over()
        self._make_groups()
        self.core.tick()
        if not self._room.ask():
            self._wait_for_room()
            return
        self._follow_leadership()
        self._groups.applied(self.core.applied_index)
        self._hand_over()
        self._make_groups()
        self._begin_round()
        self._reads.applied(self.core.applied_index)
        self._changes.advance(self._clock.monotonic(), self.core.leader_id, self._serving and self.core.is_leader)
        self._make_heir_lead()
        self._follow_members()
        self._keeper.advance(self.core.applied_index)
        now = self._clock.monotonic()
        self._waiting.expire(now)
        self._reads.expire(now)
        self.core.sync()

    def next_deadline(self) -> float:
        """Return when ``advance`` has something to do without further input."""
        now = self._clock.monotonic()
        if self.is_full:
            return min(self._room.next_deadline, self._waiting.next_deadline(), self._reads.next_deadline())
        if self._keeper.writing:
            return now + 0.001
        deadline = min(self.core.next_deadline(), self._waiting.next_deadline(), self._reads.next_deadline())
        deadline = min(deadline, self._changes.next_deadline())
        if self._reads.under_way or len(self._waiting):
            deadline = min(deadline, now + self._timing.election_s)
        return deadline

    def stop(self) -> None:
        """End what waits and close the log."""
        self._waiting.end()
        self._changes.end()
        self._reads.expire(float("inf"))
        self._keeper.abandon()
        self._wal.close()

    # Steps of ``advance``.

    def _wait_for_room(self) -> None:
        """Do the little that is left to a member that takes no part."""
        self._follow_leadership()
        now = self._clock.monotonic()
        self._changes.advance(now, 0, False)
        self._waiting.expire(now)
        self._reads.expire(float("inf"))  # another member can answer them

    def _follow_leadership(self) -> None:
        current = (self.core.leader_id, self.core.term)
        if current != self._leadership:
            self._leadership = current
            self._groups.clear()
            self._confirming.clear()
            self._reads.abandon()
            self._sender.clear()
            self._waiting.send_again()
        serving = self.core.is_leader and self.core.term_started
        if serving != self._serving:
            self._serving = serving
            logger.info("leadership: serving=%s term=%d", serving, self.core.term)
            for callback in self.on_leadership:
                callback(serving, self.core.term)

    def _hand_over(self) -> None:
        """Give waiting requests to the leader, which may be this member."""
        leader_id = self.core.leader_id
        now = self._clock.monotonic()
        if leader_id == 0:
            return
        if len(self._waiting):
            self._waiting_retry(now)
        while self._waiting.has_unsent and (leader_id != self.member_id or self._serving):
            batch = self._waiting.take_unsent(self._leadership, now, self._limits.group_bytes_max)
            if batch is None:
                return
            if leader_id == self.member_id:
                self._groups.add(batch)
            else:
                self._send(leader_id, pb.Frame(forward=pb.Forward(batches=[batch])))

    def _waiting_retry(self, now: float) -> None:
        if now - self._retried_at >= 2 * self._timing.election_s:
            self._retried_at = now
            self._waiting.send_again(self._leadership, now - 2 * self._timing.election_s)

    def _make_groups(self) -> None:
        while self._serving and self.core.is_leader and self._groups.ready and self._heir is None:
            batches = self._groups.take()
            now_ns = max(self._clock.time_ns(), self._sessions.now_ns)
            group = command_pb2.Group(now_ns=now_ns, batches=batches)
            self._groups.started(self.core.append(GROUP + group.SerializeToString()))

    def _begin_round(self) -> None:
        now = self._clock.monotonic()
        leader_id = self.core.leader_id
        if self.core.is_leader:
            if self._serving and self._reads.begin(self.core.read_round + 1, now):
                self.core.read_round += 1
                self._read_commit = self.core.commit_index
                self._confirming = set()
                self._check_round()
                if self._reads.under_way:
                    self.core.heartbeat()
        elif leader_id:
            if self._reads.under_way and now - self._reads.asked_at >= self._timing.election_s:
                self._reads.abandon()
            if self._reads.begin(self._read_id + 1, now):
                self._read_id += 1
                self._send(leader_id, pb.Frame(read_request=pb.ReadRequest(id=self._read_id)))

    def _confirm_read(self, peer_id: int, read_round: int) -> None:
        if self._reads.under_way and read_round >= self._reads.round:
            self._confirming.add(peer_id)
            self._check_round()

    def _check_round(self) -> None:
        if self.core.is_quorum(self._confirming):
            self._reads.confirm(self._reads.round, self._read_commit)

    def _remote_read(self, peer_id: int, read_id: int) -> Read:
        def done(index: int | None) -> None:
            if index is not None:
                self._send(peer_id, pb.Frame(read_reply=pb.ReadReply(id=read_id, index=index)))

        return Read(self._deadline(), done, remote=True)

    def _help_behind(self, peer_id: int) -> None:
        self._sender.help(peer_id, self.core.term, self._clock.monotonic())

    def _apply(self, index: int, command: bytes) -> None:
        """Apply one log entry; whatever it holds, the same happens on every member (D10)."""
        if command:
            try:
                group = command_pb2.Group.FromString(command)
            except DecodeError:
                logger.critical("a log entry does not decode: index=%d", index)
                group = command_pb2.Group()
            now_ns = self._sessions.advance(group.now_ns)
            for request in group.requests:
                self._apply_run(index, now_ns, request.member_id, request.sequence, [request.payload])
            for batch in group.batches:
                self._apply_run(index, now_ns, batch.member_id, batch.first_sequence, list(batch.payloads))
        for callback in self.on_applied:
            callback(index)

    def _apply_run(self, index: int, now_ns: int, member_id: int, first: int, payloads: list[bytes]) -> None:
        """Apply requests of one member whose numbers follow each other, each once."""
        sequences: Sequence[int] = range(first, first + len(payloads))
        if not self._sessions.admit_run(member_id, first, len(payloads)):
            admitted = [place for place, one in enumerate(sequences) if self._sessions.admit(member_id, one)]
            sequences = [sequences[place] for place in admitted]
            payloads = [payloads[place] for place in admitted]
        results = self._run(index, now_ns, payloads)
        if member_id != self.member_id:
            self.core.tell_commit_soon()
        else:
            for sequence, result in zip(sequences, results, strict=True):
                self._waiting.resolve(sequence, result)

    def _one_by_one(self, index: int, now_ns: int, payloads: Sequence[bytes]) -> list[object]:
        results: list[object] = []
        for payload in payloads:
            try:
                results.append(self._machine.apply(index, now_ns, payload))
            except Exception as error:
                # A bug, but the same one on every member: going on keeps them equal, stopping would stop them all.
                logger.exception("the state machine failed: index=%d", index)
                results.append(error)
        return results

    def _install(self) -> None:
        """Take up the newest snapshot, which has just come from the leader."""
        snapshot = self._keeper.load_newest()
        if snapshot is None:
            return
        self.core.install(snapshot.index, snapshot.term, self._keeper.membership)
        self._waiting.forget(lambda sequence: self._sessions.holds(self.member_id, sequence))
        for callback in self.on_applied:
            callback(snapshot.index)
