"""etcdserverpb.KV: ranges, puts, deletions, transactions, compaction."""

from __future__ import annotations

from typing import cast

from proto.etcd.rpc_pb2 import (
    CompactionRequest,
    CompactionResponse,
    DeleteRangeRequest,
    DeleteRangeResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    TxnRequest,
    TxnResponse,
)
from proto.raft.command_pb2 import InternalRequest
from store.api.access import Access
from store.api.backend import Backend, decode
from store.api.direct import DirectKV, encode_range
from store.api.errors import of_refusal
from store.api.table import Call, ServiceTable, Unary
from store.mvcc import txn
from store.refusal import Refused


class KVService:
    """The key space, to read and to change."""

    def __init__(self, backend: Backend, access: Access) -> None:
        self._backend = backend
        self._access = access
        self._direct = DirectKV(backend)

    def table(self) -> ServiceTable:
        """The methods of the service."""
        return {
            "/etcdserverpb.KV/Range": Unary(self.range, self._direct.range),
            "/etcdserverpb.KV/Put": Unary(self.put, self._direct.put),
            "/etcdserverpb.KV/DeleteRange": Unary(self.delete_range),
            "/etcdserverpb.KV/Txn": Unary(self.txn, self._direct.txn),
            "/etcdserverpb.KV/Compact": Unary(self.compact),
        }

    async def range(self, body: bytes, call: Call) -> bytes:
        """Read keys, as of now or of a revision; the answer is joined from finished records."""
        request = decode(RangeRequest, body)
        try:
            txn.check_range(request)
            if not request.serializable:
                await self._backend.read_barrier()
            self._access.allowed(call, lambda auth, name: auth.check_read(name, request.key, request.range_end))
            result = self._backend.machine.store.range(request)
        except Refused as refused:
            raise of_refusal(refused) from refused
        return encode_range(self._backend, result)

    async def put(self, body: bytes, call: Call) -> bytes:
        """Set one key."""
        request = decode(PutRequest, body)
        try:
            txn.check_put(request)
        except Refused as refused:
            raise of_refusal(refused) from refused
        keys = self._backend.machine.keys_of_lease(request.lease)
        caller = self._access.allowed(call, lambda auth, name: auth.check_put(name, request, keys))
        await self._backend.check_quota(len(request.key) + len(request.value))
        response = cast(PutResponse, await self._backend.propose(InternalRequest(put=request), caller))
        self._backend.fill(response.header)
        return response.SerializeToString()

    async def delete_range(self, body: bytes, call: Call) -> bytes:
        """Delete keys."""
        request = decode(DeleteRangeRequest, body)
        try:
            txn.check_delete_range(request)
        except Refused as refused:
            raise of_refusal(refused) from refused
        caller = self._access.allowed(call, lambda auth, name: auth.check_delete_range(name, request))
        response = cast(DeleteRangeResponse, await self._backend.propose(InternalRequest(delete_range=request), caller))
        self._backend.fill(response.header)
        return response.SerializeToString()

    async def txn(self, body: bytes, call: Call) -> bytes:
        """Compare, then do one thing or another, all at one revision; what only reads does not go through the log."""
        request = decode(TxnRequest, body)
        try:
            txn.check_txn(request, self._backend.limits.transaction_operations_max)
            is_read_only = txn.is_read_only(request)
            if is_read_only and not txn.is_serializable(request):
                await self._backend.read_barrier()
            keys_of_lease = self._backend.machine.keys_of_lease
            caller = self._access.allowed(call, lambda auth, name: auth.check_txn(name, request, keys_of_lease))
            if is_read_only:
                response = self._backend.machine.read_txn(request)
            else:
                if txn.grows(request):
                    await self._backend.check_quota(len(body))
                response = cast(TxnResponse, await self._backend.propose(InternalRequest(txn=request), caller))
        except Refused as refused:
            raise of_refusal(refused) from refused
        self._backend.fill(response.header)
        return response.SerializeToString()

    async def compact(self, body: bytes, call: Call) -> bytes:
        """Give up history below a revision; physical compaction waits until the space is free on this member."""
        request = decode(CompactionRequest, body)
        caller = self._access.known(call)
        response = cast(CompactionResponse, await self._backend.propose(InternalRequest(compaction=request), caller))
        if request.physical:
            await self._backend.scrub()
        self._backend.fill(response.header)
        return response.SerializeToString()
