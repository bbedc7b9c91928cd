"""etcdserverpb.Lease: grant, revoke, keep alive, look at.

Only the leader knows how much time a lease has left, so that keep-alives and questions for the time go to it, past the
log: ``answer`` is the leader's side.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import cast

from proto.etcd.rpc_pb2 import (
    LeaseGrantRequest,
    LeaseGrantResponse,
    LeaseKeepAliveRequest,
    LeaseKeepAliveResponse,
    LeaseLeasesRequest,
    LeaseLeasesResponse,
    LeaseRevokeRequest,
    LeaseRevokeResponse,
    LeaseStatus,
    LeaseTimeToLiveRequest,
)
from proto.raft.command_pb2 import InternalRequest, LeaderRequest, LeaderResponse, LeaseClock
from store.api.access import Access
from store.api.backend import STORE_ITSELF, Backend, decode
from store.api.errors import Code, EtcdError, Failure
from store.api.table import Call, ServiceTable, Stream, Streaming, Unary
from store.auth import Auth
from store.refusal import Refused

log = logging.getLogger(__name__)

_EXPIRY_INTERVAL_S = 0.5
_CLOCK_RETRY_S = 0.01
_REVOKES_AT_ONCE_MAX = 500
"""With two looks a second this is etcd's thousand revocations a second."""


class LeaseService:
    """Leases and their time."""

    def __init__(self, backend: Backend, access: Access) -> None:
        self._backend = backend
        self._access = access
        self._term = 0
        self._new_term = asyncio.Event()

    def table(self) -> ServiceTable:
        """The methods of the service."""
        return {
            "/etcdserverpb.Lease/LeaseGrant": Unary(self.grant),
            "/etcdserverpb.Lease/LeaseRevoke": Unary(self.revoke),
            "/etcdserverpb.Lease/LeaseKeepAlive": Streaming(self.keep_alive),
            "/etcdserverpb.Lease/LeaseTimeToLive": Unary(self.time_to_live),
            "/etcdserverpb.Lease/LeaseLeases": Unary(self.leases),
        }

    async def grant(self, body: bytes, call: Call) -> bytes:
        """Make a lease; its id is chosen here unless the client did."""
        request = decode(LeaseGrantRequest, body)
        while not request.ID:
            request.ID = secrets.randbits(63)
        request.TTL = max(request.TTL, self._backend.limits.lease_ttl_min_s)
        caller = self._access.known(call)
        await self._backend.check_quota(0)
        response = cast(LeaseGrantResponse, await self._backend.propose(InternalRequest(lease_grant=request), caller))
        self._backend.fill(response.header)
        return response.SerializeToString()

    async def revoke(self, body: bytes, call: Call) -> bytes:
        """End a lease and delete its keys."""
        request = decode(LeaseRevokeRequest, body)
        caller = self._access.allowed(call, lambda auth, name: self._check_keys(auth, name, request.ID))
        response = cast(LeaseRevokeResponse, await self._backend.propose(InternalRequest(lease_revoke=request), caller))
        self._backend.fill(response.header)
        return response.SerializeToString()

    async def keep_alive(self, stream: Stream, call: Call) -> None:
        """Renew leases as the client asks; a lease that is gone is answered with a TTL of zero."""
        while (body := await stream.read()) is not None:
            request = decode(LeaseKeepAliveRequest, body)
            self._access.known(call)
            # Made before the renewal: the client must not see a revision at which the lease was gone already.
            header = self._backend.header()
            answer = await self._ask(LeaderRequest(lease_keep_alive=request))
            response = LeaseKeepAliveResponse(header=header, ID=request.ID, TTL=answer.lease_keep_alive.TTL)
            await stream.write(response.SerializeToString())

    async def time_to_live(self, body: bytes, call: Call) -> bytes:
        """Tell how long a lease has, and its keys on request; -1 for one that is gone."""
        request = decode(LeaseTimeToLiveRequest, body)
        if request.keys:
            self._access.allowed(call, lambda auth, name: self._check_keys(auth, name, request.ID, writes=False))
        answer = await self._ask(LeaderRequest(lease_time_to_live=request))
        response = answer.lease_time_to_live
        response.header.CopyFrom(self._backend.header())
        return response.SerializeToString()

    async def leases(self, body: bytes, call: Call) -> bytes:
        """Name all leases."""
        decode(LeaseLeasesRequest, body)
        self._access.known(call)
        await self._backend.read_barrier()
        found = self._backend.machine.lessor.by_remaining_time(self._backend.clock())
        leases = [LeaseStatus(ID=lease.lease_id) for lease in found]
        return LeaseLeasesResponse(header=self._backend.header(), leases=leases).SerializeToString()

    def _check_keys(self, auth: Auth, name: str, lease_id: int, *, writes: bool = True) -> None:
        """Refuse who has no right to every key of a lease."""
        for key in self._backend.machine.keys_of_lease(lease_id):
            if writes:
                auth.check_write(name, key)
            else:
                auth.check_read(name, key, b"")

    async def _ask(self, question: LeaderRequest) -> LeaderResponse:
        """Have the leader answer, as soon as it keeps the time."""
        deadline = asyncio.get_running_loop().time() + self._backend.limits.request_timeout_s
        while True:
            answer = LeaderResponse.FromString(await self._backend.ask_leader(question.SerializeToString()))
            if answer.WhichOneof("response") is not None:
                return answer
            if asyncio.get_running_loop().time() >= deadline:
                raise Failure.TIMEOUT.error()
            await asyncio.sleep(_CLOCK_RETRY_S)

    # The leader's side

    def answer(self, body: bytes) -> bytes:
        """Answer another member's question, or one of our own; runs at the leader.

        The answer is empty until all members know that this one keeps the time: before that, an earlier leader's
        revocation could still end a lease that this one had lengthened.
        """
        if not self._keeps_clock():
            return b""
        request = LeaderRequest.FromString(body)
        lessor, now_s = self._backend.machine.lessor, self._backend.clock()
        response = LeaderResponse()
        if request.WhichOneof("request") == "lease_keep_alive":
            lease_id = request.lease_keep_alive.ID
            response.lease_keep_alive.ID = lease_id
            try:
                response.lease_keep_alive.TTL = lessor.renew(lease_id, now_s)
                self._backend.counters.leases_renewed += 1
            except Refused:
                response.lease_keep_alive.TTL = 0
            return response.SerializeToString()
        question = request.lease_time_to_live
        found = response.lease_time_to_live
        found.ID = question.ID
        lease = lessor.get(question.ID)
        if lease is None:
            found.TTL = -1
        else:
            found.TTL = int(lessor.remaining_s(question.ID, now_s))
            found.grantedTTL = lease.ttl_s
            if question.keys:
                found.keys.extend(sorted(lease.keys))
        return response.SerializeToString()

    def _keeps_clock(self) -> bool:
        return self._backend.machine.lessor.term >= self._term

    def on_leadership(self, is_leader: bool, term: int) -> None:
        """Begin or stop to keep the leases' time."""
        self._term = term
        if is_leader:
            log.info("lease clock started term=%d leases=%d", term, len(self._backend.machine.lessor))
            self._backend.machine.lessor.promote(self._backend.clock())
            self._new_term.set()
        else:
            self._backend.machine.lessor.demote()

    async def keep_clock(self) -> None:
        """Say in the log that this member keeps the time whenever it begins to; runs as long as the member serves."""
        while True:
            await self._new_term.wait()
            self._new_term.clear()
            try:
                await self._begin_term(self._term)
            except EtcdError as error:
                log.info("lease clock not announced yet term=%d reason=%s", self._term, error.text)
                if self._backend.consensus.is_leader:
                    self._new_term.set()
                    await asyncio.sleep(_EXPIRY_INTERVAL_S)

    async def _begin_term(self, term: int) -> None:
        if not self._keeps_clock():
            await self._backend.propose(InternalRequest(lease_clock=LeaseClock(term=term)), STORE_ITSELF)

    async def expire(self) -> None:
        """Revoke what has ended, while this member leads; runs as long as the member serves."""
        while True:
            await asyncio.sleep(_EXPIRY_INTERVAL_S)
            term = self._term
            if not self._backend.consensus.is_leader or not self._keeps_clock():
                continue
            ended = self._backend.machine.lessor.expired(self._backend.clock(), _REVOKES_AT_ONCE_MAX)
            async with asyncio.TaskGroup() as revocations:
                for lease_id in ended:
                    revocations.create_task(self._revoke_expired(lease_id, term))

    async def _revoke_expired(self, lease_id: int, term: int) -> None:
        revocation = InternalRequest(lease_revoke=LeaseRevokeRequest(ID=lease_id), lease_term=term)
        try:
            await self._backend.propose(revocation, STORE_ITSELF)
        except EtcdError as error:
            if error.code != Code.NOT_FOUND:
                log.warning("lease not revoked lease=%016x reason=%s", lease_id, error.text)
        else:
            self._backend.counters.leases_expired += 1
            log.debug("lease expired lease=%016x", lease_id)
