"""v3lockpb.Lock: locks for clients that do not want to play by the recipe themselves."""

from __future__ import annotations

from proto.etcd.lock_pb2 import LockRequest, LockResponse, UnlockRequest, UnlockResponse
from proto.etcd.rpc_pb2 import RangeRequest
from store.api.backend import decode
from store.api.errors import Code, EtcdError
from store.api.queues import Queues, codeless
from store.api.table import Call, ServiceTable, Unary

_SESSION_EXPIRED = "mutex: session is expired"


class LockService:
    """Locks, each the turn of a queue."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues

    def table(self) -> ServiceTable:
        """The methods of the service."""
        return {"/v3lockpb.Lock/Lock": Unary(self.lock), "/v3lockpb.Lock/Unlock": Unary(self.unlock)}

    async def lock(self, body: bytes, call: Call) -> bytes:
        """Answer when the caller owns the lock."""
        request = decode(LockRequest, body)
        prefix = request.name + b"/"
        with codeless():
            lease_id = await self._queues.lease(request.lease, call)
            place = await self._queues.enter(prefix, lease_id, b"", call)
            header = place.header
            if not place.has_turn:
                await self._queues.wait_for_turn(prefix, place, call)
                # The lease may have ended while everybody before went.
                own = await self._queues.range(RangeRequest(key=place.key), call)
                header = own.header
                if not own.kvs:
                    raise EtcdError(Code.UNKNOWN, _SESSION_EXPIRED)
        return LockResponse(header=header, key=place.key).SerializeToString()

    async def unlock(self, body: bytes, call: Call) -> bytes:
        """Give a lock up."""
        request = decode(UnlockRequest, body)
        with codeless():
            deleted = await self._queues.delete(request.key, call)
        return UnlockResponse(header=deleted.header).SerializeToString()
