"""Consensus as the store's services use it: a ``Replica`` in an event loop, with sockets, a clock and a disk.

All input of one pass of the loop (frames, proposals, a timer) is followed by one ``advance``, and so by at most one
sync. The sync is done in the loop's thread: while it sleeps, requests pile up and make the next group, which is both
simpler and, as measured, faster than a thread of its own.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

from proto.raft import membership_pb2
from proto.raft import message_pb2 as pb
from store.raft.contract import (
    ConsensusConfig,
    DiskIsFullError,
    Done,
    MemberChange,
    MemberRecord,
    MemberRemovedError,
    NoLeaderError,
    OutcomeUnknownError,
    ProposalError,
    StateMachine,
    TooManyRequestsError,
)
from store.raft.disk import Directory
from store.raft.elections import Timing
from store.raft.environment import Identity, Limits
from store.raft.members import check_name, first_membership
from store.raft.membership import to_message
from store.raft.replica import Replica
from store.raft.statistics import Statistics
from store.raft.transport import PeerNetwork

logger = logging.getLogger(__name__)

QUESTIONS_MAX = 10_000
_SOCKETS_FIRST_S = 0.001


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()

    def time_ns(self) -> int:
        """Return the wall clock."""
        return time.time_ns()


class RaftConsensus:
    """One member's view of the replicated log; implements ``contract.Consensus``."""

    def __init__(self, config: ConsensusConfig, machine: StateMachine, listener: socket.socket | None = None) -> None:
        self.member_id = config.member.member_id
        self._config = config
        self._listener = listener
        self._network = PeerNetwork(
            config, self._receive, self._connected, self._disconnected, self._tell_members, self._leave_for_good
        )
        self.statistics = Statistics()
        path = config.data_dir / "member" / "raft"
        self._directory = Directory(path, self.statistics, syncs=not config.unsafe_no_fsync)
        try:
            self._replica = self._open(machine)
        except BaseException:
            self._directory.close()
            raise
        self._replica.on_members.append(self._follow_members)
        self._follow_members()
        self._led_by = 0
        self._tasks = AsyncExitStack()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: asyncio.Future[None] | None = None
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._handler: Callable[[bytes], bytes] | None = None
        self._questions: dict[int, asyncio.Future[pb.Answer]] = {}
        self._question_id = self._replica.first_number
        self._stopped = False

    def _open(self, machine: StateMachine) -> Replica:
        config = self._config
        membership = first_membership(config)
        replica = Replica(
            Identity(config.cluster_id, self.member_id, tuple(peer.member_id for peer in config.peers)),
            machine,
            self._directory,
            SystemClock(),
            random.Random(random.SystemRandom().getrandbits(64)),
            self._network.send,
            Timing(config.heartbeat_interval_s, config.election_timeout_s),
            Limits(
                queue_requests_max=config.queue_requests_max,
                group_bytes_max=config.group_bytes_max,
                payload_bytes_max=config.payload_bytes_max,
                request_timeout_s=config.request_timeout_s,
                snapshot_entries=config.snapshot_entries,
                strict_reconfiguration=config.strict_reconfiguration,
            ),
            membership,
        )
        check_name(config.member.name, self.member_id, replica.membership)
        return replica

    @property
    def leader_id(self) -> int:
        """The known leader's member id, 0 for none."""
        return self._replica.core.leader_id

    @property
    def is_leader(self) -> bool:
        """Whether this member leads in the current term."""
        return self._replica.core.is_leader

    @property
    def term(self) -> int:
        """The current Raft term."""
        return self._replica.core.term

    @property
    def commit_index(self) -> int:
        """Highest index known to be committed."""
        return self._replica.core.commit_index

    @property
    def applied_index(self) -> int:
        """Highest index that the state machine has applied here."""
        return self._replica.core.applied_index

    @property
    def proposals_pending(self) -> int:
        """Proposals of this member that have no result yet."""
        return self._replica.pending

    async def start(self) -> None:
        """Listen for peers and take part in elections.

        A failure of the disk cancels the task that called this, and comes out of ``stop``.
        """
        self._loop = asyncio.get_running_loop()
        self._failure = self._loop.create_future()
        tasks = await self._tasks.enter_async_context(asyncio.TaskGroup())
        await self._network.start(tasks, self._listener)
        tasks.create_task(self._watch_failure(), name="consensus")
        self._soon()

    async def stop(self) -> None:
        """Leave cleanly; waiting proposals end with OutcomeUnknownError."""
        if self._stopped:
            return
        try:
            await self._hand_leadership_on()
        finally:
            self._stopped = True
            await self._close()

    async def _hand_leadership_on(self) -> None:
        """Have a follower lead before this member goes, so that nobody waits for an election timeout."""
        if self._failed() or not self._replica.hand_leadership_on():
            return
        lost = asyncio.Event()
        self._replica.on_leadership.append(lambda leads, _term: None if leads else lost.set())
        self._soon()
        try:
            async with asyncio.timeout(self._config.election_timeout_s):
                await lost.wait()
        except TimeoutError:
            logger.info("no follower took the leadership over")

    async def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._network.stop()
        for question in self._questions.values():
            if not question.done():
                question.set_exception(OutcomeUnknownError("this member stops"))
        if self._failure is not None and not self._failure.done():
            self._failure.cancel()
        try:
            self._replica.stop()
            await self._tasks.aclose()
        finally:
            self._directory.close()

    def _failed(self) -> bool:
        return self._failure is None or self._failure.done()

    async def propose(self, payload: bytes) -> object:
        """Replicate one request and return what the state machine answered on this member."""
        future: asyncio.Future[object] = self._running().create_future()
        self._replica.propose(payload, _into(future))
        self._soon()
        return await future

    @property
    def is_learner(self) -> bool:
        """Whether this member is a learner, as far as it has applied the log."""
        return self._is_learner

    def members(self) -> tuple[MemberRecord, ...]:
        """Return the members as of the applied index, by id."""
        return self._replica.membership.members

    async def change_members(self, change: MemberChange) -> tuple[MemberRecord, ...]:
        """Have the cluster carry out one change and return the members after it."""
        future: asyncio.Future[object] = self._running().create_future()
        self._replica.change_members(change, _into(future))
        self._soon()
        members = await future
        assert isinstance(members, tuple), "a change that is carried out is answered with the members"
        return members

    def propose_direct(self, payload: bytes, done: Done) -> None:
        """Do what ``propose`` does, without a task: ``done`` takes the result, or the reason why there is none.

        Raises NoLeaderError where the request was certainly not proposed.
        """
        self._running()
        self._replica.propose(payload, done)
        self._soon()

    def when_read_index(self, done: Callable[[int | None], None]) -> None:
        """Call back as soon as ``read_index`` would return, with None where it would raise."""
        if self._loop is None or self._stopped:
            done(None)
            return
        self._replica.read_index(done)
        self._soon()

    async def read_index(self) -> int:
        """Wait until this member has applied all that was committed when the call was made, and return that index."""
        loop = self._running()
        self._require_room()
        future: asyncio.Future[int] = loop.create_future()

        def done(index: int | None) -> None:
            if not future.done():
                if index is None:
                    future.set_exception(NoLeaderError("no leader confirmed the read in time"))
                else:
                    future.set_result(index)

        self._replica.read_index(done)
        self._soon()
        return await future

    async def ask_leader(self, body: bytes) -> bytes:
        """Have the leader's handler answer ``body``; raises NoLeaderError or OutcomeUnknownError."""
        deadline = time.monotonic() + self._config.request_timeout_s
        while True:
            answer = await self._ask_once(body, deadline)
            if answer is not None:
                return answer
            if time.monotonic() + self._config.heartbeat_interval_s >= deadline:
                raise NoLeaderError("no leader answered in time")
            await asyncio.sleep(self._config.heartbeat_interval_s)

    async def move_leader(self, member_id: int) -> None:
        """Have another voter lead, once it has the whole log."""
        loop = self._running()
        if not self.is_leader:
            raise NoLeaderError("this member does not lead")
        deadline = loop.time() + self._config.request_timeout_s
        asked_at = float("-inf")
        while self.leader_id != member_id:
            if loop.time() > deadline or self.leader_id not in (0, self.member_id, member_id):
                raise OutcomeUnknownError("the other member did not take the leadership over, or not in time")
            if loop.time() - asked_at > 2 * self._config.election_timeout_s:
                asked_at = loop.time()
                self._replica.move_leadership(member_id)
                self._soon()
            await asyncio.sleep(self._config.heartbeat_interval_s / 10)

    def handle_questions(self, handler: Callable[[bytes], bytes]) -> None:
        """Set what this member answers to ``ask_leader`` while it leads."""
        self._handler = handler

    def on_leadership(self, callback: Callable[[bool, int], None]) -> None:
        """Call back with (is_leader, term) when this member, as leader, begins or ceases to serve."""
        self._replica.on_leadership.append(callback)

    def on_applied(self, callback: Callable[[int], None]) -> None:
        """Call back with the applied index after each applied log entry."""
        self._replica.on_applied.append(callback)

    async def _ask_once(self, body: bytes, deadline: float) -> bytes | None:
        """Ask whoever leads now; None where it does not, or nobody."""
        loop = self._running()
        self._require_room()
        if self._replica.serving:
            own: asyncio.Future[bytes | None] = loop.create_future()
            self._answer_as_leader(body, lambda answer: None if own.done() else own.set_result(answer))
            return await own
        leader_id = self.leader_id
        if leader_id in (0, self.member_id):
            return None
        if len(self._questions) >= QUESTIONS_MAX:
            raise TooManyRequestsError("too many questions wait for the leader")
        self._question_id += 1
        question_id = self._question_id
        future = self._questions[question_id] = loop.create_future()
        try:
            if not self._network.send(leader_id, pb.Frame(question=pb.Question(id=question_id, body=body))):
                return None
            async with asyncio.timeout(max(deadline - time.monotonic(), 0.0)):
                answer = await future
        except TimeoutError as error:
            raise OutcomeUnknownError("the leader did not answer in time") from error
        finally:
            del self._questions[question_id]
        return None if answer.not_leader else answer.body

    # Members.

    def _follow_members(self) -> None:
        """Connect with the members that there are now; leave where this one is no member any more."""
        self._network.follow(self._replica.contacts, self._replica.membership.removed)
        own = self._replica.membership.get(self.member_id)
        self._is_learner = own is not None and own.is_learner
        if self._replica.removed and self._loop is not None:
            # Who removed this member through itself is to get an answer.
            self._loop.call_later(self._config.election_timeout_s, self._leave_for_good)

    def _leave_for_good(self) -> None:
        logger.warning("%s", MemberRemovedError())
        self._fail(MemberRemovedError())

    def _tell_members(self) -> pb.MembersReply:
        membership = to_message(self._replica.membership)
        return pb.MembersReply(cluster_id=self._config.cluster_id, membership=membership)

    # Input from peers.

    def _receive(self, peer_id: int, frame: pb.Frame) -> None:
        kind = frame.WhichOneof("body")
        if kind == "change_request" and not self._may_ask(peer_id, frame.change_request.change):
            logger.warning("dropping a name that is not the peer's own: peer=%x", peer_id)
            return
        if kind == "question":
            self._answer(peer_id, frame.question)
        elif kind == "answer":
            question = self._questions.get(frame.answer.id)
            if question is not None and not question.done():
                question.set_result(frame.answer)
        else:
            try:
                if not self._replica.receive(peer_id, frame):
                    return
            except Exception as error:  # noqa: BLE001 - whatever it is ends this member
                self._fail(error)
            if not self._replica.changes_nothing(peer_id, frame):
                self._soon()

    def _may_ask(self, peer_id: int, change: membership_pb2.MemberChange) -> bool:
        published = change.kind == membership_pb2.MemberChange.PUBLISH
        return not published or self._network.book.may_publish(peer_id, change.name)

    def _answer(self, peer_id: int, question: pb.Question) -> None:
        def answered(body: bytes | None) -> None:
            answer = pb.Answer(id=question.id, body=body or b"", not_leader=body is None)
            self._network.send(peer_id, pb.Frame(answer=answer))

        self._answer_as_leader(question.body, answered)

    def _answer_as_leader(self, body: bytes, answered: Callable[[bytes | None], None]) -> None:
        """Answer a question once a quorum has confirmed that this member leads; None where it does not.

        A leader that was cut off does not know that another one has taken over, and must promise nothing.
        """

        def confirmed(index: int | None) -> None:
            if index is None or not self._replica.serving or self._handler is None:
                answered(None)
                return
            try:
                answer = self._handler(body)
            except Exception:
                logger.exception("a question cannot be answered")
                answered(None)
            else:
                answered(answer)

        if not self._replica.serving or self._handler is None:
            answered(None)
            return
        self._replica.read_index(confirmed)
        self._soon()

    def _connected(self, peer_id: int) -> None:
        self._replica.connected(peer_id)
        self._soon()

    def _disconnected(self, peer_id: int) -> None:
        self._replica.disconnected(peer_id)
        self._soon()

    # The loop.

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None or self._stopped:
            raise NoLeaderError("this member does not run")
        return self._loop

    def _require_room(self) -> None:
        if self._replica.is_full:
            raise DiskIsFullError("no room for the log: this member hears of no leader")

    def _soon(self) -> None:
        if not self._scheduled and not self._stopped and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self._advance)

    def _count_leaders(self) -> None:
        leader_id = self.leader_id
        if leader_id != self._led_by:
            self._led_by = leader_id
            self.statistics.leader_changes += bool(leader_id)

    def _advance(self) -> None:
        self._scheduled = False
        if self._stopped or self._failed():
            return
        try:
            self._replica.advance()
            self._count_leaders()
            deadline = self._replica.next_deadline()
        except Exception as error:  # noqa: BLE001 - whatever it is ends this member
            self._fail(error)
            return
        now = time.monotonic()
        # A timer that comes too early costs one advance; moving it with every frame would cost more.
        if deadline < self._timer_at or self._timer is None:
            self._arm(deadline, now)

    def _arm(self, deadline: float, now: float) -> None:
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_later(max(deadline - now, 0.0), self._timer_due)

    def _timer_due(self) -> None:
        now = time.monotonic()
        late_s = now - self._timer_at
        self._timer = None
        self._timer_at = float("inf")
        if late_s > self._config.heartbeat_interval_s:
            # The process was held up, and timers run before sockets are read: what has arrived meanwhile comes first,
            # or a leader that was heard in time would be given up.
            self._arm(now + _SOCKETS_FIRST_S, now)
        else:
            self._advance()

    def _fail(self, error: Exception) -> None:
        # A disk that fails is no defect of ours, and its sentence says all.
        logger.critical("consensus cannot go on: %s", error, exc_info=not isinstance(error, OSError))
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)

    async def _watch_failure(self) -> None:
        assert self._failure is not None
        try:
            await self._failure
        except asyncio.CancelledError:
            if not self._stopped:
                raise


def _into(future: asyncio.Future[object]) -> Done:
    """Return what puts a result, or the reason why there is none, into a future."""

    def done(result: object, error: ProposalError | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    return done
