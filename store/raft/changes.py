"""Changes of membership on their way: those that this member asked for, and at the leader those that wait for a turn.

A change is handed to the leader once. The leader checks it, adds it to its log when the one before is applied, and
refuses by a reply; whoever asked learns of success by applying the entry. What becomes of a change whose leader is
gone nobody can say, so nothing is asked twice: adding a member twice would be two different things.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from proto.raft import membership_pb2
from proto.raft import message_pb2 as pb
from store.raft.consensus import RaftCore
from store.raft.contract import (
    ChangeKind,
    ChangeRefusal,
    ChangeRefusedError,
    Done,
    MemberChange,
    NoLeaderError,
    OutcomeUnknownError,
    TooManyRequestsError,
)
from store.raft.membership import Membership, change_from_message, change_to_message

logger = logging.getLogger(__name__)

CHANGES_MAX = 64
"""Changes that wait, here for a result or at the leader for their turn."""
ADMISSION_LAG_ENTRIES = 64
"""A joining member gets its vote when it lacks no more than so much of the log."""
READY_PART = 0.9
"""A learner may be promoted when it has so much of the log."""
HEALTHY_AFTER_ELECTIONS = 5
"""A member counts as healthy when it has been connected for so many election timeouts, and at most this time."""
HEALTHY_AFTER_MAX_S = 5.0


@dataclass
class _Waiting:
    change: MemberChange
    deadline: float
    done: Done
    sent_to: tuple[int, int] | None = None
    """The leader and term that it was handed to."""


@dataclass(frozen=True)
class _Turn:
    change: MemberChange
    origin_id: int
    sequence: int


@dataclass
class Health:
    """How long peers have been connected to this member, and whether that decides over changes."""

    election_s: float
    strict: bool = False
    since: dict[int, float] = field(default_factory=dict)

    def check(self, change: MemberChange, membership: Membership, own_id: int, now: float) -> None:
        """Raise ChangeRefusedError where a change would put the cluster at risk, as etcd's strict check does."""
        if not self.strict:
            return
        voters = [one for one in membership.members if not one.is_learner]
        started = {one.member_id for one in voters if one.name}
        healthy = {one.member_id for one in voters if one.member_id == own_id or self._is_healthy(one.member_id, now)}
        if change.kind is ChangeKind.ADD and not change.is_learner:
            first = len(voters) == 1 and len(started) == 1
            if not first and len(started) < (len(voters) + 1) // 2 + 1:
                raise ChangeRefusedError(ChangeRefusal.MEMBER_NOT_ENOUGH_STARTED)
        elif change.kind is ChangeKind.PROMOTE:
            if len(started) + 1 < (len(voters) + 1) // 2 + 1:
                raise ChangeRefusedError(ChangeRefusal.MEMBER_NOT_ENOUGH_STARTED)
        elif change.kind is ChangeKind.REMOVE:
            self._check_removal(change.member_id, membership, started, len(healthy), own_id)
        if change.kind is ChangeKind.ADD and len(healthy) < len(voters):
            raise ChangeRefusedError(ChangeRefusal.UNHEALTHY)

    def _check_removal(
        self, member_id: int, membership: Membership, started: set[int], healthy: int, own_id: int
    ) -> None:
        record = membership.get(member_id)
        if record is not None and record.is_learner:
            return
        voters = sum(not one.is_learner for one in membership.members)
        rest = voters - (record is not None)
        if len(started - {member_id}) < rest // 2 + 1:
            raise ChangeRefusedError(ChangeRefusal.MEMBER_NOT_ENOUGH_STARTED)
        if member_id != own_id and member_id not in self.since:
            return
        if healthy - 1 < 1 + (voters - 1) // 2:
            raise ChangeRefusedError(ChangeRefusal.UNHEALTHY)

    def _is_healthy(self, member_id: int, now: float) -> bool:
        wanted_s = min(HEALTHY_AFTER_ELECTIONS * self.election_s, HEALTHY_AFTER_MAX_S)
        return now - self.since.get(member_id, now) >= wanted_s


class Changes:
    """The changes of membership that concern this member."""

    def __init__(
        self, core: RaftCore, health: Health, first_sequence: int, send: Callable[[int, pb.Frame], object]
    ) -> None:
        self._core = core
        self._health = health
        self._send = send
        self._next = first_sequence
        self._waiting: dict[int, _Waiting] = {}
        self._turns: deque[_Turn] = deque()
        self._leadership = (0, 0)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._turns)

    def ask(self, change: MemberChange, deadline: float, done: Done) -> None:
        """Have the cluster carry out a change; ``done`` gets the members after it, or why there are none."""
        if len(self._waiting) >= CHANGES_MAX:
            done(None, TooManyRequestsError("too many changes of membership wait"))
            return
        self._waiting[self._next] = _Waiting(change, deadline, done)
        self._next += 1

    def receive_request(self, peer_id: int, request: pb.ChangeRequest) -> None:
        """Take a change that another member asks this one, as its leader, to carry out."""
        try:
            change = change_from_message(request.change)
        except ValueError:
            logger.warning("dropping a change of an unknown kind from peer=%x", peer_id)
            return
        if not self._core.is_leader or len(self._turns) >= CHANGES_MAX:
            self._refuse(peer_id, request.sequence, None)
        elif change.kind is ChangeKind.PUBLISH and change.member_id != peer_id:
            logger.warning("dropping what peer=%x publishes of another member", peer_id)
        elif change.kind is not ChangeKind.ADMIT:
            self._turns.append(_Turn(change, peer_id, request.sequence))

    def receive_reply(self, peer_id: int, reply: pb.ChangeReply) -> None:
        """Take the leader's refusal."""
        waiting = self._waiting.get(reply.sequence)
        if waiting is None or waiting.sent_to is None or waiting.sent_to[0] != peer_id:
            return
        if not reply.refusal:
            waiting.sent_to = None  # it does not lead, and nothing has happened
        elif reply.refusal in ChangeRefusal.__members__:
            del self._waiting[reply.sequence]
            waiting.done(None, ChangeRefusedError(ChangeRefusal[reply.refusal]))

    def applied(self, entry: membership_pb2.MembershipEntry) -> None:
        """Tell who asked here for a change that is now applied."""
        if entry.origin_id == self._core.member_id:
            waiting = self._waiting.pop(entry.sequence, None)
            if waiting is not None:
                waiting.done(self._core.membership.members, None)

    def advance(self, now: float, leader_id: int, serving: bool) -> None:
        """Hand over what waits, and carry out what has its turn."""
        self._follow(leader_id)
        if leader_id and (serving or leader_id != self._core.member_id):
            for sequence, waiting in list(self._waiting.items()):
                if waiting.sent_to is None:
                    waiting.sent_to = self._leadership
                    self._hand_over(leader_id, sequence, waiting)
        if serving:
            self._admit_joining()
            while self._turns and self._core.change_is_possible:
                self._carry_out(self._turns.popleft(), now)
        for sequence, waiting in list(self._waiting.items()):
            if waiting.deadline <= now:
                del self._waiting[sequence]
                if waiting.sent_to is None:
                    waiting.done(None, NoLeaderError("no leader was found in time"))
                else:
                    waiting.done(None, OutcomeUnknownError("no result in time"))

    def next_deadline(self) -> float:
        """Return when the first change gives up."""
        return min((waiting.deadline for waiting in self._waiting.values()), default=float("inf"))

    def end(self) -> None:
        """End everything: this member stops."""
        self.advance(float("inf"), 0, serving=False)

    def _follow(self, leader_id: int) -> None:
        leadership = (leader_id, self._core.term)
        if leadership == self._leadership:
            return
        self._leadership = leadership
        self._turns.clear()
        for sequence, waiting in list(self._waiting.items()):
            if waiting.sent_to is not None:
                del self._waiting[sequence]
                waiting.done(None, OutcomeUnknownError("the leader changed"))

    def _hand_over(self, leader_id: int, sequence: int, waiting: _Waiting) -> None:
        if leader_id == self._core.member_id:
            self._turns.append(_Turn(waiting.change, leader_id, sequence))
        else:
            request = pb.ChangeRequest(sequence=sequence, change=change_to_message(waiting.change))
            self._send(leader_id, pb.Frame(change_request=request))

    def _admit_joining(self) -> None:
        """Give a vote to a member that was added and has the log by now."""
        for member_id in self._core.joining:
            match = self._core.match_index(member_id)
            ready = match > 0 and self._core.last_index - match <= ADMISSION_LAG_ENTRIES
            if ready and self._core.change_is_possible:
                logger.info("admitting a member: member=%x", member_id)
                self._core.append_change(MemberChange(ChangeKind.ADMIT, member_id))

    def _carry_out(self, turn: _Turn, now: float) -> None:
        change = turn.change
        try:
            if change.kind is ChangeKind.PROMOTE:
                self._check_ready(change.member_id)
            self._health.check(change, self._core.membership, self._core.member_id, now)
            self._core.append_change(change, turn.origin_id, turn.sequence)
        except ChangeRefusedError as refused:
            logger.info("refusing a change of membership: kind=%s reason=%s", change.kind.name, refused.reason.name)
            self._refuse(turn.origin_id, turn.sequence, refused.reason)
        else:
            logger.info("changing the membership: kind=%s member=%x", change.kind.name, change.member_id)

    def _check_ready(self, member_id: int) -> None:
        if member_id not in self._core.membership.ids:
            raise ChangeRefusedError(ChangeRefusal.MEMBER_NOT_FOUND)
        match = self._core.last_index if member_id == self._core.member_id else self._core.match_index(member_id)
        if match < READY_PART * self._core.last_index:
            raise ChangeRefusedError(ChangeRefusal.LEARNER_NOT_READY)

    def _refuse(self, origin_id: int, sequence: int, reason: ChangeRefusal | None) -> None:
        if origin_id != self._core.member_id:
            reply = pb.ChangeReply(sequence=sequence, refusal=reason.name if reason is not None else "")
            self._send(origin_id, pb.Frame(change_reply=reply))
            return
        waiting = self._waiting.pop(sequence, None)
        if waiting is not None:
            assert reason is not None, "a leader asks itself only while it leads"
            waiting.done(None, ChangeRefusedError(reason))
