"""What the services share: the state machine, consensus, and the answers' header."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from proto.etcd.rpc_pb2 import AlarmRequest, AlarmType, PutResponse, ResponseHeader, ResponseOp, TxnResponse
from proto.raft.command_pb2 import InternalRequest
from store.api.counters import Counters
from store.api.errors import Code, EtcdError, Failure, of_refusal
from store.api.table import Call
from store.machine import Machine
from store.mvcc import txn
from store.mvcc.encoding import block, scalar, tag, varint
from store.mvcc.plain import GuardHeld
from store.raft.contract import (
    ChangeRefusedError,
    Consensus,
    DiskIsFullError,
    MemberChange,
    MemberRecord,
    NoLeaderError,
    OutcomeUnknownError,
    ProposalDroppedError,
    ProposalError,
    RequestTooLargeError,
    TooManyRequestsError,
)
from store.refusal import Refused

log = logging.getLogger(__name__)

MessageT = TypeVar("MessageT", bound=Message)

VERSION = "3.5.30"
"""The etcd version that Status names: one of those whose progress requests kube-apiserver relies on."""

_HEADER = tag(1, 2)
_CLUSTER_ID = tag(1, 0)
_MEMBER_ID = tag(2, 0)
_REVISION = tag(3, 0)
_RAFT_TERM = tag(4, 0)

_RETRY_FIRST_S = 0.02
_RETRY_LAST_S = 0.2
_SCRUB_KEYS = 1000
_SCRUB_INTERVAL_S = 1.0


@dataclass(frozen=True)
class Limits:
    """Bounds of what clients may ask."""

    request_timeout_s: float = 7.0
    """Waiting for consensus; etcd's 5 s and two election timeouts."""
    election_timeout_s: float = 1.0
    lease_ttl_min_s: int = 2
    """Shorter leases are lengthened to this: one and a half election timeouts, rounded up."""
    transaction_operations_max: int = txn.OPERATIONS_MAX
    request_bytes_max: int = 1_572_864
    quota_backend_bytes: int = 2 * 1024**3
    """From this size on writes are refused until space is made."""
    watch_progress_interval_s: float = 600.0
    token_lifetime_s: int = 300


@dataclass(frozen=True)
class Caller:
    """In whose name a request is made, and the revision of users and roles at which that was found out."""

    name: str = ""
    auth_revision: int = 0


STORE_ITSELF = Caller()


class Backend:
    """One member, as the services see it."""

    def __init__(
        self,
        machine: Machine,
        consensus: Consensus,
        cluster_id: int,
        limits: Limits = Limits(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.machine = machine
        self.consensus = consensus
        self.cluster_id = cluster_id
        self.limits = limits
        self.clock = clock
        self.counters = Counters()
        self.leader_is_lost = asyncio.Event()
        """Set while there has been no leader for three election timeouts."""
        self._encoded_for = -1
        self._identity = self._encoded_term = b""

    def header(self, revision: int | None = None) -> ResponseHeader:
        """The header of an answer as of now, or of the revision that it speaks of."""
        return ResponseHeader(
            cluster_id=self.cluster_id,
            member_id=self.consensus.member_id,
            revision=self.machine.store.current_revision if revision is None else revision,
            raft_term=self.consensus.term,
        )

    def encoded_header(self, revision: int) -> bytes:
        """What ``header`` gives, encoded as the first field of an answer."""
        term = self.consensus.term
        if term != self._encoded_for:
            self._encoded_for = term
            self._identity = scalar(_CLUSTER_ID, self.cluster_id) + scalar(_MEMBER_ID, self.consensus.member_id)
            self._encoded_term = scalar(_RAFT_TERM, term)
        return block(_HEADER, b"".join((self._identity, _REVISION, varint(revision), self._encoded_term)))

    def fill(self, header: ResponseHeader) -> None:
        """Complete the header of an answer of the state machine, which knows its revision alone."""
        header.cluster_id = self.cluster_id
        header.member_id = self.consensus.member_id
        header.raft_term = self.consensus.term
        if not header.revision:
            header.revision = self.machine.store.current_revision

    def is_learner(self) -> bool:
        """Whether this member does not vote."""
        own_id = self.consensus.member_id
        return any(one.is_learner for one in self.consensus.members() if one.member_id == own_id)

    def require_leader(self, call: Call) -> bool:
        """Refuse a client that asked for a member with a leader where there is none; return whether it asked."""
        if call.metadata.get("hasleader") != "true":
            return False
        if not self.consensus.leader_id:
            raise Failure.NO_LEADER.error()
        return True

    async def propose(self, request: InternalRequest, caller: Caller) -> Message:
        """Have a request carried out by the cluster in somebody's name and return its response."""
        if caller.name:
            request.username, request.auth_revision = caller.name, caller.auth_revision
        payload = request.SerializeToString()
        if len(payload) > self.limits.request_bytes_max:
            raise Failure.REQUEST_TOO_LARGE.error()
        try:
            result = await self._until_decided(lambda: self.consensus.propose(payload), on_full_disk=Failure.NO_SPACE)
        except EtcdError:
            self.counters.proposals_failed += 1
            raise
        if isinstance(result, int):
            return PutResponse(header=ResponseHeader(revision=result))
        if isinstance(result, GuardHeld):
            put = PutResponse(header=ResponseHeader(revision=result.revision))
            header = ResponseHeader(revision=result.revision)
            return TxnResponse(header=header, succeeded=True, responses=[ResponseOp(response_put=put)])
        if isinstance(result, Refused):
            raise of_refusal(result)
        assert isinstance(result, Message), "the state machine answers with a message or a refusal"
        return result

    async def change_members(self, change: MemberChange) -> tuple[MemberRecord, ...]:
        """Have the cluster carry out a change of membership and return the members after it."""
        try:
            members = await self._until_decided(lambda: self.consensus.change_members(change))
        except ChangeRefusedError as refused:
            raise Failure[refused.reason.name].error() from refused
        assert isinstance(members, tuple), "consensus answers a change with the members"
        return members

    def own_record(self) -> MemberRecord | None:
        """What the cluster knows of this member, None where it was removed or is not known yet."""
        own_id = self.consensus.member_id
        return next((one for one in self.consensus.members() if one.member_id == own_id), None)

    async def move_leader(self, member_id: int) -> None:
        """Have another voter lead; this member must lead now."""
        if not self.consensus.is_leader:
            raise Failure.NOT_LEADER.error()
        heir = next((one for one in self.consensus.members() if one.member_id == member_id), None)
        if heir is None or heir.is_learner:
            raise Failure.BAD_LEADER_TRANSFEREE.error()
        try:
            async with asyncio.timeout(self.limits.request_timeout_s):
                await self.consensus.move_leader(member_id)
        except (TimeoutError, ProposalError) as error:
            raise Failure.TIMEOUT_LEADER_TRANSFER.error() from error

    async def read_barrier(self) -> None:
        """Wait until what this member has applied is as new as anything acknowledged before the call."""
        try:
            await self._until_decided(self.consensus.read_index)
        except EtcdError:
            self.counters.read_indexes_failed += 1
            raise

    async def ask_leader(self, body: bytes) -> bytes:
        """Have the leader answer a question outside the log."""
        answer = await self._until_decided(lambda: self.consensus.ask_leader(body), is_repeatable=True)
        assert isinstance(answer, bytes), "leaders answer in bytes"
        return answer

    def has_room(self, added_bytes: int) -> bool:
        """Whether the store may grow by so much, and nothing else stands in the way of a write."""
        machine = self.machine
        return not machine.alarms and machine.store.size_bytes + added_bytes <= self.limits.quota_backend_bytes

    async def check_quota(self, added_bytes: int) -> None:
        """Refuse to grow past the quota, and have the whole cluster refuse from now on."""
        if self.machine.has_no_space:
            raise Failure.NO_SPACE.error()
        if self.machine.store.size_bytes + added_bytes <= self.limits.quota_backend_bytes:
            return
        alarm = AlarmRequest(action=AlarmRequest.ACTIVATE, memberID=self.consensus.member_id, alarm=AlarmType.NOSPACE)
        await self.propose(InternalRequest(alarm=alarm), STORE_ITSELF)
        raise Failure.NO_SPACE.error()

    async def scrub(self) -> None:
        """Free what compaction gave up, in steps between which requests are served."""
        while True:
            if not self.machine.store.scrub(_SCRUB_KEYS):
                return
            await asyncio.sleep(0)

    async def keep_scrubbing(self) -> None:
        """Scrub whenever there is something to free; runs as long as the member serves."""
        while True:
            await asyncio.sleep(_SCRUB_INTERVAL_S)
            await self.scrub()

    async def _until_decided(
        self,
        attempt: Callable[[], Awaitable[object]],
        *,
        is_repeatable: bool = False,
        on_full_disk: Failure = Failure.NO_LEADER,
    ) -> object:
        """Repeat what certainly had no effect until it has one or the time is over.

        A member whose disk is full takes no part in consensus: to write it has no space, to read it has no leader.
        """
        pause_s = _RETRY_FIRST_S
        failure: ProposalError | None = None
        try:
            async with asyncio.timeout(self.limits.request_timeout_s):
                while True:
                    failure = None
                    try:
                        return await attempt()
                    except RequestTooLargeError as error:
                        raise Failure.REQUEST_TOO_LARGE.error() from error
                    except TooManyRequestsError as error:
                        raise Failure.TOO_MANY_REQUESTS.error() from error
                    except DiskIsFullError as error:
                        raise on_full_disk.error() from error
                    except OutcomeUnknownError as error:
                        if not is_repeatable:
                            raise Failure.TIMEOUT.error() from error
                        failure = error
                    except (NoLeaderError, ProposalDroppedError) as error:
                        failure = error
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, _RETRY_LAST_S)
        except TimeoutError:
            if isinstance(failure, NoLeaderError):
                raise Failure.NO_LEADER.error() from failure
            raise Failure.TIMEOUT.error() from failure

    async def watch_leader(self) -> None:
        """Keep ``leader_is_lost`` true to the facts; runs as long as the member serves."""
        leaderless = 0
        while True:
            await asyncio.sleep(self.limits.election_timeout_s)
            leaderless = 0 if self.consensus.leader_id else leaderless + 1
            if leaderless >= 3:
                self.leader_is_lost.set()
            else:
                self.leader_is_lost.clear()


def error_of(error: ProposalError) -> EtcdError:
    """What a client is told of a request that came to no result in its whole time."""
    match error:
        case RequestTooLargeError():
            return Failure.REQUEST_TOO_LARGE.error()
        case TooManyRequestsError():
            return Failure.TOO_MANY_REQUESTS.error()
        case DiskIsFullError():
            return Failure.NO_SPACE.error()
        case NoLeaderError():
            return Failure.NO_LEADER.error()
        case _:
            return Failure.TIMEOUT.error()


def decode(kind: type[MessageT], body: bytes) -> MessageT:
    """The request in a body."""
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise EtcdError(Code.INTERNAL, f"grpc: error unmarshalling request: {error}") from error
