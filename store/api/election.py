"""v3electionpb.Election: elections for clients that do not want to play by the recipe themselves."""

from __future__ import annotations

from contextlib import aclosing

from proto.etcd import election_pb2 as pb
from proto.etcd import rpc_pb2
from proto.etcd.kv_pb2 import KeyValue
from proto.etcd.rpc_pb2 import ResponseHeader
from store.api.backend import decode
from store.api.errors import Code, EtcdError
from store.api.queues import Queues, codeless, created_at, end_of_prefix
from store.api.table import Call, ServiceTable, Stream, Streaming, Unary
from store.api.watch import WatchService
from store.mvcc.interval import Interval
from store.mvcc.store import Change

_NO_LEADER = "election: no leader"
_NOT_LEADER = "election: not leader"
_NO_LEADER_KEY = '"leader" field must be provided'


class ElectionService:
    """Elections: whose turn of a queue it is leads, and its key's value is what it proclaims."""

    def __init__(self, queues: Queues, watch: WatchService) -> None:
        self._queues = queues
        self._watch = watch

    def table(self) -> ServiceTable:
        """The methods of the service."""
        return {
            "/v3electionpb.Election/Campaign": Unary(self.campaign),
            "/v3electionpb.Election/Proclaim": Unary(self.proclaim),
            "/v3electionpb.Election/Leader": Unary(self.leader),
            "/v3electionpb.Election/Observe": Streaming(self.observe, client_streaming=False),
            "/v3electionpb.Election/Resign": Unary(self.resign),
        }

    async def campaign(self, body: bytes, call: Call) -> bytes:
        """Answer when the caller leads."""
        request = decode(pb.CampaignRequest, body)
        prefix = request.name + b"/"
        with codeless():
            lease_id = await self._queues.lease(request.lease, call)
            place = await self._queues.enter(prefix, lease_id, request.value, call)
            own = pb.LeaderKey(name=request.name, key=place.key, rev=place.rev, lease=lease_id)
            if place.value != request.value:
                await self._proclaim(own, request.value, call)
            await self._queues.wait_for_turn(prefix, place, call)
        return pb.CampaignResponse(header=place.header, leader=own).SerializeToString()

    async def proclaim(self, body: bytes, call: Call) -> bytes:
        """Set the leader's value anew."""
        request = decode(pb.ProclaimRequest, body)
        with codeless():
            header = await self._proclaim(self._given(request), request.value, call)
        return pb.ProclaimResponse(header=header).SerializeToString()

    async def resign(self, body: bytes, call: Call) -> bytes:
        """Give a leadership up; one that is lost already is no error."""
        own = self._given(decode(pb.ResignRequest, body))
        deletion = rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=own.key))
        request = rpc_pb2.TxnRequest(compare=[created_at(own.key, own.rev)], success=[deletion])
        with codeless():
            response = await self._queues.txn(request, call)
        return pb.ResignResponse(header=response.header).SerializeToString()

    async def leader(self, body: bytes, call: Call) -> bytes:
        """Tell who leads."""
        request = decode(pb.LeaderRequest, body)
        with codeless():
            header, found = await self._queues.first(request.name + b"/", call)
        if found is None:
            raise EtcdError(Code.UNKNOWN, _NO_LEADER)
        return pb.LeaderResponse(header=header, kv=found).SerializeToString()

    async def observe(self, stream: Stream, call: Call) -> None:
        """Send each leader and each of its proclamations, for ever."""
        request = decode(pb.LeaderRequest, await stream.read() or b"")
        prefix = request.name + b"/"
        while True:
            with codeless():
                header, found = await self._queues.first(prefix, call)
            if found is None:
                header, found = await self._first_put(prefix, header)
                if found is None:
                    continue
            await stream.write(pb.LeaderResponse(header=header, kv=found).SerializeToString())
            await self._follow(stream, header, found)

    async def _first_put(self, prefix: bytes, header: ResponseHeader) -> tuple[ResponseHeader, KeyValue | None]:
        """Wait until somebody takes a place in an empty queue."""
        everyone = Interval(prefix, end_of_prefix(prefix))
        async with aclosing(self._watch.follow(everyone, header.revision + 1)) as deliveries:
            async for delivery in deliveries:
                for change in delivery.changes:
                    if not change.is_delete:
                        return _told(header, change)
                if delivery.compact_revision:
                    break
        return header, None

    async def _follow(self, stream: Stream, header: ResponseHeader, leading: KeyValue) -> None:
        """Send what a leader proclaims until it leads no more."""
        key = Interval(leading.key, leading.key + b"\0")
        async with aclosing(self._watch.follow(key, header.revision + 1)) as deliveries:
            async for delivery in deliveries:
                for change in delivery.changes:
                    if change.is_delete:
                        return
                    told, kv = _told(header, change)
                    await stream.write(pb.LeaderResponse(header=told, kv=kv).SerializeToString())
                if delivery.compact_revision:
                    return

    async def _proclaim(self, own: pb.LeaderKey, value: bytes, call: Call) -> ResponseHeader:
        put = rpc_pb2.PutRequest(key=own.key, value=value, lease=own.lease)
        request = rpc_pb2.TxnRequest(
            compare=[created_at(own.key, own.rev)], success=[rpc_pb2.RequestOp(request_put=put)]
        )
        response = await self._queues.txn(request, call)
        if not response.succeeded:
            raise EtcdError(Code.UNKNOWN, _NOT_LEADER)
        return response.header

    @staticmethod
    def _given(request: pb.ProclaimRequest | pb.ResignRequest) -> pb.LeaderKey:
        if not request.HasField("leader"):
            raise EtcdError(Code.UNKNOWN, _NO_LEADER_KEY)
        return request.leader


def _told(header: ResponseHeader, change: Change) -> tuple[ResponseHeader, KeyValue]:
    told = ResponseHeader()
    told.CopyFrom(header)
    told.revision = change.main
    return told, KeyValue.FromString(change.record)
