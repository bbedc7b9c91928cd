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
from proto.raft.command_pb2 import InternalRequest, LeaderRequest, LeaderResponse
from store.api.access import Access
from store.api.backend import STORE_ITSELF, Backend, decode
from store.api.errors import Code, EtcdError
from store.api.table import Call, ServiceTable, Stream, Streaming, Unary
from store.auth import Auth
from store.refusal import Refused

log = logging.getLogger(__name__)

_EXPIRY_INTERVAL_S = 0.5
_REVOKES_AT_ONCE_MAX = 500
"""With two looks a second this is etcd's thousand revocations a second."""


class LeaseService:
    """Leases and their time."""

    def __init__(self, backend: Backend, access: Access) -> None:
        self._backend = backend
        self._access = access

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
            if self._backend.consensus.is_leader:
                await self._backend.read_barrier()  # one that was cut off must not promise time
            asked = LeaderRequest(lease_keep_alive=request)
            answer = LeaderResponse.FromString(await self._backend.ask_leader(asked.SerializeToString()))
            response = LeaseKeepAliveResponse(header=header, ID=request.ID, TTL=answer.lease_keep_alive.TTL)
            await stream.write(response.SerializeToString())

    async def time_to_live(self, body: bytes, call: Call) -> bytes:
        """Tell how long a lease has, and its keys on request; -1 for one that is gone."""
        request = decode(LeaseTimeToLiveRequest, body)
        if request.keys:
            self._access.allowed(call, lambda auth, name: self._check_keys(auth, name, request.ID, writes=False))
        asked = LeaderRequest(lease_time_to_live=request)
        answer = LeaderResponse.FromString(await self._backend.ask_leader(asked.SerializeToString()))
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

    # The leader's side

    def answer(self, body: bytes) -> bytes:
        """Answer another member's question, or one of our own; runs at the leader."""
        request = LeaderRequest.FromString(body)
        lessor, now_s = self._backend.machine.lessor, self._backend.clock()
        response = LeaderResponse()
        if request.WhichOneof("request") == "lease_keep_alive":
            lease_id = request.lease_keep_alive.ID
            response.lease_keep_alive.ID = lease_id
            try:
                response.lease_keep_alive.TTL = lessor.renew(lease_id, now_s)
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

    def on_leadership(self, is_leader: bool, term: int) -> None:
        """Begin or stop to keep the leases' time."""
        if is_leader:
            log.info("lease clock started term=%d leases=%d", term, len(self._backend.machine.lessor))
            self._backend.machine.lessor.promote(self._backend.clock())
        else:
            self._backend.machine.lessor.demote()

    async def expire(self) -> None:
        """Revoke what has ended, while this member leads; runs as long as the member serves."""
        while True:
            await asyncio.sleep(_EXPIRY_INTERVAL_S)
            ended = self._backend.machine.lessor.expired(self._backend.clock(), _REVOKES_AT_ONCE_MAX)
            if not ended:
                continue
            try:
                # A leader that was cut off must not end leases that its successor has lengthened.
                await self._backend.read_barrier()
                if not self._backend.consensus.is_leader:
                    continue
                async with asyncio.TaskGroup() as revocations:
                    for lease_id in ended:
                        revocations.create_task(self._revoke_expired(lease_id))
            except EtcdError as error:
                log.warning("expired leases stay for now leases=%d reason=%s", len(ended), error.text)

    async def _revoke_expired(self, lease_id: int) -> None:
        try:
            await self._backend.propose(InternalRequest(lease_revoke=LeaseRevokeRequest(ID=lease_id)), STORE_ITSELF)
        except EtcdError as error:
            if error.code != Code.NOT_FOUND:
                log.warning("lease not revoked lease=%016x reason=%s", lease_id, error.text)
        else:
            log.debug("lease expired lease=%016x", lease_id)
