"""The direct ways of puts, transactions and ranges: the same as in ``kv``, without a task for each call.

Whatever is out of the ordinary (users are enabled, the quota is reached, no leader took the request) goes the
handler's way instead, which knows how to wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from google.protobuf.message import Message

from proto.etcd.rpc_pb2 import PutRequest, RangeRequest, TxnRequest
from proto.raft.command_pb2 import InternalRequest
from store.api.backend import Backend, decode
from store.api.errors import Code, EtcdError, Failure, of_refusal
from store.api.table import Call, Reply
from store.mvcc import txn
from store.mvcc.encoding import block, scalar, tag
from store.mvcc.store import RangeResult
from store.raft.contract import OutcomeUnknownError, ProposalError, RequestTooLargeError, TooManyRequestsError
from store.refusal import Refused

log = logging.getLogger(__name__)

_FIELDS = InternalRequest.DESCRIPTOR.fields_by_name
_PUT = tag(_FIELDS["put"].number, 2)
_TXN = tag(_FIELDS["txn"].number, 2)
_HEADER = tag(1, 2)
_RANGE_KV = tag(2, 2)
_RANGE_MORE = tag(3, 0)
_RANGE_COUNT = tag(4, 0)


class DirectKV:
    """Hot methods of the key space."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._auth = backend.machine.auth

    def put(self, body: bytes, call: Call, reply: Reply) -> None:
        """Set one key."""
        request = decode(PutRequest, body)
        try:
            txn.check_put(request)
        except Refused as refused:
            raise of_refusal(refused) from refused
        if self._auth.enabled or not self._backend.has_room(len(request.key) + len(request.value)):
            reply.wait()
        else:
            # What the client sent is what goes into the log, byte for byte.
            self._propose(block(_PUT, body), reply)

    def txn(self, body: bytes, call: Call, reply: Reply) -> None:
        """Compare, then do one thing or another; what only reads does not go through the log."""
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
        """Read keys, as of now or of a revision."""
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
                failure = _failure(error)
                if failure is None:
                    reply.wait()
                else:
                    reply.refuse(failure)
            elif isinstance(result, Message):
                self._backend.fill(result.header)  # type: ignore[attr-defined] # each response has one
                reply.send(result.SerializeToString())
            else:
                reply.refuse(_refusal(result))

        backend.consensus.submit(payload, done)

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

    def _range(self, request: RangeRequest, reply: Reply) -> None:
        try:
            result = self._backend.machine.store.range(request)
        except Refused as refused:
            reply.refuse(of_refusal(refused))
        else:
            reply.send(encode_range(self._backend, result))


def encode_range(backend: Backend, result: RangeResult) -> bytes:
    """The response to a range, joined from finished records."""
    parts = [block(_HEADER, backend.header(result.revision).SerializeToString())]
    parts += [block(_RANGE_KV, record) for record in result.records]
    parts.append(scalar(_RANGE_MORE, result.more))
    parts.append(scalar(_RANGE_COUNT, result.count))
    return b"".join(parts)


def _refusal(result: object) -> EtcdError:
    if isinstance(result, Refused):
        return of_refusal(result)
    return EtcdError(Code.UNKNOWN, f"the state machine answered {result!r}")


def _failure(error: ProposalError) -> EtcdError | None:
    """What a client is told; None where the request had no effect and may be tried again."""
    if isinstance(error, RequestTooLargeError):
        return Failure.REQUEST_TOO_LARGE.error()
    if isinstance(error, TooManyRequestsError):
        return Failure.TOO_MANY_REQUESTS.error()
    if isinstance(error, OutcomeUnknownError):
        return Failure.TIMEOUT.error()
    return None
