"""Short forms of requests to the state machine."""

from __future__ import annotations

from typing import Any

from proto.etcd.rpc_pb2 import (
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from proto.raft.command_pb2 import InternalRequest
from store.machine import Machine
from store.refusal import Refused


def put(key: bytes, value: bytes = b"", **options: Any) -> InternalRequest:
    return InternalRequest(put=PutRequest(key=key, value=value, **options))


def delete_range(key: bytes, range_end: bytes = b"", **options: Any) -> InternalRequest:
    return InternalRequest(delete_range=DeleteRangeRequest(key=key, range_end=range_end, **options))


def compact(revision: int) -> InternalRequest:
    return InternalRequest(compaction=CompactionRequest(revision=revision))


def grant(lease_id: int, ttl_s: int = 10) -> InternalRequest:
    return InternalRequest(lease_grant=LeaseGrantRequest(ID=lease_id, TTL=ttl_s))


def revoke(lease_id: int) -> InternalRequest:
    return InternalRequest(lease_revoke=LeaseRevokeRequest(ID=lease_id))


def txn(*compare: Compare, then: tuple[RequestOp, ...] = (), otherwise: tuple[RequestOp, ...] = ()) -> InternalRequest:
    return InternalRequest(txn=TxnRequest(compare=compare, success=then, failure=otherwise))


def op_put(key: bytes, value: bytes = b"", **options: Any) -> RequestOp:
    return RequestOp(request_put=PutRequest(key=key, value=value, **options))


def op_range(key: bytes, range_end: bytes = b"", **options: Any) -> RequestOp:
    return RequestOp(request_range=RangeRequest(key=key, range_end=range_end, **options))


def op_delete(key: bytes, range_end: bytes = b"", **options: Any) -> RequestOp:
    return RequestOp(request_delete_range=DeleteRangeRequest(key=key, range_end=range_end, **options))


def op_txn(*compare: Compare, then: tuple[RequestOp, ...] = (), otherwise: tuple[RequestOp, ...] = ()) -> RequestOp:
    return RequestOp(request_txn=TxnRequest(compare=compare, success=then, failure=otherwise))


def call(machine: Machine, request: InternalRequest) -> Any:
    """Apply a request and return its response; a refusal is raised."""
    result = machine.apply(1, 0, request.SerializeToString())
    if isinstance(result, Refused):
        raise result
    return result
