"""etcdserverpb.Cluster: who the members are."""

from __future__ import annotations

from proto.etcd.rpc_pb2 import Member, MemberListRequest, MemberListResponse
from store.api.backend import Backend, decode
from store.api.table import Call, ServiceTable, Unary


class ClusterService:
    """The members of the cluster."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def table(self) -> ServiceTable:
        """The methods of the service."""
        return {"/etcdserverpb.Cluster/MemberList": Unary(self.member_list)}

    async def member_list(self, body: bytes, call: Call) -> bytes:
        """Name all members; linearizable on request."""
        request = decode(MemberListRequest, body)
        if request.linearizable:
            await self._backend.read_barrier()
        response = MemberListResponse(header=self._backend.header())
        for facts in self._backend.members:
            response.members.append(
                Member(
                    ID=facts.member_id,
                    name=facts.name,
                    peerURLs=facts.peer_urls,
                    clientURLs=facts.client_urls,
                    isLearner=facts.is_learner,
                )
            )
        return response.SerializeToString()
