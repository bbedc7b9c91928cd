"""etcdserverpb.Cluster: who the members are, and changes of that."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from proto.etcd.rpc_pb2 import (
    Member,
    MemberAddRequest,
    MemberAddResponse,
    MemberListRequest,
    MemberListResponse,
    MemberPromoteRequest,
    MemberPromoteResponse,
    MemberRemoveRequest,
    MemberRemoveResponse,
    MemberUpdateRequest,
    MemberUpdateResponse,
)
from store.api.access import Access
from store.api.backend import Backend, decode
from store.api.errors import EtcdError, Failure
from store.api.table import Call, ServiceTable, Unary
from store.raft.contract import ChangeKind, MemberChange, MemberRecord
from store.raft.members import member_id

log = logging.getLogger(__name__)

_PUBLISH_RETRY_S = 0.5


class ClusterService:
    """The members of the cluster."""

    def __init__(self, backend: Backend, access: Access, wall_clock: Callable[[], float] = time.time) -> None:
        self._backend = backend
        self._access = access
        self._wall_clock = wall_clock

    def table(self) -> ServiceTable:
        """The methods of the service."""
        return {
            "/etcdserverpb.Cluster/MemberAdd": Unary(self.member_add),
            "/etcdserverpb.Cluster/MemberRemove": Unary(self.member_remove),
            "/etcdserverpb.Cluster/MemberUpdate": Unary(self.member_update),
            "/etcdserverpb.Cluster/MemberList": Unary(self.member_list),
            "/etcdserverpb.Cluster/MemberPromote": Unary(self.member_promote),
        }

    async def publish(self, name: str, client_urls: tuple[str, ...]) -> None:
        """Make this member's name and addresses known to all, as soon as there is a leader."""
        own_id = self._backend.consensus.member_id
        change = MemberChange(ChangeKind.PUBLISH, own_id, name=name, client_urls=client_urls)
        while True:
            record = self._backend.own_record()
            if record is not None and (record.name, record.client_urls) == (name, client_urls):
                return
            try:
                await self._backend.change_members(change)
            except EtcdError as error:
                log.info("member not published yet reason=%s", error.text)
                await asyncio.sleep(_PUBLISH_RETRY_S)

    async def member_add(self, body: bytes, call: Call) -> bytes:
        """Add a voter or a learner, which may be started then."""
        request = decode(MemberAddRequest, body)
        peer_urls = _checked(request.peerURLs)
        self._access.admin(call)
        # As etcd has it, without the token: an id stands for an address and the second in which it was added.
        new_id = member_id(peer_urls, "", int(self._wall_clock()))
        change = MemberChange(ChangeKind.ADD, new_id, peer_urls=peer_urls, is_learner=request.isLearner)
        members = await self._backend.change_members(change)
        added = Member(ID=new_id, peerURLs=peer_urls, isLearner=request.isLearner)
        response = MemberAddResponse(header=self._backend.header(), member=added, members=_messages(members))
        return response.SerializeToString()

    async def member_remove(self, body: bytes, call: Call) -> bytes:
        """Remove a member for good."""
        request = decode(MemberRemoveRequest, body)
        self._access.admin(call)
        members = await self._backend.change_members(MemberChange(ChangeKind.REMOVE, request.ID))
        return MemberRemoveResponse(header=self._backend.header(), members=_messages(members)).SerializeToString()

    async def member_update(self, body: bytes, call: Call) -> bytes:
        """Give a member other peer addresses."""
        request = decode(MemberUpdateRequest, body)
        self._access.admin(call)
        change = MemberChange(ChangeKind.UPDATE, request.ID, peer_urls=_checked(request.peerURLs))
        members = await self._backend.change_members(change)
        return MemberUpdateResponse(header=self._backend.header(), members=_messages(members)).SerializeToString()

    async def member_promote(self, body: bytes, call: Call) -> bytes:
        """Make a learner a voter."""
        request = decode(MemberPromoteRequest, body)
        self._access.admin(call)
        members = await self._backend.change_members(MemberChange(ChangeKind.PROMOTE, request.ID))
        return MemberPromoteResponse(header=self._backend.header(), members=_messages(members)).SerializeToString()

    async def member_list(self, body: bytes, call: Call) -> bytes:
        """Name all members; linearizable on request."""
        request = decode(MemberListRequest, body)
        if request.linearizable:
            await self._backend.read_barrier()
        members = _messages(self._backend.consensus.members())
        return MemberListResponse(header=self._backend.header(), members=members).SerializeToString()


def _messages(members: Iterable[MemberRecord]) -> list[Member]:
    return [
        Member(
            ID=member.member_id,
            name=member.name,
            peerURLs=member.peer_urls,
            clientURLs=member.client_urls,
            isLearner=member.is_learner,
        )
        for member in members
    ]


def _checked(peer_urls: Iterable[str]) -> tuple[str, ...]:
    """Peer URLs in order, refused where one cannot be dialled."""
    urls = sorted(url.strip() for url in peer_urls)
    for url in urls:
        parts = urlsplit(url)
        try:
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port is not None
        except ValueError:
            usable = False
        if not usable or parts.path:
            raise Failure.MEMBER_BAD_URLS.error()
    if not urls:
        raise Failure.MEMBER_BAD_URLS.error()
    return tuple(urls)
