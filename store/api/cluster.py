"""etcdserverpb.Cluster: who the members are."""

from __future__ import annotations

import asyncio
import logging

from proto.etcd.rpc_pb2 import Member, MemberListRequest, MemberListResponse
from proto.raft.command_pb2 import InternalRequest, MemberAttributes
from store.api.backend import STORE_ITSELF, Backend, decode
from store.api.errors import EtcdError
from store.api.table import Call, ServiceTable, Unary

log = logging.getLogger(__name__)

_PUBLISH_RETRY_S = 0.5


class ClusterService:
    """The members of the cluster."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def table(self) -> ServiceTable:
        """The methods of the service."""
        return {"/etcdserverpb.Cluster/MemberList": Unary(self.member_list)}

    async def publish(self, name: str, client_urls: tuple[str, ...]) -> None:
        """Make this member's name and addresses known to all, as soon as there is a leader."""
        attributes = MemberAttributes(member_id=self._backend.consensus.member_id, name=name, client_urls=client_urls)
        while self._backend.machine.members.get(attributes.member_id) != attributes:
            try:
                await self._backend.propose(InternalRequest(member_attributes=attributes), STORE_ITSELF)
            except EtcdError as error:
                log.info("member not published yet reason=%s", error.text)
                await asyncio.sleep(_PUBLISH_RETRY_S)

    async def member_list(self, body: bytes, call: Call) -> bytes:
        """Name all members; linearizable on request."""
        request = decode(MemberListRequest, body)
        if request.linearizable:
            await self._backend.read_barrier()
        response = MemberListResponse(header=self._backend.header())
        for facts in self._backend.members:
            published = self._backend.machine.members.get(facts.member_id)
            member = Member(ID=facts.member_id, peerURLs=facts.peer_urls, isLearner=facts.is_learner)
            if published is not None:
                member.name = published.name
                member.clientURLs.extend(published.client_urls)
            response.members.append(member)
        return response.SerializeToString()
