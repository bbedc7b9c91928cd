"""Consensus of one member: a proposal is applied at once, unless a test says otherwise."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from store.raft.contract import (
    ChangeKind,
    Done,
    MemberChange,
    MemberRecord,
    NoLeaderError,
    OutcomeUnknownError,
    ProposalDroppedError,
    RequestTooLargeError,
    StateMachine,
)
from store.raft.membership import Membership
from store.raft.statistics import Statistics


class LocalConsensus:
    """Interprets the contract of consensus without a log; ``has_leader`` and ``next_outcomes`` make it misbehave."""

    def __init__(
        self,
        machine: StateMachine,
        member_id: int = 1,
        payload_bytes_max: int = 1_600_000,
        membership: Membership | None = None,
    ) -> None:
        self.member_id = member_id
        self.membership = membership or Membership.of([MemberRecord(member_id)])
        self.statistics = Statistics()
        self.term = 2
        self.commit_index = 0
        self.applied_index = 0
        self.has_leader = True
        self.next_outcomes: list[str] = []
        """For the next proposals: "dropped", "unknown" (applied all the same) or "lost" (unknown and not applied)."""
        self._machine = machine
        self._payload_bytes_max = payload_bytes_max
        self._is_running = False
        self._questions: Callable[[bytes], bytes] | None = None
        self._leadership: list[Callable[[bool, int], None]] = []
        self._applied: list[Callable[[int], None]] = []

    @property
    def leader_id(self) -> int:
        return self.member_id if self.is_leader else 0

    @property
    def is_leader(self) -> bool:
        return self.has_leader and self._is_running

    @property
    def proposals_pending(self) -> int:
        return 0

    async def start(self) -> None:
        self._is_running = True
        for callback in self._leadership:
            callback(True, self.term)

    async def stop(self) -> None:
        self._is_running = False
        for callback in self._leadership:
            callback(False, self.term)

    def change_leader(self) -> None:
        """Lose leadership and win it again in a new term."""
        for is_leader in (False, True):
            self.term += is_leader
            for callback in self._leadership:
                callback(is_leader, self.term)

    async def propose(self, payload: bytes) -> object:
        await asyncio.sleep(0)
        return self._decide(payload)

    def propose_direct(self, payload: bytes, done: Done) -> None:
        try:
            done(self._decide(payload), None)
        except OutcomeUnknownError as error:
            done(None, error)

    def _decide(self, payload: bytes) -> object:
        if not self.is_leader:
            raise NoLeaderError
        if len(payload) > self._payload_bytes_max:
            raise RequestTooLargeError
        outcome = self.next_outcomes.pop(0) if self.next_outcomes else ""
        if outcome == "dropped":
            raise ProposalDroppedError
        if outcome == "lost":
            raise OutcomeUnknownError
        self.commit_index += 1
        result = self._machine.apply(self.commit_index, time.time_ns(), payload)
        self.applied_index = self.commit_index
        for callback in self._applied:
            callback(self.applied_index)
        if outcome == "unknown":
            raise OutcomeUnknownError
        return result

    @property
    def is_learner(self) -> bool:
        own = self.membership.get(self.member_id)
        return own is not None and own.is_learner

    def members(self) -> tuple[MemberRecord, ...]:
        return self.membership.members

    async def change_members(self, change: MemberChange) -> tuple[MemberRecord, ...]:
        await asyncio.sleep(0)
        if not self.is_leader:
            raise NoLeaderError
        self.commit_index += 1
        self.applied_index = self.commit_index
        self.membership = self.membership.changed(change, self.commit_index)
        if change.kind is ChangeKind.ADD and not change.is_learner:
            self.membership = self.membership.changed(
                MemberChange(ChangeKind.ADMIT, change.member_id), self.commit_index
            )
        return self.membership.members

    def when_read_index(self, done: Callable[[int | None], None]) -> None:
        done(self.applied_index if self.is_leader else None)

    async def read_index(self) -> int:
        await asyncio.sleep(0)
        if not self.is_leader:
            raise NoLeaderError
        return self.applied_index

    async def ask_leader(self, body: bytes) -> bytes:
        await asyncio.sleep(0)
        if not self.is_leader or self._questions is None:
            raise NoLeaderError
        return self._questions(body)

    async def move_leader(self, member_id: int) -> None:
        if not self.is_leader or member_id != self.member_id:
            raise NoLeaderError

    def handle_questions(self, handler: Callable[[bytes], bytes]) -> None:
        self._questions = handler

    def on_leadership(self, callback: Callable[[bool, int], None]) -> None:
        self._leadership.append(callback)

    def on_applied(self, callback: Callable[[int], None]) -> None:
        self._applied.append(callback)
