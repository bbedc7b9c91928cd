"""The direct ways of puts, transactions and ranges: the same as in ``kv``, without a task for each call.

Whatever is out of the ordinary (users are enabled, the quota is reached, no leader took the request) goes the
handler's way instead, which knows how to wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import cast

from proto.etcd.rpc_pb2 import PutResponse, RangeRequest, TxnRequest, TxnResponse
from proto.raft.command_pb2 import InternalRequest
from store.api.backend import Backend, decode, error_of
from store.api.errors import Code, EtcdError, Failure, of_refusal
from store.api.table import Call, Reply
from store.mvcc import txn
from store.mvcc.encoding import block, plain_put, plain_put_request, plain_range, scalar, tag, varint
from store.mvcc.plain import GuardHeld, guarded_put
from store.mvcc.store import RangeResult
from store.raft.contract import ProposalError
from store.refusal import Refused

log = logging.getLogger(__name__)

_TXN = tag(InternalRequest.DESCRIPTOR.fields_by_name["txn"].number, 2)
_RANGE_KV = tag(2, 2)
_RANGE_MORE = tag(3, 0)
_RANGE_COUNT = tag(4, 0)
_COUNT_ONE = scalar(_RANGE_COUNT, 1)


_SUCCEEDED = scalar(tag(2, 0), 1)
_RESPONSE = tag(3, 2)
_RESPONSE_PUT = tag(2, 2)
_HEADER = tag(1, 2)
_REVISION = tag(3, 0)


class DirectKV:
    """Hot methods of the key space."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._auth = backend.machine.auth

    def put(self, body: bytes, call: Call, reply: Reply) -> None:
        """Set one key, where that is all the request says: its bytes go into the log as they are."""
        if plain_put(body, 0) is None or self._auth.enabled or not self._backend.has_room(len(body)):
            reply.wait()
        else:
            self._propose(plain_put_request(body), reply)

    def txn(self, body: bytes, call: Call, reply: Reply) -> None:
        """Compare, then do one thing or another; what only reads does not go through the log."""
        if guarded_put(body) is not None:
            if self._auth.enabled or not self._backend.has_room(len(body)):
                reply.wait()
            else:
                self._propose(block(_TXN, body), reply)
            return
        request = decode(TxnRequest, body)
        try:
            txn.check_txn(request, self._backend.limits.transaction_operations_max)
        except Refused as refused:
            raise of_refusal(refused) from refused
        if self._auth.enabled:
            reply.wait()
        elif txn.is_read_only(request):
            if txn.is_serializable(request):
                self._read_txn(request, reply)
            else:
                self._when_confirmed(reply, lambda: self._read_txn(request, reply))
        elif txn.grows(request) and not self._backend.has_room(len(body)):
            reply.wait()
        else:
            self._propose(block(_TXN, body), reply)

    def range(self, body: bytes, call: Call, reply: Reply) -> None:
        """Read keys, as of now or of a revision; one key as of now without a message being built."""
        plain = plain_range(body)
        if plain is not None and not self._auth.enabled:
            key, is_serializable = plain
            if is_serializable:
                self._get(key, reply)
            else:
                self._when_confirmed(reply, lambda: self._get(key, reply))
            return
        request = decode(RangeRequest, body)
        try:
            txn.check_range(request)
        except Refused as refused:
            raise of_refusal(refused) from refused
        if self._auth.enabled:
            reply.wait()
        elif request.serializable:
            self._range(request, reply)
        else:
            self._when_confirmed(reply, lambda: self._range(request, reply))

    def _propose(self, payload: bytes, reply: Reply) -> None:
        backend = self._backend
        if len(payload) > backend.limits.request_bytes_max:
            raise Failure.REQUEST_TOO_LARGE.error()

        def done(result: object, error: ProposalError | None) -> None:
            if error is not None:
                reply.refuse(error_of(error))
            elif isinstance(result, int):
                reply.send(backend.encoded_header(result))
            elif isinstance(result, GuardHeld):
                reply.send(backend.encoded_header(result.revision) + _guard_held(result.revision))
            elif isinstance(result, Refused):
                reply.refuse(of_refusal(result))
            else:
                response = cast(PutResponse | TxnResponse, result)
                backend.fill(response.header)
                reply.send(response.SerializeToString())

        try:
            backend.consensus.propose_direct(payload, done)
        except ProposalError:
            reply.wait()

    def _when_confirmed(self, reply: Reply, read: Callable[[], None]) -> None:
        """Read once this member has applied all that was acknowledged before."""

        def done(index: int | None) -> None:
            # Users may have been enabled since.
            if index is None or self._auth.enabled:
                reply.wait()
                return
            try:
                read()
            except Exception as error:
                # Consensus calls, which a defect in reading must not end.
                log.exception("read failed")
                reply.refuse(EtcdError(Code.UNKNOWN, f"{type(error).__name__}: {error}"))

        self._backend.consensus.when_read_index(done)

    def _read_txn(self, request: TxnRequest, reply: Reply) -> None:
        try:
            response = self._backend.machine.read_txn(request)
        except Refused as refused:
            reply.refuse(of_refusal(refused))
        else:
            self._backend.fill(response.header)
            reply.send(response.SerializeToString())

    def _get(self, key: bytes, reply: Reply) -> None:
        store = self._backend.machine.store
        record = store.get(key)
        header = self._backend.encoded_header(store.current_revision)
        reply.send(header if record is None else b"".join((header, _RANGE_KV, varint(len(record)), record, _COUNT_ONE)))

    def _range(self, request: RangeRequest, reply: Reply) -> None:
        try:
            result = self._backend.machine.store.range(request)
        except Refused as refused:
            reply.refuse(of_refusal(refused))
        else:
            reply.send(encode_range(self._backend, result))


def _guard_held(revision: int) -> bytes:
    """What follows the header in the answer to a transaction that has made one put."""
    put = block(_HEADER, scalar(_REVISION, revision))
    return _SUCCEEDED + block(_RESPONSE, block(_RESPONSE_PUT, put))


def encode_range(backend: Backend, result: RangeResult) -> bytes:
    """The response to a range, joined from finished records."""
    parts = [backend.encoded_header(result.revision)]
    parts += [block(_RANGE_KV, record) for record in result.records]
    parts.append(scalar(_RANGE_MORE, result.more))
    parts.append(scalar(_RANGE_COUNT, result.count))
    return b"".join(parts)
